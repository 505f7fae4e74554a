"""The endpoint as its clients see it: on Ray Serve, with the real engine, corpus and adapters."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import httpx
import openai
import pytest
from services_world import DOCUMENTS, NAME, World, make_adapter, serving

from groundtune.serving import AdapterTarget, ServedSet, Unmet

pytestmark = pytest.mark.timeout(1200)

QUESTION = "What does the Studio plan cost a month?"


def until(holds: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One engine for all tests, with adapters on disk and nothing declared."""
    with serving(tmp_path_factory.mktemp("services")) as made:
        make_adapter(made.artifacts / "style-v1", seed=1)
        make_adapter(made.artifacts / "style-v2", seed=2)
        make_adapter(made.artifacts / "style-v3", seed=3, rank=32)
        yield made


def declare(world: World, *, adapter: str | None = None, grounded: bool = True) -> dict[str, Any]:
    """Declare a served set and wait for it to answer."""
    world.apply(
        ServedSet(
            adapters=[world.adapter(adapter)] if adapter else [],
            knowledge_bases=[world.corpus.target()] if grounded else [],
        )
    )

    def arrived() -> bool:
        status, body = world.readiness()
        return (
            status == 200
            and [each["name"] for each in body["adapters"]] == ([adapter] if adapter else [])
            and bool(body["knowledgeBases"]) == grounded
        )

    until(arrived, f"adapter {adapter}, grounded {grounded}", 120)
    return world.readiness()[1]


def ask(world: World, model: str = NAME, question: str = QUESTION, **more: Any) -> Any:
    messages = more.pop("messages", [{"role": "user", "content": question}])
    more = {"max_tokens": 12, "temperature": 0, **more}
    return world.client.chat.completions.with_raw_response.create(model=model, messages=messages, **more)


def test_the_base_model_answers_before_anything_is_declared(world: World) -> None:
    body = declare(world, adapter=None, grounded=False)
    assert body["models"] == [NAME, f"{NAME}:base"]
    answer = ask(world)
    assert answer.headers["x-groundtune-adapter"] == "none"
    assert answer.headers["x-groundtune-corpus"] == "none"
    assert answer.parse().model == NAME
    assert answer.parse().choices[0].message.content


def test_an_answer_is_grounded_and_cites(world: World) -> None:
    declare(world)
    answer = ask(world)
    assert answer.headers["x-groundtune-corpus"] == "handbook@1"
    assert int(answer.headers["x-groundtune-context-tokens"]) > 20
    assert float(answer.headers["x-groundtune-retrieval-ms"]) > 0
    assert "x-groundtune-degraded" not in answer.headers
    said = answer.parse().model_extra["groundtune"]
    best = said["citations"][0]
    assert (best["source"], best["version"], best["index"]) == ("volume://docs/pricing.md", 1, 1)
    for citation in said["citations"]:
        assert citation["text"] == DOCUMENTS[citation["source"]][citation["start"] : citation["end"]]
    bare = ask(world, f"{NAME}:base")
    assert bare.headers["x-groundtune-corpus"] == "none"
    assert bare.parse().model_extra["groundtune"]["citations"] == []
    assert answer.parse().usage.prompt_tokens > bare.parse().usage.prompt_tokens + 20


