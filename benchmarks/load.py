"""Ready vectors into Postgres, without the embedding: rows, and rows with an HNSW index. `make bench-load`.

Ours is the refresh's own loading: documents and chunks by binary COPY, then the words for full-text search (which the
others don't have) and the index.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from benchmarks import corpus, peer, stack
from benchmarks.report import report
from groundtune.api import KnowledgeBaseSpec
from groundtune.registry import contents, corpora
from groundtune.registry.texts import index_texts
from groundtune.snapshots import KnowledgeBaseSnapshot

_ROWS, _DIMENSIONS = 100_000, 384
_CHUNKS_PER_DOCUMENT = 20
_BATCH_DOCUMENTS = 50
_PASSAGE = 400


def main() -> None:
    texts = passages(_ROWS)
    vectors = unit_vectors(_ROWS)
    with stack.database() as platform:
        np.save(platform.folder / "vectors.npy", vectors)
        (platform.folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
        told = {"vectors": str(platform.folder / "vectors.npy"), "texts": str(platform.folder / "texts.json")}
        seconds = {
            title: peer.run("load", peer=name, database=platform.database(name), **told)
            for title, name in (("LangChain", "langchain"), ("LlamaIndex", "llamaindex"))
        }
        mine = ours(platform, texts, vectors)
        seconds["Groundtune"] = {"loaded": mine.loaded, "indexed": mine.indexed}
    loaded = {name: _ROWS / one["loaded"] for name, one in seconds.items()}
    indexed = {name: _ROWS / one["indexed"] for name, one in seconds.items()}
    figures = {f"{name.lower()}_rows_per_s": rate for name, rate in loaded.items()}
    figures |= {f"{name.lower()}_indexed_rows_per_s": rate for name, rate in indexed.items()}
    report(
        "load",
        f"{_ROWS:,} vectors of {_DIMENSIONS} dimensions",
        ["", "rows/s", "seconds", "rows/s, indexed", "seconds, indexed"],
        [
            [
                name,
                f"{loaded[name]:,.0f}",
                f"{one['loaded']:.1f}",
                f"{indexed[name]:,.0f}",
                f"{one['indexed']:.1f}",
            ]
            for name, one in seconds.items()
        ],
        figures,
        {
            "rows_per_s": loaded["Groundtune"] / max(loaded["LangChain"], loaded["LlamaIndex"]),
            "indexed": indexed["Groundtune"] / max(indexed["LangChain"], indexed["LlamaIndex"]),
        },
    )


def passages(count: int) -> list[str]:
    """So many passages of real text, of about 400 characters."""
    whole = "\n\n".join(corpus.library_documents().values())
    step = max(1, (len(whole) - _PASSAGE) // count)
    return [whole[at : at + _PASSAGE] for at in range(0, step * count, step)]


def unit_vectors(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Vectors in clusters, as those of texts are; shape (count, 384). Clusters are the same for every seed."""
    centres = np.random.default_rng(0).normal(size=(1000, _DIMENSIONS))
    random = np.random.default_rng(seed + 1)
    made = centres[random.integers(0, len(centres), count)] + 0.7 * random.normal(size=(count, _DIMENSIONS))
    vectors: NDArray[np.float32] = (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)
    return vectors


@dataclass(frozen=True)
class Loaded:
    """A space that was filled; seconds until its rows were there, and until they were indexed."""

    space: int
    loaded: float
    indexed: float


def ours(platform: stack.Platform, texts: list[str], vectors: NDArray[np.float32]) -> Loaded:
    """Load the passages as a refresh does."""
    engine = stack.engine(platform)
    spec = KnowledgeBaseSpec.model_validate({"sources": [{"volume": {"claimName": "none"}}]})
    snapshot = KnowledgeBaseSnapshot(
        namespace="bench", name="base", uid=str(uuid4()), generation=1, spec=spec
    )
    with engine.begin() as connection:
        corpora.ensure_knowledge_base(connection, snapshot)
    began = time.perf_counter()
    with engine.begin() as connection:
        space = corpora.create_space(connection, snapshot.uid, {"language": "english"}, _DIMENSIONS)
        corpora.open_version(connection, snapshot.uid, space, 1, uuid4())
    step = _CHUNKS_PER_DOCUMENT * _BATCH_DOCUMENTS
    for first in range(0, len(texts), step):
        documents = [_document(at, texts, vectors) for at in range(first, first + step, _CHUNKS_PER_DOCUMENT)]
        with engine.begin() as connection:
            contents.replace_documents(connection, space, 1, documents)
    loaded = time.perf_counter() - began
    with engine.begin() as connection:
        index_texts(connection, space)
        corpora.ensure_vector_index(connection, space, spec.index.m, spec.index.ef_construction)
    indexed = time.perf_counter() - began
    engine.dispose()
    return Loaded(space, loaded, indexed)


def _document(at: int, texts: list[str], vectors: NDArray[np.float32]) -> contents.NewDocument:
    chunks, start = [], 0
    for row in range(at, at + _CHUNKS_PER_DOCUMENT):
        chunks.append(contents.NewChunk(start, start + len(texts[row]), 100, "", texts[row], vectors[row]))
        start += len(texts[row])
    return contents.NewDocument(f"bench://{at}", str(at), "".join(chunk.text for chunk in chunks), chunks)


if __name__ == "__main__":
    main()
