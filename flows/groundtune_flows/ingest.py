"""From files to stored, embedded chunks: read and cut, embed, and load run side by side, batch by batch.

Every batch is one transaction, so a run that is killed loses one batch of work at most.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import Engine

from groundtune.api import KnowledgeBaseSpec
from groundtune.registry import corpora
from groundtune_flows.chunking import CHUNKER, Chunk, Limits, Tokenize, chunk_text
from groundtune_flows.prefetch import prefetch
from groundtune_flows.sources import FoundFile, UnreadableFile, decode

if TYPE_CHECKING:
    from groundtune.embedding import Embedder

#: Chunks that a batch has before it is embedded and stored; a killed run loses no more than such a batch.
_BATCH_CHUNKS = 256
#: Files, and bytes of them, that are compared with what is stored in one query.
_GROUP_FILES = 256
_GROUP_BYTES = 16_000_000
_MARKDOWN = (".md", ".markdown", ".mdx")
#: Failed documents that are named; the others are counted.
_NAMED_FAILURES = 20


@dataclass(frozen=True)
class Target:
    """Where it goes. `version` is only opened once there is something to write."""

    kb_uid: str
    space_id: int
    version: int
    run_id: UUID


@dataclass
class Ingested:
    """What a run did; `written` says whether the version was opened."""

    files: int = 0
    failed: int = 0
    failures: list[dict[str, str]] = field(default_factory=list)
    embedded_chunks: int = 0
    embedded_tokens: int = 0
    written: bool = False

    def fail(self, uri: str, reason: str) -> None:
        self.failed += 1
        if len(self.failures) < _NAMED_FAILURES:
            self.failures.append({"source": uri[-1024:], "reason": reason[:512]})


@dataclass(frozen=True)
class _Document:
    uri: str
    content_hash: str
    text: str
    chunks: list[Chunk]


@dataclass(frozen=True)
class _Step:
    """Files gone through, and those of their documents that have to be written."""

    files: int
    documents: Sequence[_Document]


@dataclass(frozen=True)
class _Embedded:
    files: int
    documents: list[corpora.NewDocument]
    chunks: int
    tokens: int


def recipe(spec: KnowledgeBaseSpec) -> dict[str, Any]:
    """All that decides how a text ends up as vectors: a space is made for each."""
    return {
        "embedding": spec.embedding.model_dump(mode="json", by_alias=True),
        "chunking": spec.chunking.model_dump(mode="json", by_alias=True),
        "chunker": CHUNKER,
        "language": spec.index.language,
    }


def ingest(
    engine: Engine,
    target: Target,
    spec: KnowledgeBaseSpec,
    files: Sequence[FoundFile],
    embedder: Callable[[], Embedder],
    progress: Callable[[int, int], None],
    outcome: Ingested,
) -> None:
    """Bring the version in line with the files.

    Args:
        embedder: gives the model; called only when there is something to cut and embed.
        progress: told the files done, and all.
        outcome: filled in on the way, so that a run that fails knows what it has used.
    """
    outcome.files = len(files)

    def write(action: Callable[[Any], None]) -> None:
        with engine.begin() as connection:
            corpora.open_version(connection, target.kb_uid, target.space_id, target.version, target.run_id)
            action(connection)
        outcome.written = True

    done = 0
    steps = prefetch(_changed(engine, target, spec, files, embedder, outcome))
    for batch in prefetch(_embedded(engine, target, steps, embedder)):
        if batch.documents:
            documents = batch.documents
            write(lambda c: corpora.replace_documents(c, target.space_id, target.version, documents))  # noqa: B023
        outcome.embedded_chunks += batch.chunks
        outcome.embedded_tokens += batch.tokens
        done += batch.files
        progress(done, len(files))
    with engine.begin() as connection:
        found = [file.uri for file in files]
        gone = corpora.missing_documents(connection, target.space_id, target.version, found)
    if gone:
        write(lambda c: corpora.close_documents(c, target.space_id, target.version, gone))


def _changed(
    engine: Engine,
    target: Target,
    spec: KnowledgeBaseSpec,
    files: Iterable[FoundFile],
    embedder: Callable[[], Embedder],
    outcome: Ingested,
) -> Iterator[_Step]:
    """Documents that are new or differ from what is stored, cut into chunks, in batches."""
    cut: Callable[[str, str], list[Chunk]] | None = None
    pending: list[_Document] = []
    passed = 0
    for group in _groups(files, outcome):
        uris = [file.uri for file, _ in group]
        with engine.connect() as connection:
            stored = corpora.visible_hashes(connection, target.space_id, target.version, uris)
        for file, data in group:
            passed += 1
            content_hash = hashlib.sha256(data).hexdigest()
            if not data or stored.get(file.uri) == content_hash:
                continue
            try:
                text = decode(data)
            except UnreadableFile as error:
                outcome.fail(file.uri, str(error))
                continue
            if cut is None:
                cut = cutter(spec, embedder())
            pending.append(_Document(file.uri, content_hash, text, cut(file.uri, text)))
            if sum(len(document.chunks) for document in pending) >= _BATCH_CHUNKS:
                yield _Step(passed, pending)
                pending, passed = [], 0
        if not pending:
            yield _Step(passed, [])
            passed = 0
    yield _Step(passed, pending)


def _groups(files: Iterable[FoundFile], outcome: Ingested) -> Iterator[list[tuple[FoundFile, bytes]]]:
    """Files with their bytes. One that can't be read is counted, and comes without any."""
    group: list[tuple[FoundFile, bytes]] = []
    size = 0
    for file in files:
        try:
            data = file.read()
            if not data:
                outcome.fail(file.uri, "is empty")
        except UnreadableFile as error:
            outcome.fail(file.uri, str(error))
            data = b""
        group.append((file, data))
        size += len(data)
        if len(group) >= _GROUP_FILES or size >= _GROUP_BYTES:
            yield group
            group, size = [], 0
    yield group