def test_a_stream_cites_in_its_first_chunk(world: World) -> None:
    declare(world)
    with world.client.chat.completions.with_streaming_response.create(
        model=NAME,
        messages=[{"role": "user", "content": QUESTION}],
        max_tokens=12,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-groundtune-corpus"] == "handbook@1"
        chunks = list(response.parse())
    assert chunks[0].model_extra["groundtune"]["citations"][0]["source"] == "volume://docs/pricing.md"
    assert all("groundtune" not in (chunk.model_extra or {}) for chunk in chunks[1:])
    assert {chunk.model for chunk in chunks} == {NAME}
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert streamed == ask(world).parse().choices[0].message.content
    assert chunks[-1].usage.completion_tokens > 0


def test_four_models_answer_in_four_ways(world: World) -> None:
    declare(world, adapter="style-v1")
    listed = [model.id for model in world.client.models.list()]
    assert listed == [NAME, f"{NAME}:base", f"{NAME}:tuned", f"{NAME}:grounded"]
    assert world.client.models.retrieve(f"{NAME}:tuned").id == f"{NAME}:tuned"
    found = {model: ask(world, model) for model in listed}
    seen = {
        model: (answer.headers["x-groundtune-adapter"], answer.headers["x-groundtune-corpus"])
        for model, answer in found.items()
    }
    assert seen == {
        NAME: ("style-v1", "handbook@1"),
        f"{NAME}:base": ("none", "none"),
        f"{NAME}:tuned": ("style-v1", "none"),
        f"{NAME}:grounded": ("none", "handbook@1"),
    }
    assert {model: answer.parse().model for model, answer in found.items()} == {m: m for m in listed}
    texts = {answer.parse().choices[0].message.content for answer in found.values()}
    assert len(texts) == 4


def test_the_engines_options_pass_through(world: World) -> None:
    declare(world)
    answer = ask(world, logprobs=True, top_logprobs=2, n=2, temperature=1, seed=7).parse()
    assert len(answer.choices) == 2
    assert len(answer.choices[0].logprobs.content[0].top_logprobs) == 2
    schema = {"type": "object", "properties": {"euros": {"type": "integer"}}, "required": ["euros"]}
    structured = ask(
        world,
        max_tokens=60,
        response_format={"type": "json_schema", "json_schema": {"name": "price", "schema": schema}},
    ).parse()
    assert isinstance(json.loads(structured.choices[0].message.content)["euros"], int)
    completed = world.client.completions.create(model=NAME, prompt="Once upon a time", max_tokens=5)
    assert completed.model == NAME
    assert completed.choices[0].text


def test_a_model_that_writes_no_tool_calls_says_so(world: World) -> None:
    declare(world, grounded=False)
    parameters = {
        "type": "object",
        "properties": {"plan": {"enum": ["Maker", "Studio"]}},
        "required": ["plan"],
    }
    with pytest.raises(openai.BadRequestError) as raised:
        ask(
            world,
            max_tokens=60,
            tools=[{"type": "function", "function": {"name": "price_of", "parameters": parameters}}],
            tool_choice={"type": "function", "function": {"name": "price_of"}},
        )
    assert "price_of" in str(raised.value)


def test_a_question_in_parts_is_grounded(world: World) -> None:
    declare(world)
    parts = [{"type": "text", "text": "What does the Studio plan"}, {"type": "text", "text": "cost?"}]
    system = [{"type": "text", "text": "Be brief."}]
    answer = ask(world, messages=[{"role": "system", "content": system}, {"role": "user", "content": parts}])
    assert answer.parse().model_extra["groundtune"]["citations"][0]["source"] == "volume://docs/pricing.md"


def test_passages_leave_room_for_a_long_chat(world: World) -> None:
    declare(world)
    long = "Tell me about lamps. " * 160
    answer = ask(world, question=f"{long}{QUESTION}", max_tokens=110)
    assert answer.headers["x-groundtune-context-tokens"] == "0"
    assert answer.parse().choices[0].message.content


@pytest.mark.parametrize(
    ("path", "content", "status"),
    [
        ("chat/completions", b"{not json", 400),
        ("chat/completions", b"\xff\xfe", 400),
        ("chat/completions", b"[]", 400),
        ("chat/completions", b"[" * 100_000, 400),
        ("chat/completions", b'{"model": "support-bot"}', 400),
        ("chat/completions", b'{"model": "support-bot", "messages": []}', 400),
        ("chat/completions", b'{"model": "support-bot", "messages": "hi"}', 400),
        ("chat/completions", b'{"model": "support-bot", "messages": [{"role": "user", "content": 5}]}', 400),
        (
            "chat/completions",
            b'{"model": "support-bot", "messages": [{"role": "user", "content": "hi"}], "temperature": "hot"}',
            400,
        ),
        (
            "chat/completions",
            b'{"model": "support-bot", "messages": [{"role": "user", "content": "hi"}], "max_tokens": -4}',
            400,
        ),
        (
            "chat/completions",
            b'{"model": "support-bot", "messages": [{"role": "user", "content": "\\ud800"}]}',
            400,
        ),
        ("chat/completions", b'{"model": "other", "messages": [{"role": "user", "content": "hi"}]}', 404),
        ("completions", b'{"model": "other", "prompt": "hi"}', 404),
        ("completions", b'{"model": "support-bot", "prompt": {"a": 1}}', 400),
        ("vector_stores/handbook/search", b'{"query": 5}', 400),
        ("vector_stores/handbook/search", b'{"query": "a", "max_num_results": 0}', 400),
        ("vector_stores/handbook/search", b'{"query": "a", "filters": {"key": "x"}}', 400),
        ("vector_stores/other/search", b'{"query": "a"}', 404),
        ("nothing/here", b"{}", 404),
    ],
)
def test_bad_input_gets_openais_error_body(world: World, path: str, content: bytes, status: int) -> None:
    declare(world)
    answer = httpx.post(
        f"{world.url}/v1/{path}", content=content, headers={"content-type": "application/json"}, timeout=60
    )
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["message"]
    assert error["type"] == "invalid_request_error"
    assert {"param", "code"} <= set(error)
    ours = ("model_not_found", "vector_store_not_found", "unsupported_parameter")
    assert error["code"] is None or error["code"] in ours


def test_an_unknown_model_is_not_found(world: World) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        ask(world, "gpt-4")
    assert raised.value.code == "model_not_found"
    assert NAME in str(raised.value)
    with pytest.raises(openai.NotFoundError):
        world.client.models.retrieve("gpt-4")


def test_odd_characters_do_not_break_retrieval(world: World) -> None:
    declare(world)
    answer = ask(world, question="Studio plan\0 cost? ' OR 1=1; -- <=> & | ! :*")
    assert answer.headers["x-groundtune-corpus"] == "handbook@1"
    assert "x-groundtune-degraded" not in answer.headers


def test_vector_stores_in_openais_shape(world: World) -> None:
    declare(world)
    (store,) = list(world.client.vector_stores.list())
    assert (store.id, store.status, store.file_counts.completed) == ("handbook", "completed", 3)
    assert world.client.vector_stores.retrieve("handbook").name == "handbook"
    found = list(world.client.vector_stores.search("handbook", query=QUESTION, max_num_results=2))
    assert len(found) == 2
    best = found[0]
    assert best.file_id == "volume://docs/pricing.md"
    assert best.filename == "pricing.md"
    assert best.model_extra["version"] == 1
    text = DOCUMENTS[best.model_extra["source"]]
    assert (
        best.content[0].text
        == best.model_extra["text"]
        == text[best.model_extra["start"] : best.model_extra["end"]]
    )


def test_a_vector_store_is_filtered_and_cut_as_openai_does(world: World) -> None:
    declare(world)
    world.corpus.describe("volume://docs/returns.md", team="shop", year=2026)
    stores = world.client.vector_stores
    equal: Any = {"type": "eq", "key": "team", "value": "shop"}
    (only,) = list(stores.search("handbook", query=QUESTION, filters=equal))
    assert (only.file_id, only.attributes["team"], only.attributes["year"]) == (
        "volume://docs/returns.md", "shop", 2026,
    )  # fmt: skip
    others: Any = {"type": "and", "filters": [{"type": "nin", "key": "team", "value": ["shop"]}]}
    assert len(list(stores.search("handbook", query=QUESTION, filters=others))) == 2
    best = next(iter(stores.search("handbook", query=QUESTION)))
    limit = best.model_extra["similarity"] - 0.001
    cut = stores.search("handbook", query=QUESTION, ranking_options={"score_threshold": limit})
    assert [each.file_id for each in cut] == [best.file_id]
    wrong: Any = {"type": "like", "key": "team", "value": "shop"}
    with pytest.raises(openai.BadRequestError, match="filters"):
        list(stores.search("handbook", query=QUESTION, filters=wrong))


def test_what_is_declared_and_not_there_is_said(world: World) -> None:
    unmet = [Unmet(kind="adapter", name="voice"), Unmet(kind="knowledge base", name="faq")]
    world.apply(ServedSet(unmet=unmet))
    until(lambda: world.readiness()[0] == 503, "not ready")
    assert world.readiness()[1]["message"] == (
        "adapter voice is declared, and there is none yet; knowledge base faq is declared, and there is none yet"
    )
    assert ask(world).headers["x-groundtune-degraded"] == "adapter,retrieval"
    assert "x-groundtune-degraded" not in ask(world, f"{NAME}:base").headers
    declare(world)
    assert "x-groundtune-degraded" not in ask(world).headers


def test_a_new_corpus_version_needs_no_reconfigure(world: World) -> None:
    declare(world)
    world.corpus.write(2, {"volume://docs/galaxy.md": "The Galaxy plan costs 99 euros a month."})
    assert ask(world).headers["x-groundtune-corpus"] == "handbook@1"
    world.corpus.go_live(2)
    answer = ask(world, question="What does the Galaxy plan cost?")
    assert answer.headers["x-groundtune-corpus"] == "handbook@2"
    cited = answer.parse().model_extra["groundtune"]["citations"]
    assert "volume://docs/galaxy.md" in {each["source"] for each in cited}
    assert {each["version"] for each in cited} == {2}
    world.corpus.go_live(1)
    assert ask(world).headers["x-groundtune-corpus"] == "handbook@1"


def test_a_swap_under_load_fails_nobody(world: World) -> None:
    declare(world, adapter="style-v1", grounded=False)
    expected = {}
    for version in ("style-v1", "style-v2"):
        declare(world, adapter=version, grounded=False)
        expected[version] = ask(world).parse().choices[0].message.content
    assert expected["style-v1"] != expected["style-v2"]
    declare(world, adapter="style-v1", grounded=False)
    stop = Event()

    def keep_asking() -> list[tuple[str, str]]:
        seen = []
        while not stop.is_set():
            answer = ask(world)
            seen.append((answer.headers["x-groundtune-adapter"], answer.parse().choices[0].message.content))
        return seen

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(keep_asking) for _ in range(4)]
        try:
            declare(world, adapter="style-v2", grounded=False)
            for _ in range(3):
                ask(world)
        finally:
            stop.set()
        results = [client.result(timeout=120) for client in clients]
    for seen in results:
        versions = [version for version, _ in seen]
        assert set(versions) <= {"style-v1", "style-v2"}
        # Each client sees one change, from the old to the new.
        assert versions == sorted(versions)
        assert versions[-1] == "style-v2"
    # What answers is what the header says, for all but rare ties that a batch decides otherwise.
    pairs = [pair for seen in results for pair in seen]
    right = sum(text == expected[version] for version, text in pairs)
    crossed = sum(text == expected["style-v1"] for version, text in pairs if version == "style-v2")
    assert right >= 0.5 * len(pairs)
    assert crossed == 0


