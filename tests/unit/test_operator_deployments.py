"""The Prefect deployment of a resource, and how it differs from what is there."""

from __future__ import annotations

from typing import Any

import pytest

from groundtune.snapshots import FineTuneJobSnapshot, KnowledgeBaseSnapshot
from groundtune_operator.deployments import Wanted, changes, schedule_changes, wanted
from groundtune_operator.schedules import Schedule

DAILY = Schedule("0 3 * * *", "Europe/Berlin", active=True)


def _kb(generation: int = 1, **spec: Any) -> Wanted:
    raw = {"sources": [{"volume": {"claimName": "docs"}}], **spec}
    return wanted(
        KnowledgeBaseSnapshot.model_validate(
            {"namespace": "ns", "name": "docs", "uid": "u", "generation": generation, "spec": raw}
        ),
        DAILY,
    )


def _ftj(**spec: Any) -> Wanted:
    raw = {"baseModel": {"uri": "package://m"}, "dataset": {"volume": {"claimName": "style"}}, **spec}
    return wanted(
        FineTuneJobSnapshot.model_validate(
            {"namespace": "ns", "name": "style", "uid": "u", "generation": 1, "spec": raw}
        ),
        DAILY,
    )


def _there(found: Wanted) -> dict[str, Any]:
    """What Prefect answers for it, with what it adds of its own."""
    fields = dict(found.fields)
    return {
        **fields,
        "id": "d",
        "version": found.fingerprint,
        "concurrency_limit": None,
        "global_concurrency_limit": {"limit": fields["concurrency_limit"], "active_slots": 0},
        "concurrency_options": {**fields["concurrency_options"], "grace_period_seconds": None},
        "schedules": [
            {
                "id": "s",
                "slug": "schedule",
                "active": True,
                "schedule": {**found.schedule["schedule"], "day_or": True},
            }
        ]
        if found.schedule
        else [],
    }


def test_its_names_are_the_contract() -> None:
    found = _kb()
    assert (found.flow, found.name) == ("refresh-knowledge-base", "ns.docs")
    assert found.fields["tags"] == ["groundtune", "namespace:ns", "kind:KnowledgeBase", "uid:u"]
    assert found.fields["parameters"]["snapshot"]["spec"]["sources"][0]["volume"]["claimName"] == "docs"
    assert found.fields["parameters"]["reason"] == "schedule"


def test_what_is_right_is_not_written() -> None:
    found = _kb()
    assert changes(_there(found), found.fields) == {}
    assert schedule_changes(_there(found), found.schedule) == schedule_changes({"schedules": []}, None)


def test_only_what_differs_is_written() -> None:
    there = _there(_kb())
    assert set(changes(there, _kb(generation=2).fields)) == {"parameters"}
    there["global_concurrency_limit"] = None
    assert set(changes(there, _kb().fields)) == {"concurrency_limit"}


@pytest.mark.parametrize(
    ("spec", "runs"),
    [
        ({"refresh": {"schedule": "0 4 * * *"}}, False),
        ({"retrieval": {"topK": 9}}, False),
        ({"deletionPolicy": "Delete"}, False),
        ({"chunking": {"maxTokens": 64}}, True),
        ({"embedding": {"model": "hf://a/b"}}, True),
        ({"sources": [{"volume": {"claimName": "other"}}]}, True),
        ({"evaluation": {"dataset": {"volume": {"claimName": "golden"}}}}, True),
    ],
)
def test_a_knowledge_base_is_refreshed_for_what_concerns_its_corpus(spec: dict[str, Any], runs: bool) -> None:
    assert (_kb(**spec).fingerprint != _kb().fingerprint) is runs


@pytest.mark.parametrize(
    ("spec", "runs"),
    [
        ({"retraining": {"schedule": "0 4 * * *"}}, False),
        ({"checkpoint": {"everySteps": 5}}, False),
        ({"training": {"maxSteps": 5}}, True),
        ({"method": {"rank": 8}}, True),
        ({"promotion": "Manual"}, True),
    ],
)
def test_a_job_is_trained_for_what_concerns_its_adapter(spec: dict[str, Any], runs: bool) -> None:
    assert (_ftj(**spec).fingerprint != _ftj().fingerprint) is runs


def test_a_changed_schedule_is_edited_where_it_is() -> None:
    there = _there(_kb())
    later = {
        "slug": "schedule",
        "active": True,
        "schedule": {"cron": "0 4 * * *", "timezone": "Europe/Berlin"},
    }
    found = schedule_changes(there, later)
    assert found.update == ("s", {"active": True, "schedule": later["schedule"]})
    assert (found.add, found.remove) == (None, ())


def test_schedules_that_nobody_wants_go() -> None:
    there = {"schedules": [{"id": "x", "slug": None, "active": True, "schedule": {"cron": "* * * * *"}}]}
    assert schedule_changes(there, None).remove == ("x",)
    found = schedule_changes(there, {"slug": "schedule", "active": True, "schedule": {"cron": "0 4 * * *"}})
    assert found.add is not None
    assert found.remove == ("x",)
