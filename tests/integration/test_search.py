"""Search by filters, thresholds, storages and a reranker, on a real Postgres."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Engine, text

from groundtune.api import KnowledgeBaseSpec
from groundtune.api.knowledge_base import Retrieval, Storage
from groundtune.registry import contents, corpora
from groundtune.registry.database import connect
from groundtune.registry.texts import index_texts
from groundtune.retrieval.corpus import Corpus, live_corpus, search_pool
from groundtune.retrieval.filters import Filter, condition
from groundtune.retrieval.search import Hit, Options, Query, ask, fuse, search
from groundtune.snapshots import KnowledgeBaseSnapshot

_DIMENSIONS, _DOCUMENTS, _CHUNKS = 128, 600, 5
_FILTER: TypeAdapter[Any] = TypeAdapter(Filter)
Vectors = NDArray[np.float32]


def _unit(vectors: NDArray[Any]) -> Vectors:
    made: Vectors = (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)
    return made


def _vectors() -> Vectors:
    """Of all passages, ten documents about each subject; those of the last documents lie opposite to all others."""
    random = np.random.default_rng(1)
    subjects = np.repeat(random.normal(size=(_DOCUMENTS // 10, 1, _DIMENSIONS)), 10, axis=0)
    made = subjects + 0.5 * random.normal(size=(_DOCUMENTS, _CHUNKS, _DIMENSIONS))
    made[:, :, 0] = 6
    made[-20:, :, 0] = -6
    return _unit(made)


def _attributes(document: int) -> dict[str, bool | float | str]:
    far = document >= _DOCUMENTS - 20
    said: dict[str, bool | float | str] = {
        "number": document,
        "far": far,
        "team": ["red", "blue"][document % 2],
    }
    return said if document % 3 else said | {"third": "yes"}


def _fill(engine: Engine, storage: Storage) -> tuple[str, Corpus]:
    uid = str(uuid.uuid4())
    spec = KnowledgeBaseSpec.model_validate({"sources": [{"volume": {"claimName": "c"}}]})
    vectors = _vectors()
    documents = []
    for number in range(_DOCUMENTS):
        words = [f"Article {number} part {part} of the handbook." for part in range(_CHUNKS)]
        chunks = [
            contents.NewChunk(40 * part, 40 * part + len(said), 8, "", said, vectors[number, part])
            for part, said in enumerate(words)
        ]
        whole = "".join(said.ljust(40) for said in words)
        documents.append(
            contents.NewDocument(
                f"x://{number}.md", str(number), whole, chunks, None, "x", _attributes(number)
            )
        )
    with engine.begin() as connection:
        snapshot = KnowledgeBaseSnapshot(namespace="n", name="n", uid=uid, generation=1, spec=spec)
        corpora.ensure_knowledge_base(connection, snapshot)
        recipe = {"language": "english", "storage": storage, "embedding": {}}
        space = corpora.create_space(connection, uid, recipe, _DIMENSIONS)
        corpora.open_version(connection, uid, space, 1, uuid.uuid4())
        contents.replace_documents(connection, space, 1, documents)
        index_texts(connection, space)
        corpora.ensure_vector_index(connection, space, 16, 64)
        corpora.promote(connection, uid, 1)
    return uid, Corpus(space, 1, _DIMENSIONS, storage)


@pytest.fixture(scope="module")
def engine(postgres_url: str) -> Any:
    made = connect(postgres_url)
    yield made
    made.dispose()


@pytest.fixture(scope="module", params=["vector", "halfvec", "bit"])
def corpus(request: pytest.FixtureRequest, engine: Engine) -> Corpus:
    return _fill(engine, request.param)[1]


@pytest.fixture(scope="module")
def plain(engine: Engine) -> Corpus:
    return _fill(engine, "vector")[1]


def _search(
    url: str,
    corpus: Corpus,
    question: str,
    vector: Vectors,
    *,
    filter_: dict[str, Any] | None = None,
    min_score: float | None = None,
    top_k: int | None = None,
    rerank: Callable[[str, Sequence[str]], Awaitable[Sequence[float]]] | None = None,
    **settings: Any,
) -> list[Hit]:
    chosen = None if filter_ is None else _FILTER.validate_python(filter_)
    options = Options(top_k, min_score, chosen)
    query = Query(corpus, question, Retrieval.model_validate(settings), options)

    async def run() -> list[Hit]:
        async with search_pool(url, size=1) as pool, pool.connection() as connection:
            return await search(connection, query, vector, rerank)

    return asyncio.run(run())


def _number(hit: Hit) -> int:
    return int(hit.source.removeprefix("x://").removesuffix(".md"))


def test_each_storage_finds_what_is_nearest(postgres_url: str, corpus: Corpus) -> None:
    vectors = _vectors().reshape(-1, _DIMENSIONS)
    found = wanted = 0
    for row in range(0, len(vectors), 150):
        exact = set(np.argsort(-(vectors @ vectors[row]))[:10].tolist())
        hits = _search(postgres_url, corpus, "", vectors[row], mode="vector")
        assert hits[0].similarity == pytest.approx(1, abs=2e-3)
        found += len(exact & {_number(hit) * _CHUNKS + hit.ordinal for hit in hits})
        wanted += len(exact)
    assert found / wanted >= 0.95


@pytest.mark.parametrize("mode", ["vector", "lexical", "hybrid"])
@pytest.mark.parametrize(
    ("filter_", "fits"),
    [
        ({"type": "eq", "key": "team", "value": "red"}, lambda n: n % 2 == 0),
        ({"type": "eq", "key": "far", "value": True}, lambda n: n >= _DOCUMENTS - 20),
        ({"type": "in", "key": "number", "value": [7, 8]}, lambda n: n in (7, 8)),
        (
            {
                "type": "and",
                "filters": [
                    {"type": "gte", "key": "number", "value": 100},
                    {"type": "or", "filters": [
                        {"type": "ne", "key": "third", "value": "yes"},
                        {"type": "lt", "key": "number", "value": 130},
                    ]},
                ],
            },
            lambda n: n >= 100 and (n % 3 != 0 or n < 130),
        ),
    ],
)  # fmt: skip
def test_a_filtered_search_gives_top_k(
    postgres_url: str, corpus: Corpus, filter_: dict[str, Any], fits: Callable[[int], bool], mode: str
) -> None:
    """Also where what fits is far from the question, and where it is a tiny part of the corpus."""
    question, vector = "part of the handbook", _vectors()[0, 0]
    hits = _search(postgres_url, corpus, question, vector, filter_=filter_, mode=mode)
    assert len(hits) == 10
    assert all(fits(_number(hit)) for hit in hits)


def test_many_far_documents_are_found_all_the_same(
    postgres_url: str, plain: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index gives up before it has come to them; then all are looked at."""
    monkeypatch.setattr("groundtune.retrieval.search._FEW_DOCUMENTS", 5)
    monkeypatch.setattr("groundtune.retrieval.search._SCANNED", 100)
    vectors = _vectors()
    far = {"type": "eq", "key": "far", "value": True}
    hits = _search(postgres_url, plain, "", vectors[0, 0], filter_=far, mode="vector", efSearch=40)
    exact = np.argsort(-(vectors[-20:].reshape(-1, _DIMENSIONS) @ vectors[0, 0]))[:10]
    assert [(_number(hit) - (_DOCUMENTS - 20)) * _CHUNKS + hit.ordinal for hit in hits] == exact.tolist()


