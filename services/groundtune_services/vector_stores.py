"""The knowledge bases in the shape of OpenAI's vector stores."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import psycopg
from fastapi import APIRouter
from psycopg_pool import PoolTimeout
from pydantic import BaseModel, Field

from groundtune.retrieval.corpus import Pool
from groundtune.retrieval.filters import Filter
from groundtune.retrieval.search import Hit, Options
from groundtune.serving import KnowledgeTarget
from groundtune_services.errors import ApiError
from groundtune_services.knowledge import Knowledge, SearchError

_LIST_SECONDS = 2.0


class RankingOptions(BaseModel):
    """The threshold takes the place of the knowledge base's `minScore`; the ranker is its own."""

    ranker: str | None = None
    score_threshold: float | None = Field(None, ge=0, le=1)


class SearchRequest(BaseModel):
    """OpenAI's search request."""

    query: str | list[str] = Field(min_length=1)
    max_num_results: int = Field(10, ge=1, le=50)
    filters: Filter | None = None
    ranking_options: RankingOptions | None = None
    rewrite_query: bool = False


def result(hit: Hit) -> dict[str, Any]:
    """A passage in OpenAI's shape, with its span beside."""
    return {
        "file_id": hit.source,
        "filename": hit.source.rsplit("/", 1)[-1],
        "attributes": {**hit.attributes, "heading": hit.heading},
        "content": [{"type": "text", "text": hit.text}],
        **hit.as_json(),
    }


def router(knowledge: Knowledge, pool: Pool) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1/vector_stores")

    def target_of(name: str) -> KnowledgeTarget:
        target = knowledge.targets.get(name)
        if target is None:
            known = ", ".join(knowledge.targets) or "none"
            raise ApiError(
                404,
                f"No vector store `{name}`: the knowledge bases here are: {known}.",
                code="vector_store_not_found",
                param="vector_store_id",
            )
        return target

    @routes.get("")
    async def list_stores() -> dict[str, Any]:
        stores = await _stores(pool, list(knowledge.targets.values()))
        ids = [store["id"] for store in stores]
        return {
            "object": "list",
            "data": stores,
            "first_id": ids[0] if ids else None,
            "last_id": ids[-1] if ids else None,
            "has_more": False,
        }

    @routes.get("/{name}")
    async def store(name: str) -> dict[str, Any]:
        (found,) = await _stores(pool, [target_of(name)])
        return found

    @routes.post("/{name}/search")
    async def search_store(name: str, body: SearchRequest) -> dict[str, Any]:
        target = target_of(name)
        queries = [body.query] if isinstance(body.query, str) else body.query
        try:
            threshold = body.ranking_options.score_threshold if body.ranking_options else None
            options = Options(body.max_num_results, threshold, body.filters)
            found = await knowledge.find(target, " ".join(queries), options)
        except SearchError as error:
            raise ApiError(503, f"vector store {name}: {error}") from error
        return {
            "object": "vector_store.search_results.page",
            "search_query": queries,
            "data": [result(hit) for hit in found.hits],
            "has_more": False,
            "next_page": None,
        }

    return routes


async def _stores(pool: Pool, targets: Sequence[KnowledgeTarget]) -> list[dict[str, Any]]:
    try:
        async with asyncio.timeout(_LIST_SECONDS), pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT k.uid, extract(epoch FROM k.created_at)::bigint, v.version, v.documents, v.chunks, "
                "extract(epoch FROM v.finished_at)::bigint FROM groundtune.knowledge_bases k "
                "LEFT JOIN groundtune.corpus_versions v ON v.kb_uid = k.uid AND v.version = k.live_version "
                "WHERE k.uid = ANY(%s)",
                ([target.uid for target in targets],),
            )
            rows = {row[0]: row[1:] for row in await cursor.fetchall()}
    except (psycopg.Error, PoolTimeout, TimeoutError, OSError) as error:
        raise ApiError(503, "the database is away: vector stores can't be listed now") from error
    return [_store(target, rows.get(target.uid, (0, None, 0, 0, None))) for target in targets]


def _store(target: KnowledgeTarget, row: Sequence[Any]) -> dict[str, Any]:
    created, version, documents, chunks, finished = row
    return {
        "id": target.name,
        "object": "vector_store",
        "name": target.name,
        "created_at": created,
        "last_active_at": finished,
        "usage_bytes": 0,
        "status": "in_progress" if version is None else "completed",
        "file_counts": {
            "in_progress": 0,
            "completed": documents or 0,
            "failed": 0,
            "cancelled": 0,
            "total": documents or 0,
        },
        "metadata": {"version": str(version or ""), "chunks": str(chunks or 0), "mode": target.mode},
    }
