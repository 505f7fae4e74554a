"""What the demo prints of `kubectl get`."""

from __future__ import annotations

from groundtune_local.demo.watch import news, rows

PRINTED = """\
NAME                                       READY   REASON          VERSION   RECALL   AGE
knowledgebase.groundtune.io/support-docs   False   NoLiveVersion                      2s

NAME                                      READY   STAGE      PERCENT   AGE
finetunejob.groundtune.io/support-voice   False   training   41        3m
"""


def test_cells_stand_below_their_headings_and_may_be_empty() -> None:
    knowledge_base, job = rows(PRINTED)
    assert knowledge_base == {
        "NAME": "knowledgebase/support-docs",
        "READY": "False",
        "REASON": "NoLiveVersion",
        "VERSION": "",
        "RECALL": "",
        "AGE": "2s",
    }
    assert (job["STAGE"], job["PERCENT"]) == ("training", "41")


def test_neither_age_nor_a_small_step_is_news() -> None:
    _, job = rows(PRINTED)
    assert news(job) == news(job | {"AGE": "4m", "PERCENT": "59"})
    assert news(job) != news(job | {"PERCENT": "60"})
    assert news(job) != news(job | {"READY": "True"})