def test_what_is_not_similar_enough_is_left_out(postgres_url: str, plain: Corpus) -> None:
    vector = _vectors()[3, 0]
    all_hits = _search(postgres_url, plain, "article 3", vector, topK=20)
    limit = sorted(hit.similarity for hit in all_hits)[10]
    for mode in ("vector", "lexical", "hybrid"):
        hits = _search(postgres_url, plain, "article 3", vector, mode=mode, topK=20, minScore=limit)
        assert hits
        assert all(hit.similarity >= limit for hit in hits)
    assert not _search(postgres_url, plain, "article 3", -vector, minScore=0.9)
    assert len(_search(postgres_url, plain, "article 3", -vector, minScore=0.9, min_score=0.0)) < 20


def test_a_question_is_moved_towards_what_it_finds(postgres_url: str, corpus: Corpus) -> None:
    passages = _vectors().reshape(-1, _DIMENSIONS)
    question = _unit(passages[40] + 0.8 * _unit(np.random.default_rng(5).normal(size=_DIMENSIONS)))
    best = np.argsort(-(passages @ question))[:3]
    moved = _unit(0.6 * question + 0.4 * passages[best].mean(axis=0))
    exact = np.argsort(-(passages @ moved))[:10].tolist()
    plain = np.argsort(-(passages @ question))[:10].tolist()
    hits = _search(postgres_url, corpus, "", question, mode="vector", expansion="feedback")
    found = [_number(hit) * _CHUNKS + hit.ordinal for hit in hits]
    assert exact != plain
    assert len(set(found) & set(exact)) >= 9
    assert hits[0].similarity == pytest.approx(passages[found[0]] @ question, abs=5e-3), (
        "of the question as it was"
    )


def test_a_rerankers_scores_decide(postgres_url: str, plain: Corpus) -> None:
    read: list[str] = []

    async def by_number(question: str, passages: Sequence[str]) -> Sequence[float]:
        read.extend(passages)
        return [1 / (1 + int(passage.split()[1])) for passage in passages]

    reranker = {"model": "package://none", "candidates": 40}
    settings: dict[str, Any] = {"reranker": reranker, "topK": 5}
    hits = _search(postgres_url, plain, "", _vectors()[9, 0], rerank=by_number, **settings)
    assert len(read) == 40
    assert [hit.score for hit in hits] == sorted(
        (1 / (1 + int(each.split()[1])) for each in read), reverse=True
    )[:5]
    few = _search(
        postgres_url, plain, "", _vectors()[9, 0], rerank=by_number, min_score=hits[1].score, **settings
    )
    assert [hit.score for hit in few] == [hit.score for hit in hits if hit.score >= hits[1].score]


