"""How much of what answers a question comes back, with default settings. `make bench-recall`.

The peer is what is commonly advised: recursive chunks of 200 tokens, embeddings and BM25 joined by reciprocal rank
fusion, five passages. Ours is a knowledge base with nothing but its source declared; passages are taken in their order
while they fit into 1,000 tokens. All corpora are in one base, as they would be.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks import corpus, peer, stack
from benchmarks.recall_of import Passage, mean_recall
from benchmarks.report import report
from groundtune.api.knowledge_base import Embedding
from groundtune.embedding import Embedder
from groundtune.retrieval.search import Hit
from groundtune.settings import settings

_CONTEXT_TOKENS = 1000
_PEER_TOKENS, _PEER_TOP_K = 200, 5


def main() -> None:
    documents, questions = corpus.evaluation_documents(), corpus.evaluation_questions()
    if not questions:
        sys.exit("GROUNDTUNE_DATASETS has to name a folder with chunking-eval")
    asked = [question.text for question in questions]
    with stack.running() as platform:
        corpus.write(documents, platform.volumes / "docs")
        theirs = peer.run(
            "langchain_recall",
            folder=str(platform.volumes / "docs"),
            maxTokens=_PEER_TOKENS,
            topK=_PEER_TOP_K,
            model=peer.model_folder(),
            questions=asked,
        )
        base = stack.knowledge_base(platform, "docs")
        base.refresh()
        hits = base.ask(asked)
    tokenizer = Embedder(Embedding(), settings().models).tokenizer

    def tokens(hit: Hit) -> int:
        return len(tokenizer.encode(hit.text, add_special_tokens=False).ids)

    ours = [_within(found, [tokens(hit) for hit in found]) for found in hits]
    found: dict[str, list[list[Passage]]] = {
        "vectors alone": _passages(theirs["vector"]),
        "vectors and BM25": _passages(theirs["fused"]),
        "Groundtune": ours,
    }
    rows, figures = [], {}
    for name, passages in found.items():
        by_corpus = {source: mean_recall(*_of(source, questions, passages)) for source in sorted(documents)}
        overall = mean_recall(questions, passages)
        figures[name.lower().replace(" ", "_")] = overall
        rows.append([name, f"{overall:.3f}", *(f"{value:.3f}" for value in by_corpus.values())])
    report(
        "recall",
        f"Recall of reference characters, {len(questions)} questions",
        ["", "all", *sorted(documents)],
        rows,
        figures,
        {"recall": figures["groundtune"] / figures["vectors_and_bm25"]},
    )


def _within(hits: Sequence[Hit], tokens: Sequence[int]) -> list[Passage]:
    taken: list[Passage] = []
    room = _CONTEXT_TOKENS
    for hit, cost in zip(hits, tokens, strict=True):
        room -= cost
        if room < 0:
            break  # as a prompt is filled
        taken.append((hit.source.rsplit("/", 1)[-1], hit.start, hit.end))
    return taken


def _passages(found: list[list[tuple[str, int, int]]]) -> list[list[Passage]]:
    return [[(source, start, start + length) for source, start, length in hits] for hits in found]


def _of(
    source: str, questions: Sequence[corpus.Question], passages: Sequence[list[Passage]]
) -> tuple[list[corpus.Question], list[list[Passage]]]:
    chosen = [
        (question, found)
        for question, found in zip(questions, passages, strict=True)
        if question.source == source
    ]
    return [question for question, _ in chosen], [found for _, found in chosen]


if __name__ == "__main__":
    main()
