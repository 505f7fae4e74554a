"""Conditions, status patches and events."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from groundtune_operator.conditions import find, merge, verdict
from groundtune_operator.events import transitions
from groundtune_operator.reasons import Reason
from groundtune_operator.status import merge_patch

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)

#: How fast the machine is says nothing about the code.
_UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.text(max_size=3)
    | st.lists(st.integers(0, 3), max_size=3)
)
_KEYS = st.sampled_from("abcd")


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return value


_DOCUMENTS = st.recursive(_LEAVES, lambda inner: st.dictionaries(_KEYS, inner, max_size=4), max_leaves=12)
_STATUSES = st.dictionaries(_KEYS, _DOCUMENTS, max_size=4).map(_without_nulls)


def _apply(target: Any, patch: Any) -> Any:
    """RFC 7396, as the RFC writes it."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _apply(result.get(key), value)
    return result


@_UNHURRIED
@given(_STATUSES, _STATUSES)
def test_a_patch_makes_one_status_the_other(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert _apply(old, merge_patch(old, new)) == new


@_UNHURRIED
@given(_STATUSES)
def test_a_status_that_is_right_needs_no_patch(status: dict[str, Any]) -> None:
    assert merge_patch(status, status) == {}


def test_a_time_moves_only_with_its_status() -> None:
    first = merge([], [verdict("Ready", False, Reason.NO_LIVE_VERSION, "one")], 1, NOW)
    second = merge(first, [verdict("Ready", False, Reason.EMPTY_CORPUS, "two")], 2, LATER)
    assert second[0]["lastTransitionTime"] == first[0]["lastTransitionTime"] == "2030-01-01T12:00:00Z"
    assert (second[0]["reason"], second[0]["observedGeneration"]) == ("EmptyCorpus", 2)
    third = merge(second, [verdict("Ready", True, Reason.READY)], 2, LATER)
    assert third[0]["lastTransitionTime"] == "2030-01-01T12:05:00Z"


def test_a_long_message_is_cut_to_what_the_schema_takes() -> None:
    assert len(merge([], [verdict("Ready", False, "X", "m" * 9000)], 1, NOW)[0]["message"]) == 4096


def test_every_reason_says_what_it_means() -> None:
    assert all(reason.meaning.endswith(".") for reason in Reason)
    assert f"{Reason.READY}" == "Ready"


def _status(**conditions: tuple[str, str]) -> dict[str, Any]:
    return {
        "conditions": [
            {"type": type_, "status": status, "reason": reason, "message": f"{reason} it is"}
            for type_, (status, reason) in conditions.items()
        ]
    }


def test_an_event_tells_of_a_transition_once() -> None:
    waiting = _status(Ready=("False", "NoLiveVersion"), Stalled=("True", "SourceUnavailable"))
    told = [event.reason for event in transitions("KnowledgeBase", {}, waiting)]
    assert told == ["SourceUnavailable"]
    assert transitions("KnowledgeBase", waiting, waiting) == []
    ready = _status(Ready=("True", "Ready"), Stalled=("False", "NotStalled"))
    assert [event.reason for event in transitions("KnowledgeBase", waiting, ready)] == ["Ready"]


def test_another_reason_to_stall_is_news() -> None:
    before = _status(Stalled=("True", "SourceUnavailable"))
    after = _status(Stalled=("True", "ModelNotFound"))
    assert [event.reason for event in transitions("KnowledgeBase", before, after)] == ["ModelNotFound"]


def test_an_endpoint_that_stops_answering_and_one_that_goes_stale_are_told() -> None:
    before = _status(Ready=("True", "Ready"), Stalled=("False", "NotStalled"), Fresh=("True", "UpToDate"))
    away = _status(Ready=("False", "Unhealthy"), Stalled=("False", "NotStalled"), Fresh=("True", "UpToDate"))
    (event,) = transitions("InferenceDeployment", before, away)
    assert (event.type, event.reason, event.message) == ("Warning", "Unhealthy", "Unhealthy it is")
    old = _status(Ready=("True", "Ready"), Fresh=("False", "StaleReference"))
    (event,) = transitions("InferenceDeployment", before, old)
    assert (event.type, event.reason) == ("Warning", "StaleReference")
    broken = _status(Ready=("False", "AdapterFailed"), Stalled=("True", "AdapterFailed"))
    (event,) = transitions("InferenceDeployment", before, broken)
    assert event.reason == "AdapterFailed"


def test_a_failed_run_that_is_tried_again_is_told_once() -> None:
    before, after = _status(Reconciling=("True", "Refreshing")), _status(Reconciling=("True", "Retrying"))
    (event,) = transitions("KnowledgeBase", before, after)
    assert (event.type, event.reason) == ("Warning", "RunFailed")
    assert transitions("KnowledgeBase", after, after) == []


def test_a_swapped_adapter_names_both() -> None:
    before = {"adapters": [{"name": "style", "version": "style-v1"}]}
    after = {"adapters": [{"name": "style", "version": "style-v2"}]}
    events = transitions("InferenceDeployment", before, after)
    assert [event.message for event in events] == ["style-v2 answers instead of style-v1"]


def test_a_condition_that_is_not_there_is_empty() -> None:
    assert find({}, "Ready") == {}
