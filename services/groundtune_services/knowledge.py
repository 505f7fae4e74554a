"""The knowledge bases of one replica: searched by the code and settings that evaluated them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from groundtune.api.knowledge_base import Embedding
from groundtune.embedding import Embedder, Vectors
from groundtune.errors import GroundtuneError
from groundtune.retrieval.search import Corpus, Hit, embedding_of, live_corpus, search
from groundtune.serving import KnowledgeReadiness, KnowledgeTarget

_log = logging.getLogger(__name__)

Pool = AsyncConnectionPool[AsyncConnection[tuple[object, ...]]]

#: While the database is away, one request in so many seconds finds out; the others do not wait for it.
_RETRY_SECONDS = 1.0


class SearchError(Exception):
    """A knowledge base that can't be searched now, and why."""


@dataclass(frozen=True)
class Found:
    """Passages of one knowledge base, best first; `version` None: none is live."""

    version: int | None
    hits: Sequence[Hit]


@dataclass(frozen=True)
class Retrieved:
    """Passages for a question from all knowledge bases that ground answers."""

    hits: Sequence[Hit]
    corpora: Mapping[str, int]
    milliseconds: float
    degraded: bool


def interleave(results: Sequence[Sequence[Hit]]) -> list[Hit]:
    """By rank, taking turns: scores of different knowledge bases can't be compared."""
    longest = max((len(hits) for hits in results), default=0)
    return [hits[rank] for rank in range(longest) for hits in results if rank < len(hits)]


def searchable(question: str) -> str:
    """The question without what neither Postgres nor a tokenizer takes."""
    return question.replace("\0", " ").encode("utf-8", "replace").decode("utf-8")


class Knowledge:
    """Searches the declared knowledge bases; which version is live is read at each search."""

    def __init__(self, pool: Pool, models: Path, timeout: float) -> None:
        """`timeout` bounds a search, in seconds."""
        self._pool = pool
        self._models = models
        self._timeout = timeout
        self._targets: dict[str, KnowledgeTarget] = {}
        self._spaces: dict[int, Embedding] = {}
        self._embedders: dict[Embedding, asyncio.Future[Embedder]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embedding")
        self._retry_at = 0.0

    def declare(self, targets: Sequence[KnowledgeTarget]) -> None:
        """What to search from now on; models are loaded in the background."""
        self._targets = {target.name: target for target in targets}
        for target in targets:
            self._embedder(target.embedding)

    @property
    def targets(self) -> Mapping[str, KnowledgeTarget]:
        return self._targets

    @property
    def grounding(self) -> list[KnowledgeTarget]:
        """Those that ground every answer."""
        return [target for target in self._targets.values() if target.mode == "always"]

    async def retrieve(self, question: str) -> Retrieved:
        """Passages for a prompt. Never raises for a part that is away: it says `degraded`."""
        started = time.monotonic()
        targets = self.grounding
        results = await asyncio.gather(
            *(self.find(target, question) for target in targets), return_exceptions=True
        )
        corpora: dict[str, int] = {}
        lists: list[Sequence[Hit]] = []
        degraded = False
        for target, result in zip(targets, results, strict=True):
            if isinstance(result, SearchError):
                degraded = True
            elif isinstance(result, BaseException):
                raise result
            elif result.version is None:
                degraded = True
            else:
                corpora[target.name] = result.version
                lists.append(result.hits)
        return Retrieved(interleave(lists), corpora, (time.monotonic() - started) * 1000, degraded)

    async def find(self, target: KnowledgeTarget, question: str, top_k: int | None = None) -> Found:
        """Search one knowledge base.

        Raises:
            SearchError: the database or the embedding model is away, or took too long.
        """
        now = time.monotonic()
        if now < self._retry_at:
            raise SearchError("the database is away")
        if self._retry_at:
            self._retry_at = now + _RETRY_SECONDS
        try:
            async with asyncio.timeout(self._timeout):
                found = await self._find(target, searchable(question), top_k)
        except GroundtuneError as error:
            raise SearchError(str(error)) from error
        except psycopg.DataError as error:
            raise SearchError(f"the corpus can't be searched: {error}") from error
        except (psycopg.Error, PoolTimeout, TimeoutError, OSError) as error:
            if isinstance(error, TimeoutError) and not self._embedder(target.embedding).done():
                raise SearchError("the embedding model is still being loaded") from error
            self._retry_at = time.monotonic() + _RETRY_SECONDS
            reason = str(error) or f"no answer within {self._timeout:g} s"
            raise SearchError(f"the database is away: {reason}") from error
        self._retry_at = 0.0
        return found

    async def probe(self) -> list[KnowledgeReadiness]:
        """Search each knowledge base once, for real."""
        return list(await asyncio.gather(*(self._probe(target) for target in self._targets.values())))

    async def settled(self) -> None:
        """Wait until the embedding models of what is declared are loaded, or have failed to load."""
        await asyncio.gather(
            *(asyncio.shield(self._embedder(target.embedding)) for target in self._targets.values()),
            return_exceptions=True,
        )

    async def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _probe(self, target: KnowledgeTarget) -> KnowledgeReadiness:
        try:
            found = await self.find(target, "readiness", top_k=1)
        except SearchError as error:
            return KnowledgeReadiness(name=target.name, version=None, message=str(error))
        message = "" if found.version is not None else "no version is live yet"
        return KnowledgeReadiness(name=target.name, version=found.version, message=message)

    async def _find(self, target: KnowledgeTarget, question: str, top_k: int | None) -> Found:
        async with self._pool.connection() as connection:
            corpus = await live_corpus(connection, target.uid)
            if corpus is None:
                return Found(None, [])
            embedding = await self._embedding_of(connection, corpus)
        # No connection is held meanwhile: there are fewer of them than questions under load.
        vector = await self._vector(embedding, question)
        async with self._pool.connection() as connection:
            return Found(
                corpus.version, await search(connection, corpus, question, vector, target.retrieval, top_k)
            )

    async def _embedding_of(
        self, connection: AsyncConnection[tuple[object, ...]], corpus: Corpus
    ) -> Embedding:
        """What the space was made with: after a go-live, that may be ahead of what was declared."""
        known = self._spaces.get(corpus.space_id)
        if known is None:
            known = self._spaces[corpus.space_id] = await embedding_of(connection, corpus)
        return known

    async def _vector(self, embedding: Embedding, question: str) -> Vectors:
        embedder = await asyncio.shield(self._embedder(embedding))
        return await asyncio.get_running_loop().run_in_executor(self._thread, embedder.query, question)

    def _embedder(self, embedding: Embedding) -> asyncio.Future[Embedder]:
        """The model, loaded once; one that failed is tried again."""
        known = self._embedders.get(embedding)
        if known is None or (known.done() and known.exception() is not None):
            known = asyncio.get_running_loop().run_in_executor(
                self._thread, Embedder, embedding, self._models
            )
            known.add_done_callback(_report)
            self._embedders[embedding] = known
        return known


def _report(loading: asyncio.Future[Embedder]) -> None:
    if not loading.cancelled() and (error := loading.exception()) is not None:
        _log.warning("embedding model does not load: %s", error)