def test_the_base_model_is_itself_whatever_adapter_is_loaded(world: World) -> None:
    def base() -> str:
        return str(ask(world, f"{NAME}:base").parse().choices[0].message.content)

    declare(world, grounded=False)
    alone = base()
    # One after the other they take all the engine's places for adapters.
    for adapter in ("style-v1", "style-v2", "style-v1"):
        declare(world, adapter=adapter, grounded=False)
        assert base() == alone, adapter
        with ThreadPoolExecutor(1) as pool:
            beside = pool.submit(ask, world, max_tokens=60, extra_body={"ignore_eos": True})
            asked = [base() for _ in range(3)]
            beside.result()
        assert asked == [alone] * 3, f"beside a request to {adapter}"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("style-v3", "rank 32 is above spec.engine.maxLoraRank: 16"),
        ("style-v9", "holds no adapter_config.json"),
        ("style-broken", ""),
        ("style-nan", "not finite"),
    ],
)
def test_a_bad_adapter_is_refused_and_the_old_one_answers(world: World, name: str, reason: str) -> None:
    broken = world.artifacts / "style-broken"
    if not broken.exists():
        broken.mkdir()
        (broken / "adapter_config.json").write_text(
            (world.artifacts / "style-v1/adapter_config.json").read_text()
        )
        (broken / "adapter_model.safetensors").write_bytes(b"not a safetensors file")
        make_adapter(world.artifacts / "style-nan", seed=4, scale=float("inf"))
    declare(world, adapter="style-v1")
    world.apply(
        ServedSet(
            adapters=[AdapterTarget(alias="style", name=name, path=name)],
            knowledge_bases=[world.corpus.target()],
        )
    )
    until(
        lambda: [each["state"] for each in world.readiness()[1].get("adapters", [])] == ["Failed"],
        f"{name} is refused",
    )
    status, body = world.readiness()
    assert (status, body["ready"]) == (200, True), "the old one answers"
    (adapter,) = body["adapters"]
    assert adapter["name"] == "style-v1"
    assert adapter["message"]
    assert reason in adapter["message"]
    assert ask(world).headers["x-groundtune-adapter"] == "style-v1"
    declare(world, adapter="style-v1")


