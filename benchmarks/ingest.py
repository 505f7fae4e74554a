"""From documents on disk to searchable: LangChain, LlamaIndex and a refresh of ours. `make bench-ingest`."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks import corpus, peer, stack
from benchmarks.recall_of import Passage, mean_recall
from benchmarks.report import report
from groundtune.api.knowledge_base import Embedding
from groundtune.embedding import Embedder
from groundtune.settings import settings

_MAX_TOKENS = 200
_TOP_K = 5


def main() -> None:
    questions = corpus.evaluation_questions()
    asked = [question.text for question in questions]
    with stack.running() as platform:
        corpus.write(corpus.library_documents() | corpus.evaluation_documents(), platform.volumes / "docs")
        corpus.write({"warm.md": "A text to load the model with."}, platform.volumes / "warm")
        told = {
            "folder": str(platform.volumes / "docs"),
            "maxTokens": _MAX_TOKENS,
            "topK": _TOP_K,
            "model": peer.model_folder(),
            "questions": asked,
        }
        theirs: dict[str, Any] = {
            "LangChain": peer.run("langchain_ingest", database=platform.database("langchain"), **told),
            "LlamaIndex": peer.run("llamaindex_ingest", database=platform.database("llamaindex"), **told),
        }
        stack.knowledge_base(platform, "warm").refresh()
        ours = stack.knowledge_base(platform, "docs", chunking={"maxTokens": _MAX_TOKENS})
        seconds = ours.refresh()
        chunks = ours.last_run()["embeddedChunks"]
        found = ours.ask(asked, _TOP_K)

    rates = {name: one["chunks"] / one["seconds"] for name, one in theirs.items()}
    rates["Groundtune"] = chunks / seconds
    counts = {name: one["chunks"] for name, one in theirs.items()} | {"Groundtune": chunks}
    taken = {name: one["seconds"] for name, one in theirs.items()} | {"Groundtune": seconds}
    passages: dict[str, list[list[Passage]]] = {
        name: [[(source, start, start + length) for source, start, length in hits] for hits in one["found"]]
        for name, one in theirs.items()
    }
    passages["Groundtune"] = [
        [(hit.source.rsplit("/", 1)[-1], hit.start, hit.end) for hit in hits] for hits in found
    ]
    recalls = {name: mean_recall(questions, found) if questions else 0.0 for name, found in passages.items()}
    cosine = _agreement(theirs["LangChain"]["sample"], theirs["LangChain"]["vectors"])
    figures = {"mean_cosine": cosine}
    for name in rates:
        figures |= {
            f"{name.lower()}_chunks_per_s": rates[name],
            f"{name.lower()}_recall": recalls[name],
        }
    report(
        "ingest",
        f"Documents to searchable, chunks of at most {_MAX_TOKENS} tokens, all-MiniLM-L6-v2",
        ["", "chunks", "seconds", "chunks/s", f"recall, {_TOP_K} passages"],
        [
            [name, str(counts[name]), f"{taken[name]:.1f}", f"{rates[name]:.1f}", f"{recalls[name]:.3f}"]
            for name in rates
        ],
        figures,
        {
            # chunks are not of the same size everywhere; the documents are
            "documents": min(taken["LangChain"], taken["LlamaIndex"]) / taken["Groundtune"],
            "chunks_per_s": rates["Groundtune"] / max(rates["LangChain"], rates["LlamaIndex"]),
            "recall": recalls["Groundtune"] / max(recalls["LangChain"], recalls["LlamaIndex"])
            if questions
            else 1.0,
        },
    )


def _agreement(texts: list[str], vectors: list[list[float]]) -> float:
    """Mean cosine of our vectors of the texts with theirs."""
    ours = Embedder(Embedding(), settings().models).documents(texts)
    return float(np.mean(np.sum(ours * np.asarray(vectors, dtype=np.float32), axis=1)))


if __name__ == "__main__":
    main()