def cutter(spec: KnowledgeBaseSpec, embedder: Embedder) -> Callable[[str, str], list[Chunk]]:
    """Function of a document's URI and text that gives its chunks, counted with the model's own tokenizer."""
    tokenize = _tokenizer(embedder)
    special = embedder.tokenizer.num_special_tokens_to_add(is_pair=False)
    window = embedder.max_tokens - special - len(tokenize(spec.embedding.document_prefix))
    limits = Limits(spec.chunking.max_tokens, spec.chunking.overlap_tokens, window)
    return lambda uri, text: chunk_text(text, tokenize, limits, markdown=uri.lower().endswith(_MARKDOWN))


def _tokenizer(embedder: Embedder) -> Tokenize:
    own = embedder.tokenizer

    def tokenize(text: str) -> Sequence[tuple[int, int]]:
        offsets: list[tuple[int, int]] = own.encode(text, add_special_tokens=False).offsets
        return offsets

    return tokenize


def _embedded(
    engine: Engine, target: Target, steps: Iterable[_Step], embedder: Callable[[], Embedder]
) -> Iterator[_Embedded]:
    """With vectors: of the document's former or moved self where the chunk is the same, else of the model."""
    for step in steps:
        if not step.documents:
            yield _Embedded(step.files, [], 0, 0)
            continue
        with engine.connect() as connection:
            keys = [(document.uri, document.content_hash) for document in step.documents]
            vectors = corpora.known_vectors(connection, target.space_id, keys)
        new = {
            (chunk.heading, chunk.text): chunk
            for document in step.documents
            for chunk in document.chunks
            if (chunk.heading, chunk.text) not in vectors
        }
        if new:
            made = embedder().documents([chunk.embedded for chunk in new.values()])
            vectors.update(zip(new, made, strict=True))
        documents = [
            corpora.NewDocument(
                document.uri,
                document.content_hash,
                document.text,
                [
                    corpora.NewChunk(c.start, c.end, c.tokens, c.heading, c.text, vectors[c.heading, c.text])
                    for c in document.chunks
                ],
            )
            for document in step.documents
        ]
        yield _Embedded(step.files, documents, len(new), sum(chunk.tokens for chunk in new.values()))
