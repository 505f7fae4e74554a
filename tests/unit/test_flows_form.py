"""The form of answers, whole and begun."""

from __future__ import annotations

import pytest
import torch

from groundtune.errors import SpecError
from groundtune_flows.form import Form, OutOfForm

_DESK = Form(r"\*\*Short answer:\*\* .+\n\*\*Next step:\*\* .+")
_WHOLE = "**Short answer:** Twelve.\n**Next step:** Wait."


def test_an_answer_matches_wholly_or_not_at_all() -> None:
    assert _DESK.matches(_WHOLE)
    assert _DESK.matches(f"  {_WHOLE}\n")
    assert not _DESK.matches(_WHOLE.replace("Next", "Last"))
    assert not _DESK.matches(f"Well. {_WHOLE}")


@pytest.mark.parametrize("length", range(len(_WHOLE) + 1))
def test_every_beginning_of_a_matching_answer_is_within_reach(length: int) -> None:
    assert _DESK.within_reach(_WHOLE[:length])


def test_a_character_that_is_half_there_does_not_count_against_an_answer() -> None:
    assert Form("na\u00efve").within_reach("na\ufffd")


@pytest.mark.parametrize("beginning", ["Twelve.", "**Long", "**Short answer:** Twelve.\n**Last"])
def test_a_beginning_that_cannot_match_any_more_is_not(beginning: str) -> None:
    # `.` takes line breaks too, so that only what the pattern names can be missed for good
    assert Form(r"\*\*Short answer:\*\* [^\n]+\n\*\*Next step:\*\* .+").within_reach(beginning) is False


def test_a_bad_pattern_is_named() -> None:
    with pytest.raises(SpecError, match=r"spec.evaluation.formatPattern: '\(' is not a regular expression"):
        Form("(")


def test_only_what_is_lost_ends_and_only_now_and_then() -> None:
    said = {0: "prompt", 1: "**Short answer:** Tw", 2: "Hello there"}
    steps: list[int] = []
    criteria = OutOfForm(
        _DESK, lambda rows: [said[int(row[0])] for row in rows], prompt=1, step=lambda: steps.append(1)
    )
    early = torch.tensor([[0, 1], [0, 2]])
    late = torch.tensor([[0] + [1] * 8, [0] + [2] * 8])
    assert criteria(early, None).tolist() == [False, False]
    assert criteria(late, None).tolist() == [False, True]
    assert len(steps) == 2