def test_usage_is_recorded(world: World) -> None:
    declare(world, adapter="style-v1")
    before = len(world.corpus.usage())
    plain = ask(world).parse()
    for _ in world.client.chat.completions.create(
        model=f"{NAME}:base", messages=[{"role": "user", "content": "Hi"}], max_tokens=4, stream=True
    ):
        continue

    def rows(model: str) -> list[dict[str, Any]]:
        return [row for row in world.corpus.usage()[before:] if row["model"] == model]

    # Rows of earlier requests may still be on their way: the newest of each model are ours.
    until(
        lambda: (
            [row["prompt_tokens"] for row in rows(NAME)][-1:] == [plain.usage.prompt_tokens]
            and bool(rows(f"{NAME}:base"))
        ),
        "usage rows are written",
    )
    full, streamed = rows(NAME)[-1], rows(f"{NAME}:base")[-1]
    assert (full["namespace"], full["deployment"], full["model"]) == ("shop", NAME, NAME)
    assert (full["adapter"], full["corpus_version"]) == ("style-v1", 1)
    assert full["prompt_tokens"] == plain.usage.prompt_tokens
    assert full["completion_tokens"] == plain.usage.completion_tokens
    assert full["context_tokens"] > 0
    assert full["retrieval_ms"] > 0
    assert (streamed["adapter"], streamed["corpus_version"]) == (None, None)
    assert streamed["completion_tokens"] == 4
    assert streamed["first_token_ms"] > 0


