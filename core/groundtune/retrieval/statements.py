"""The SQL of a search. Every statement is bound by name; tables are named by numbers, and settings checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from groundtune.registry.spaces import chunk_table, distance, term_table, text_table
from groundtune.retrieval.corpus import Corpus

#: Passages that full-text search ranks.
_LEXICAL_POOL = 2000
#: Words of a question that are looked for; the rarest.
_MOST_WORDS = 32
#: The b of BM25.
_LENGTH_WEIGHT = 0.4
#: Passages that an index over bits brings, for each that is asked for; full vectors rank them.
_BIT_OVERSAMPLING = 6

_VISIBLE = "{0}.valid_from <= %(version)s AND ({0}.valid_to IS NULL OR {0}.valid_to > %(version)s)"


@dataclass(frozen=True)
class Wanted:
    """Which passages come into question, besides those of other versions.

    Args:
        condition: SQL on chunks `c`.
        few: they are so few that all of them are looked at. An index goes through passages in an order of its own, and
            finds few of few.
        values: what the condition is bound to.
    """

    condition: str = "true"
    few: bool = False
    values: Mapping[str, Any] = field(default_factory=dict)


def of_listed(documents: Sequence[int]) -> Wanted:
    """Passages of documents with these ids."""
    return Wanted("c.document_id = ANY(%(documents)s)", few=True, values={"documents": documents})


def of_documents(condition: str, values: Mapping[str, Any]) -> Wanted:
    """Passages of documents `d` that the condition takes."""
    exists = f"EXISTS (SELECT FROM groundtune.documents d WHERE d.id = c.document_id AND {condition})"
    return Wanted(exists, values=values)


def matching_documents(corpus: Corpus, condition: str, most: int) -> str:
    """Ids and passages of the documents that a filter takes, of `most` and one at most."""
    return f"""
        SELECT array_agg(id), coalesce(sum(chunks), 0) FROM (
            SELECT d.id, d.chunks FROM groundtune.documents d
            WHERE d.space_id = {corpus.space_id:d} AND {_VISIBLE.format("d")} AND {condition} LIMIT {most + 1:d}
        ) fitting"""


def nearest(corpus: Corpus, wanted: Wanted) -> str:
    """Ids and similarities of the passages next to a vector."""
    chosen = f"{_VISIBLE.format('c')} AND {wanted.condition}"
    exact = distance(corpus.dimensions, corpus.storage, "c.embedding", "%(vector)s")
    table = chunk_table(corpus.space_id)
    if wanted.few:
        # the addition keeps the index out of it
        return f"""
            SELECT c.id, 1 - ({exact}) AS similarity FROM {table} c WHERE {chosen}
            ORDER BY ({exact}) + 0, c.id LIMIT %(candidates)s"""
    by_index = distance(corpus.dimensions, corpus.storage, "c.embedding", "%(vector)s", indexed=True)
    return f"""
        SELECT id, 1 - distance AS similarity FROM (
            SELECT c.id, {exact} AS distance FROM {table} c WHERE {chosen}
            ORDER BY {by_index} LIMIT {oversampling(corpus)} * %(candidates)s
        ) near ORDER BY distance, id LIMIT %(candidates)s"""


def oversampling(corpus: Corpus) -> int:
    """Passages that the index brings, for each that is asked for."""
    return _BIT_OVERSAMPLING if corpus.storage == "bit" else 1


def words(corpus: Corpus) -> str:
    """The question's words that the corpus knows, rarest first.

    Each with its weight (idf, as in BM25), the passages that it and the rarer ones stand in at most, and the mean
    length of a passage.
    """
    return f"""
        SELECT quote_literal(lexeme),
            CAST(ln(1 + (greatest(s.texts, t.chunks) - t.chunks + 0.5) / (t.chunks + 0.5)) AS double precision),
            sum(t.chunks) OVER (ORDER BY t.chunks, lexeme),
            CAST(s.lexemes / greatest(s.texts, 1.0) AS double precision)
        FROM groundtune.spaces s
        CROSS JOIN unnest(tsvector_to_array(to_tsvector(CAST(s.recipe ->> 'language' AS regconfig), %(question)s)))
            AS lexeme
        JOIN {term_table(corpus.space_id)} t USING (lexeme)
        WHERE s.id = {corpus.space_id:d} AND t.chunks > 0
        ORDER BY t.chunks, lexeme LIMIT {_MOST_WORDS}"""


def drivers(found: Sequence[tuple[str, int]], wanted: Wanted) -> str:
    """A tsquery of the words that bring passages in, of those found with the passages that they stand in at most.

    Only the rarest do, up to so many passages, and at least one: what has nothing but common words of the question
    would not rank anyway, and a question of common words stays cheap. Where few passages are wanted, all words do.
    """
    return " | ".join(
        word for place, (word, upto) in enumerate(found) if wanted.few or upto <= _LEXICAL_POOL or not place
    )


def matching(corpus: Corpus, wanted: Wanted, count: int) -> str:
    """Ids and scores of passages by the words that they share with the question, for so many words.

    A passage scores the sum over the question's words of idf · tf / (1 - b + b · length / mean length). The weight of
    rare words and the length's are those of BM25 (Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25
    and Beyond", 2009); tf is what Postgres's ts_rank makes of n occurrences, 1 + 1/4 + … + 1/n², which saturates as
    theirs does.
    """
    chunks, texts = chunk_table(corpus.space_id), text_table(corpus.space_id)
    if wanted.few:
        pool = (
            f"SELECT t.chunk_id, t.search FROM {chunks} c JOIN {texts} t ON t.chunk_id = c.id "
            f"WHERE {wanted.condition} AND t.search @@ CAST(%(drivers)s AS tsquery)"
        )
    else:
        chosen = (
            ""
            if wanted == Wanted()
            else f" AND EXISTS (SELECT FROM {chunks} c WHERE c.id = t.chunk_id AND {_VISIBLE.format('c')} "
            f"AND {wanted.condition})"
        )
        pool = (
            f"SELECT t.chunk_id, t.search FROM {texts} t "
            f"WHERE t.search @@ CAST(%(drivers)s AS tsquery){chosen} LIMIT {2 * _LEXICAL_POOL}"
        )
    rank = "CAST(%(weight_{0})s AS double precision) * ts_rank('{{1,1,1,1}}', search, CAST(%(word_{0})s AS tsquery))"
    score = " + ".join(rank.format(number) for number in range(count))
    length = f"{1 - _LENGTH_WEIGHT} + {_LENGTH_WEIGHT} * length(search) / CAST(%(mean)s AS double precision)"
    # ranked before it is asked which are visible: that has to be known of the first ones only
    return f"""
        SELECT r.chunk_id, r.score FROM (
            SELECT chunk_id, ({score}) / ({length}) AS score FROM ({pool} OFFSET 0) pool ORDER BY score DESC, chunk_id
        ) r JOIN {chunks} c ON c.id = r.chunk_id
        WHERE {_VISIBLE.format("c")} ORDER BY r.score DESC, r.chunk_id LIMIT %(candidates)s"""


def middle(corpus: Corpus) -> str:
    """The mean of the vectors of the passages with the bound ids."""
    return (
        f"SELECT CAST(avg(embedding) AS vector({corpus.dimensions:d})) FROM {chunk_table(corpus.space_id)} "
        "WHERE id = ANY(%(ids)s)"
    )


def passages(corpus: Corpus) -> str:
    """The passages with the bound ids and scores, in that order, those left out that are less similar than is bound."""
    exact = distance(corpus.dimensions, corpus.storage, "c.embedding", "%(vector)s")
    return f"""
        SELECT d.uri AS source, c.start_offset AS start, c.end_offset AS end, c.text, c.heading,
            r.score, CAST(%(version)s AS integer) AS version, c.page, c.ordinal, c.similarity, d.attributes
        FROM unnest(CAST(%(ids)s AS bigint[]), CAST(%(scores)s AS double precision[]))
            WITH ORDINALITY AS r (id, score, place)
        JOIN LATERAL (SELECT c.*, 1 - ({exact}) AS similarity FROM {chunk_table(corpus.space_id)} c WHERE c.id = r.id)
            c ON true
        JOIN groundtune.documents d ON d.id = c.document_id
        WHERE CAST(%(least)s AS double precision) IS NULL OR c.similarity >= %(least)s
        ORDER BY r.place LIMIT %(limit)s"""
