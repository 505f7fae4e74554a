"""Search of a live corpus: vector, full text, or both joined by reciprocal rank fusion.

Reciprocal rank fusion: a passage scores Σ 1 / (60 + rank) over the lists that hold it (Cormack, Clarke and
Büttcher, SIGIR 2009).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pgvector.psycopg import register_vector_async
from psycopg import AsyncConnection
from psycopg.rows import class_row
from psycopg_pool import AsyncConnectionPool

from groundtune.api.knowledge_base import Embedding, Retrieval
from groundtune.embedding import Vectors
from groundtune.registry.spaces import chunk_table, term_table, text_table

#: Raise it when the same settings would rank in another way, so that stored scores are measured anew.
RANKING = 2

_FUSION_K = 60
_CANDIDATES = 50
#: Passages that full-text search ranks.
_LEXICAL_POOL = 2000
#: The b of BM25.
_LENGTH_WEIGHT = 0.4


@dataclass(frozen=True)
class Hit:
    """A passage. `text` is exactly the document's text from `start` to `end` (characters); `page` is counted from 1."""

    source: str
    start: int
    end: int
    text: str
    heading: str
    score: float
    version: int
    page: int | None = None

    def as_json(self) -> dict[str, Any]:
        """The form that every search and every citation of Groundtune gives it."""
        found = {
            "source": self.source,
            "start": self.start,
            "end": self.end,
            "text": self.text,
            "score": self.score,
            "version": self.version,
        }
        return found if self.page is None else found | {"page": self.page}


@dataclass(frozen=True)
class Corpus:
    """One version of a corpus, and the space that holds it."""

    space_id: int
    version: int


def search_pool(url: str, size: int = 4) -> AsyncConnectionPool[AsyncConnection[tuple[object, ...]]]:
    """Connections for `search`; open it before use. A lost connection is replaced by itself."""
    return AsyncConnectionPool(
        url,
        min_size=1,
        max_size=size,
        open=False,
        reconnect_timeout=5,  # then each request tries anew, instead of waiting out a growing pause
        configure=_configure,
        check=AsyncConnectionPool.check_connection,
    )


async def _configure(connection: AsyncConnection[tuple[object, ...]]) -> None:
    await register_vector_async(connection)
    await connection.commit()


async def live_corpus(connection: AsyncConnection[tuple[object, ...]], kb_uid: str) -> Corpus | None:
    """What is live now, or None before the first version is."""
    cursor = await connection.execute(
        "SELECT v.space_id, v.version FROM groundtune.knowledge_bases k "
        "JOIN groundtune.corpus_versions v ON v.kb_uid = k.uid AND v.version = k.live_version WHERE k.uid = %s",
        (kb_uid,),
    )
    row = await cursor.fetchone()
    return None if row is None else Corpus(space_id=int(str(row[0])), version=int(str(row[1])))


async def embedding_of(connection: AsyncConnection[tuple[object, ...]], corpus: Corpus) -> Embedding:
    """The model that the corpus's vectors were made with, which may not be the one that is declared now.

    Raises:
        LookupError: there is no such space.
    """
    cursor = await connection.execute(
        "SELECT recipe -> 'embedding' FROM groundtune.spaces WHERE id = %s", (corpus.space_id,)
    )
    row = await cursor.fetchone()
    if row is None:
        raise LookupError(f"space {corpus.space_id} is not there")
    return Embedding.model_validate(row[0])


async def search(
    connection: AsyncConnection[tuple[object, ...]],
    corpus: Corpus,
    question: str,
    vector: Vectors,
    settings: Retrieval,
    top_k: int | None = None,
) -> list[Hit]:
    """The best passages of one version, best first, at most `top_k` (default: the settings').

    Args:
        vector: the question's embedding by the corpus's own model, shape (dimensions,).
    """
    limit = top_k or settings.top_k
    async with connection.transaction():
        await connection.execute(
            "SELECT set_config('hnsw.ef_search', %s, true), set_config('hnsw.iterative_scan', 'strict_order', true)",
            (str(settings.ef_search),),
        )
        async with connection.cursor(row_factory=class_row(Hit)) as cursor:
            await cursor.execute(
                _statement(corpus, settings.mode),
                {
                    "version": corpus.version,
                    "vector": vector,
                    "question": question,
                    "candidates": max(_CANDIDATES, limit),
                    "limit": limit,
                },
            )
            return await cursor.fetchall()


