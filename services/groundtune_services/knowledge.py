"""The knowledge bases of one replica: searched by the code and settings that evaluated them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import psycopg
from psycopg_pool import PoolTimeout

from groundtune.api.knowledge_base import Embedding, Reranker
from groundtune.embedding import CrossEncoder, Embedder, Vectors
from groundtune.errors import GroundtuneError
from groundtune.retrieval.corpus import Pool, live_corpus
from groundtune.retrieval.search import NO_OPTIONS, Hit, Options, Query, ask
from groundtune.serving import KnowledgeReadiness, KnowledgeTarget

_Key = TypeVar("_Key")
_Model = TypeVar("_Model")

_log = logging.getLogger(__name__)

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
        self._embedders: dict[Embedding, asyncio.Future[Embedder]] = {}
        self._rerankers: dict[Reranker, asyncio.Future[CrossEncoder]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embedding")
        self._retry_at = 0.0

    def declare(self, targets: Sequence[KnowledgeTarget]) -> None:
        """What to search from now on; models are loaded in the background."""
        self._targets = {target.name: target for target in targets}
        for target in targets:
            self._models_of(target)

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

    async def find(
        self,
        target: KnowledgeTarget,
        question: str,
        options: Options = NO_OPTIONS,
    ) -> Found:
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
                found = await self._find(target, searchable(question), options)
        except GroundtuneError as error:
            raise SearchError(str(error)) from error
        except psycopg.DataError as error:
            raise SearchError(f"the corpus can't be searched: {error}") from error
        except (psycopg.Error, PoolTimeout, TimeoutError, OSError) as error:
            if isinstance(error, TimeoutError) and not all(each.done() for each in self._models_of(target)):
                raise SearchError("its models are still being loaded") from error
            self._retry_at = time.monotonic() + _RETRY_SECONDS
            reason = str(error) or f"no answer within {self._timeout:g} s"
            raise SearchError(f"the database is away: {reason}") from error
        self._retry_at = 0.0
        return found

    async def probe(self) -> list[KnowledgeReadiness]:
        """Search each knowledge base once, for real."""
        return list(await asyncio.gather(*(self._probe(target) for target in self._targets.values())))

    async def settled(self) -> None:
        """Wait until the models of what is declared are loaded, or have failed to load."""
        models = [each for target in self._targets.values() for each in self._models_of(target)]
        await asyncio.gather(*map(asyncio.shield, models), return_exceptions=True)

    async def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _probe(self, target: KnowledgeTarget) -> KnowledgeReadiness:
        try:
            found = await self.find(target, "readiness", Options(top_k=1, min_score=0.0))
        except SearchError as error:
            return KnowledgeReadiness(name=target.name, version=None, message=str(error))
        message = "" if found.version is not None else "no version is live yet"
        return KnowledgeReadiness(name=target.name, version=found.version, message=message)

    async def _find(self, target: KnowledgeTarget, question: str, options: Options) -> Found:
        async with self._pool.connection() as connection:
            live = await live_corpus(connection, target.uid)
        if live is None:
            return Found(None, [])
        corpus, embedding = live
        query = Query(corpus, question, target.retrieval, options)
        rerank = None
        if target.retrieval.reranker is not None:
            rerank = (await asyncio.shield(self._reranker(target.retrieval.reranker))).rerank
        return Found(corpus.version, await ask(self._pool, query, self._vector(embedding, question), rerank))

    async def _vector(self, embedding: Embedding, question: str) -> Vectors:
        embedder = await asyncio.shield(self._embedder(embedding))
        # a model here computes one question at a time; an endpoint is waited for
        thread = self._thread if embedding.endpoint is None else None
        return await asyncio.get_running_loop().run_in_executor(thread, embedder.query, question)

    def _models_of(self, target: KnowledgeTarget) -> list[asyncio.Future[Any]]:
        reranker = target.retrieval.reranker
        more = [] if reranker is None else [self._reranker(reranker)]
        return [self._embedder(target.embedding), *more]

    def _embedder(self, embedding: Embedding) -> asyncio.Future[Embedder]:
        load = partial(Embedder, embedding, self._models, patient=False)
        return self._loaded(self._embedders, embedding, load)

    def _reranker(self, reranker: Reranker) -> asyncio.Future[CrossEncoder]:
        return self._loaded(self._rerankers, reranker, partial(CrossEncoder, reranker, self._models))

    def _loaded(
        self, models: dict[_Key, asyncio.Future[_Model]], key: _Key, load: Callable[[], _Model]
    ) -> asyncio.Future[_Model]:
        """The model, loaded once; one that failed is tried again."""
        known = models.get(key)
        if known is None or (known.done() and known.exception() is not None):
            known = asyncio.get_running_loop().run_in_executor(self._thread, load)
            known.add_done_callback(_report)
            models[key] = known
        return known


def _report(loading: asyncio.Future[Any]) -> None:
    if not loading.cancelled() and (error := loading.exception()) is not None:
        _log.warning("a knowledge base's model does not load: %s", error)