def test_words_are_looked_for_while_the_vector_is_computed(postgres_url: str, engine: Engine) -> None:
    """Both ways give the same; and a question that fails leaves nothing running."""
    uid, _ = _fill(engine, "vector")
    vector = _vectors()[5, 2]

    async def run() -> None:
        async with search_pool(postgres_url, size=1) as pool:
            async with pool.connection() as connection:
                live = await live_corpus(connection, uid)
                assert live is not None
                query = Query(live[0], "article 5 part 2", Retrieval())
                wanted = await search(connection, query, vector)

            async def embedding() -> Vectors:
                await asyncio.sleep(0.05)  # meanwhile the pool's one connection is free
                return vector

            assert await ask(pool, query, embedding()) == wanted

            async def broken() -> Vectors:
                raise RuntimeError("no model")

            with pytest.raises(RuntimeError, match="no model"):
                await ask(pool, query, broken())
            assert await ask(pool, query, embedding()) == wanted

    asyncio.run(run())


def test_fusion_is_reciprocal_rank_fusion() -> None:
    fused = fuse([(1, 0.9), (2, 0.8)], [(2, 7.0), (3, 5.0)])
    assert [id_ for id_, _ in fused] == [2, 1, 3]
    assert dict(fused)[2] == pytest.approx(61 / 62 / 2 + 1 / 2)
    assert dict(fuse([(4, 1.0)], [(4, 1.0)]))[4] == pytest.approx(1)


_VALUES = st.sampled_from(["a", "b", 1, 2.5, True, False])
_KEYS = st.sampled_from(["k", "l"])
_COMPARISONS = st.one_of(
    st.builds(
        lambda kind, key, value: {"type": kind, "key": key, "value": value},
        st.sampled_from(["eq", "ne", "gt", "gte", "lt", "lte"]), _KEYS, _VALUES,
    ),
    st.builds(
        lambda kind, key, value: {"type": kind, "key": key, "value": value},
        st.sampled_from(["in", "nin"]), _KEYS, st.lists(_VALUES, min_size=1, max_size=3),
    ),
)  # fmt: skip
_FILTERS = st.recursive(
    _COMPARISONS,
    lambda inner: st.builds(
        lambda kind, filters: {"type": kind, "filters": filters},
        st.sampled_from(["and", "or"]),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=6,
)


def _same(one: Any, other: Any) -> bool:
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _holds(filter_: dict[str, Any], said: dict[str, Any]) -> bool:
    """The meaning of a filter, in plain Python."""
    kind = filter_["type"]
    if kind in ("and", "or"):
        return (all if kind == "and" else any)(_holds(each, said) for each in filter_["filters"])
    missing = object()
    value, own = filter_["value"], said.get(filter_["key"], missing)
    if kind in ("eq", "ne"):
        return _same(own, value) == (kind == "eq")
    if kind in ("in", "nin"):
        return any(_same(own, each) for each in value) == (kind == "in")
    numeric = isinstance(own, int | float) and not isinstance(own, bool)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if own is missing or (type(own) is not type(value) and not (numeric and number)):
        return False
    return bool({"gt": own > value, "gte": own >= value, "lt": own < value, "lte": own <= value}[kind])


@hypothesis_settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(_FILTERS, st.lists(st.dictionaries(_KEYS, _VALUES, max_size=2), min_size=1, max_size=5))
def test_a_filter_means_the_same_in_sql(
    engine: Engine, filter_: dict[str, Any], documents: list[dict[str, Any]]
) -> None:
    try:
        made = condition(_FILTER.validate_python(filter_))
    except ValidationError as error:
        assert "nested" in str(error)
        return
    with engine.connect() as connection:
        raw: Any = connection.connection.driver_connection
        for said in documents:
            from psycopg.types.json import Jsonb

            statement = f"SELECT {made.sql} FROM (SELECT %(said)s::jsonb AS attributes) d"
            (row,) = raw.execute(statement, {**made.values, "said": Jsonb(said)}).fetchone()
            assert row is _holds(filter_, said), (filter_, said)


@pytest.mark.parametrize(
    ("filter_", "problem"),
    [
        ({"type": "eq", "key": "k", "value": ["a"]}, "has to be a text, a number or a boolean"),
        ({"type": "in", "key": "k", "value": "a"}, "has to be a list"),
        ({"type": "like", "key": "k", "value": "a"}, "type"),
        ({"type": "and", "filters": []}, "at least 1"),
        ({"type": "eq", "key": "k", "value": "a", "more": 1}, "more"),
    ],
)
def test_a_wrong_filter_is_refused_in_words(filter_: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        _FILTER.validate_python(filter_)


def test_every_document_has_its_attributes(engine: Engine, plain: Corpus) -> None:
    with engine.connect() as connection:
        statement = text("SELECT uri, attributes FROM groundtune.documents WHERE space_id = :space")
        rows = connection.execute(statement, {"space": plain.space_id}).all()
    assert dict(rows) == {f"x://{number}.md": _attributes(number) for number in range(_DOCUMENTS)}