def _statement(corpus: Corpus, mode: str) -> str:
    table = chunk_table(corpus.space_id)
    visible = "valid_from <= %(version)s AND (valid_to IS NULL OR valid_to > %(version)s)"
    vector = f"""
        SELECT id, row_number() OVER (ORDER BY distance, id) AS rank, 1 - distance AS similarity FROM (
            SELECT id, embedding <=> %(vector)s AS distance FROM {table}
            WHERE {visible} ORDER BY embedding <=> %(vector)s LIMIT %(candidates)s
        ) nearest"""
    lexical = _lexical(corpus.space_id, visible)
    ranked = {
        "vector": f"SELECT id, similarity AS score FROM ({vector}) v",
        "lexical": f"SELECT id, similarity AS score FROM ({lexical}) l",
        "hybrid": f"SELECT id, sum(1.0 / ({_FUSION_K} + rank)) AS score "
        f"FROM (SELECT id, rank FROM ({vector}) v UNION ALL SELECT id, rank FROM ({lexical}) l) fused GROUP BY id",
    }[mode]
    return f"""
        SELECT d.uri AS source, c.start_offset AS start, c.end_offset AS end, c.text, c.heading,
            CAST(r.score AS double precision) AS score, CAST(%(version)s AS integer) AS version, c.page
        FROM (SELECT id, score FROM ({ranked}) s ORDER BY score DESC, id LIMIT %(limit)s) r
        JOIN {table} c USING (id) JOIN groundtune.documents d ON d.id = c.document_id
        ORDER BY r.score DESC, r.id"""


def _lexical(space_id: int, visible: str) -> str:
    """Passages by the words that they share with the question, rare words first.

    A passage scores the sum over the question's words of idf · tf / (1 - b + b · length / mean length). The weight of
    rare words and the length's are those of BM25 (Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25
    and Beyond", 2009); tf is what Postgres's ts_rank makes of n occurrences, 1 + 1/4 + … + 1/n², which saturates as
    theirs does. Only the rarest words bring passages in, up to so many passages, and at least one word: what has
    nothing but common words of the question would not rank anyway, and a question of common words stays cheap.
    """
    return f"""
        SELECT id, row_number() OVER (ORDER BY similarity DESC, id) AS rank, similarity FROM (
            WITH space AS MATERIALIZED (
                SELECT CAST(recipe ->> 'language' AS regconfig) AS language, texts,
                    lexemes / greatest(texts, 1.0) AS mean
                FROM groundtune.spaces WHERE id = {space_id:d}
            ), asked AS MATERIALIZED (
                SELECT CAST(quote_literal(lexeme) AS tsquery) AS query,
                    ln(1 + (greatest(s.texts, t.chunks) - t.chunks + 0.5) / (t.chunks + 0.5)) AS idf,
                    sum(t.chunks) OVER (ORDER BY t.chunks, lexeme) AS upto,
                    row_number() OVER (ORDER BY t.chunks, lexeme) AS place
                FROM space s, unnest(tsvector_to_array(to_tsvector(s.language, %(question)s))) AS lexeme
                JOIN {term_table(space_id)} t USING (lexeme) WHERE t.chunks > 0
            ), question AS MATERIALIZED (
                SELECT array_agg(query) AS queries, array_agg(idf) AS weights,
                    CAST(string_agg(CAST(query AS text), ' | ') FILTER (WHERE upto <= {_LEXICAL_POOL} OR place = 1)
                        AS tsquery) AS drivers
                FROM asked
            ), pool AS MATERIALIZED (
                SELECT t.chunk_id, t.search FROM question q, {text_table(space_id)} t
                WHERE t.search @@ q.drivers LIMIT {2 * _LEXICAL_POOL}
            )
            SELECT c.id, (
                SELECT sum(w.idf * ts_rank('{{1,1,1,1}}', p.search, w.query))
                FROM unnest(q.queries, q.weights) AS w (query, idf)
            ) / ({1 - _LENGTH_WEIGHT} + {_LENGTH_WEIGHT} * length(p.search) / s.mean) AS similarity
            FROM space s, question q, pool p JOIN {chunk_table(space_id)} c ON c.id = p.chunk_id
            WHERE {visible} ORDER BY similarity DESC, c.id LIMIT %(candidates)s
        ) matching"""
