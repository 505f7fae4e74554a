"""From files to stored, embedded chunks: read and cut, embed, and load run side by side, batch by batch.

Every batch is one transaction, so a run that is killed loses one batch of work at most.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import Engine

from groundtune.api import KnowledgeBaseSpec
from groundtune.registry import contents, corpora
from groundtune_flows.chunking import CHUNKER, Chunk, Limits, Tokenize, chunk_text
from groundtune_flows.formats import Text, parse
from groundtune_flows.formats.attributes import Attributes, attributes
from groundtune_flows.formats.isolated import Converter
from groundtune_flows.prefetch import prefetch
from groundtune_flows.reading import Reading, read_ahead
from groundtune_flows.sources.found import Found, GoneFile, UnreadableFile

if TYPE_CHECKING:
    from groundtune.embedding import Embedder

#: Chunks that a batch has before it is embedded and stored; a killed run loses no more than such a batch.
_BATCH_CHUNKS = 256
#: Files that are compared with what is stored in one query.
_GROUP_FILES = 256
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
class Discovered:
    """The documents of one source.

    Args:
        reached: one that was not keeps what is stored of it.
        attributes: of each of its documents.
    """

    key: str
    files: Sequence[Found]
    reached: bool = True
    attributes: Attributes = field(default_factory=dict)

    def mark(self, fingerprint: str | None) -> str | None:
        """The fingerprint of a document's content and its attributes together."""
        return fingerprint and self._prefix + fingerprint

    def unmarked(self, mark: str | None) -> str | None:
        """The content's alone, where the attributes are the same."""
        return mark.removeprefix(self._prefix) if mark and mark.startswith(self._prefix) else None

    @cached_property
    def _prefix(self) -> str:
        if not self.attributes:
            return ""
        return hashlib.sha256(_canonical(self.attributes)).hexdigest()[:16] + " "


@dataclass(frozen=True)
class _Document:
    uri: str
    content_hash: str
    fingerprint: str | None
    source: str
    attributes: Attributes
    parsed: Text
    chunks: list[Chunk]


@dataclass(frozen=True)
class _Step:
    """Files gone through, and those of their documents that have to be written."""

    files: int
    documents: Sequence[_Document]


@dataclass(frozen=True)
class _Embedded:
    files: int
    documents: list[contents.NewDocument]
    chunks: int
    tokens: int


def _canonical(attributes: Attributes) -> bytes:
    return json.dumps(attributes, sort_keys=True).encode()


def recipe(spec: KnowledgeBaseSpec) -> dict[str, Any]:
    """All that decides how a text ends up as vectors: a space is made for each."""
    return {
        "embedding": spec.embedding.model_dump(mode="json", by_alias=True, exclude_none=True),
        "chunking": spec.chunking.model_dump(mode="json", by_alias=True),
        "chunker": CHUNKER,
        "language": spec.index.language,
        "storage": spec.index.storage,
    }


def ingest(
    engine: Engine,
    target: Target,
    spec: KnowledgeBaseSpec,
    sources: Sequence[Discovered],
    embedder: Callable[[], Embedder],
    progress: Callable[[int, int], None],
    outcome: Ingested,
) -> None:
    """Bring the version in line with the sources.

    Args:
        embedder: gives the model; called only when there is something to cut and embed.
        progress: told the files done, and all.
        outcome: filled in on the way, so that a run that fails knows what it has used.
    """
    outcome.files = sum(len(each.files) for each in sources)

    def write(action: Callable[[Any], None]) -> None:
        with engine.begin() as connection:
            corpora.open_version(connection, target.kb_uid, target.space_id, target.version, target.run_id)
            action(connection)
        outcome.written = True

    done = 0
    gone: set[str] = set()
    steps = prefetch(_changed(engine, target, spec, sources, embedder, outcome, gone))
    for batch in prefetch(_embedded(engine, target, steps, embedder)):
        if batch.documents:
            documents = batch.documents
            write(lambda c: contents.replace_documents(c, target.space_id, target.version, documents))  # noqa: B023
        outcome.embedded_chunks += batch.chunks
        outcome.embedded_tokens += batch.tokens
        done += batch.files
        progress(done, outcome.files)
    found = [file.uri for each in sources for file in each.files if file.uri not in gone]
    kept = [each.key for each in sources if not each.reached]
    with engine.begin() as connection:
        missing = contents.missing_documents(connection, target.space_id, target.version, found, kept)
    if missing:
        write(lambda c: contents.close_documents(c, target.space_id, target.version, missing))