def _running(world: World) -> float:
    lines = httpx.get(f"{world.url}/metrics", timeout=30).text.splitlines()
    return sum(
        float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("vllm:num_requests_running")
    )


@pytest.mark.parametrize("stream", [True, False])
def test_the_engine_stops_when_the_client_goes(world: World, stream: bool) -> None:
    declare(world, grounded=False)
    body = {
        "model": NAME,
        "messages": [{"role": "user", "content": "Count."}],
        "max_tokens": 900,
        "ignore_eos": True,
        "stream": stream,
    }
    with httpx.Client(timeout=httpx.Timeout(60, read=3)) as client:
        if stream:
            with client.stream("POST", f"{world.url}/v1/chat/completions", json=body) as answer:
                next(answer.iter_lines())
                until(lambda: _running(world) == 1, "the request runs")
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.post(f"{world.url}/v1/chat/completions", json=body)
    until(lambda: _running(world) == 0, "the request is aborted", 20)


def test_metrics_are_both_the_engines_and_ours(world: World) -> None:
    text = httpx.get(f"{world.url}/metrics", timeout=30).text
    assert "vllm:prompt_tokens_total" in text
    assert "groundtune_retrieval_seconds_count" in text


def test_no_prompt_is_logged(world: World) -> None:
    secret = "zebra-crossing-4711"
    ask(world, question=f"Tell me about {secret}")
    with pytest.raises(openai.BadRequestError):
        ask(world, question=secret, temperature=-3)
    log, ray = world.logs
    paths = [log, *ray.glob("session_2*/logs/**/*.*")]
    texts = {path: path.read_text(errors="replace") for path in paths if path.is_file()}
    assert any("Gateway" in text for text in texts.values())
    assert [path for path, text in texts.items() if secret in text] == []


def test_without_a_database_it_answers_ungrounded_and_recovers(world: World) -> None:
    declare(world, adapter="style-v1")
    assert httpx.get(f"{world.url}/health", timeout=30).status_code == 200
    with world.without_database():
        answer = ask(world)
        assert answer.headers["x-groundtune-degraded"] == "retrieval"
        assert answer.headers["x-groundtune-corpus"] == "none"
        assert answer.headers["x-groundtune-adapter"] == "style-v1"
        assert answer.parse().choices[0].message.content
        until(lambda: world.readiness()[0] == 503, "not ready without its knowledge base")
        body = world.readiness()[1]
        assert body["knowledgeBases"][0]["version"] is None
        assert "knowledge base handbook" in body["message"]
        with pytest.raises(openai.InternalServerError) as raised:
            world.client.vector_stores.search("handbook", query="a")
        assert raised.value.status_code == 503
        assert httpx.get(f"{world.url}/health", timeout=30).status_code == 200
    world.wait_ready(60)
    assert ask(world).headers["x-groundtune-corpus"] == "handbook@1"


def test_nothing_live_is_not_ready_and_no_error(world: World) -> None:
    declare(world)
    world.corpus.go_live(None)
    try:
        until(lambda: world.readiness()[0] == 503, "not ready without a live version")
        assert "no version is live yet" in world.readiness()[1]["message"]
        answer = ask(world)
        assert answer.headers["x-groundtune-corpus"] == "none"
        assert answer.headers["x-groundtune-degraded"] == "retrieval"
    finally:
        world.corpus.go_live(1)
    world.wait_ready()
