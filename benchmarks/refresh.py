"""What a refresh costs when nothing has changed, and when one document of 1,000 has. `make bench-refresh`.

The peers are LangChain's indexing API and LlamaIndex's document store, which both tell what has changed. Each first
takes in the same documents, then refreshes without a change, then with one.
"""

from __future__ import annotations

import shutil
from itertools import islice
from typing import Any

from benchmarks import corpus, peer, stack
from benchmarks.report import report

_DOCUMENTS = 1000
_MAX_TOKENS = 200
_ADDITION = "\n\nThe hub blinks violet when its battery is low.\n"


def main() -> None:
    documents = dict(islice(corpus.pieces(corpus.library_documents()).items(), _DOCUMENTS))
    change = sorted(documents)[_DOCUMENTS // 2]
    with stack.running() as platform:
        for name in ("docs", "langchain", "llamaindex"):
            corpus.write(documents, platform.volumes / name)
        corpus.write({"warm.md": "A text to load the model with."}, platform.volumes / "warm")
        found: dict[str, dict[str, Any]] = {}
        for name in ("LangChain", "LlamaIndex"):
            found[name] = peer.run(
                f"{name.lower()}_refresh",
                folder=str(platform.volumes / name.lower()),
                database=platform.database(name.lower()),
                maxTokens=_MAX_TOKENS,
                model=peer.model_folder(),
                change=change,
                addition=_ADDITION,
            )
            shutil.rmtree(platform.volumes / name.lower())
        stack.knowledge_base(platform, "warm").refresh()
        ours = stack.knowledge_base(platform, "docs", chunking={"maxTokens": _MAX_TOKENS})
        first, unchanged = ours.refresh(), ours.refresh()
        embedded_unchanged = ours.last_run()["embeddedChunks"]
        edited = platform.volumes / "docs" / change
        edited.write_text(edited.read_text(encoding="utf-8") + _ADDITION, encoding="utf-8")
        one = ours.refresh()
        run = ours.last_run()
        assert (run["updated"], run["added"], run["removed"]) == (1, 0, 0), run
    found["Groundtune"] = {
        "first": first,
        "unchanged": unchanged,
        "one": one,
        "embedded": run["embeddedChunks"],
    }
    rows = [
        [
            name,
            f"{each['first']:.1f}",
            f"{each['unchanged']:.2f}",
            f"{each['one']:.2f}",
            str(each["embedded"]),
        ]
        for name, each in found.items()
    ]
    figures = {
        f"{name.lower()}_{what}_s": each[what]
        for name, each in found.items()
        for what in ("first", "unchanged", "one")
    }
    report(
        "refresh",
        f"{_DOCUMENTS} documents, seconds",
        ["", "first", "nothing changed", "one changed", "chunks embedded for it"],
        rows,
        figures | {"embedded_unchanged": embedded_unchanged, "embedded_one": run["embeddedChunks"]},
        {
            "unchanged": first / unchanged,
            "one_changed": min(found["LangChain"]["one"], found["LlamaIndex"]["one"]) / one,
        },
    )


if __name__ == "__main__":
    main()