def _changed(
    engine: Engine,
    target: Target,
    spec: KnowledgeBaseSpec,
    sources: Sequence[Discovered],
    embedder: Callable[[], Embedder],
    outcome: Ingested,
    gone: set[str],
) -> Iterator[_Step]:
    """Documents that are new or differ from what is stored, cut into chunks, in batches."""
    cut: Callable[[Text], list[Chunk]] | None = None
    pending: list[_Document] = []
    passed = 0
    with Converter() as convert:
        for source, group in _groups(sources):
            with engine.connect() as connection:
                stored = contents.visible_documents(
                    connection, target.space_id, target.version, [file.uri for file in group]
                )
            seen: list[contents.Seen] = []
            known = {uri: source.unmarked(each.fingerprint) for uri, each in stored.items()}
            for file, reading in read_ahead(group, known):
                passed += 1
                result = _taken(file, reading, stored.get(file.uri), source, convert, outcome, gone)
                if isinstance(result, contents.Seen):
                    seen.append(result)
                if not isinstance(result, _Document):
                    continue
                if cut is None:
                    cut = cutter(spec, embedder())
                pending.append(replace(result, chunks=cut(result.parsed)))
                if sum(len(each.chunks) for each in pending) >= _BATCH_CHUNKS:
                    yield _Step(passed, pending)
                    pending, passed = [], 0
            if seen:
                with engine.begin() as connection:
                    contents.note_seen(connection, target.space_id, target.version, seen)
            if not pending:
                yield _Step(passed, [])
                passed = 0
    yield _Step(passed, pending)


def _taken(
    file: Found,
    reading: Reading,
    known: contents.StoredDocument | None,
    source: Discovered,
    convert: Converter,
    outcome: Ingested,
    gone: set[str],
) -> _Document | contents.Seen | None:
    """The document if it is new or changed; what is now known of one that is not, if that is news.

    One that can't be taken in is counted.
    """
    try:
        if isinstance(reading, UnreadableFile):
            raise reading
        if reading is None:
            assert known is not None
            same = known.source == source.key
            return None if same else contents.Seen(file.uri, known.fingerprint, source.key)
        mark = source.mark(reading.fingerprint)
        given = {**source.attributes, **reading.attributes}
        content_hash = hashlib.sha256(
            reading.data + (b"\0" + _canonical(given) if given else b"")
        ).hexdigest()
        if known is not None and known.content_hash == content_hash:
            same = (mark, source.key) == (known.fingerprint, known.source)
            return None if same else contents.Seen(file.uri, mark, source.key)
        parsed = parse(file.name, reading, convert)
    except UnreadableFile as error:
        outcome.fail(file.uri, str(error))
        if isinstance(error, GoneFile):
            gone.add(file.uri)
        return None
    # first, so that of too many attributes those of the source are left out
    said = attributes({**parsed.attributes, **given, **parsed.attributes})
    return _Document(file.uri, content_hash, mark, source.key, said, parsed, [])


def _groups(sources: Sequence[Discovered]) -> Iterator[tuple[Discovered, Sequence[Found]]]:
    """Files of one source each."""
    for source in sources:
        for start in range(0, len(source.files), _GROUP_FILES):
            yield source, source.files[start : start + _GROUP_FILES]


def cutter(spec: KnowledgeBaseSpec, embedder: Embedder) -> Callable[[Text], list[Chunk]]:
    """Function of a text that gives its chunks, counted with the model's own tokenizer."""
    tokenize = _tokenizer(embedder)
    special = embedder.tokenizer.num_special_tokens_to_add(is_pair=False)
    window = embedder.max_tokens - special - len(tokenize(spec.embedding.document_prefix))
    limits = Limits(spec.chunking.max_tokens, spec.chunking.overlap_tokens, window)
    return lambda parsed: chunk_text(parsed.text, tokenize, limits, parsed.form, parsed.pages)


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
            vectors = contents.known_vectors(connection, target.space_id, keys)
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
            contents.NewDocument(
                document.uri,
                document.content_hash,
                document.parsed.text,
                [
                    contents.NewChunk(
                        c.start, c.end, c.tokens, c.heading, c.text, vectors[c.heading, c.text], c.page
                    )
                    for c in document.chunks
                ],
                document.fingerprint,
                document.source,
                document.attributes,
            )
            for document in step.documents
        ]
        yield _Embedded(step.files, documents, len(new), sum(chunk.tokens for chunk in new.values()))
