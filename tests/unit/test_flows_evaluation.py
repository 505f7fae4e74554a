"""Retrieval scores and gates, and the golden set's own format."""

from __future__ import annotations

from math import log2
from pathlib import Path

import pytest

from groundtune.api.knowledge_base import RetrievalGates
from groundtune.api.sources import Source
from groundtune.errors import SpecError
from groundtune_flows.evaluation import Scores, failed_gates, mean, score
from groundtune_flows.golden import Relevant, is_source, load_golden, place
from groundtune_flows.sources.found import Places


def hits(*held: set[int]) -> list[frozenset[int]]:
    return [frozenset(numbers) for numbers in held]


def test_scores_of_a_ranking_worked_out_by_hand() -> None:
    # two expected passages; the first hit holds none, the second one of them, the fourth the same again
    scores = score(hits(set(), {0}, set(), {0}), expected=2, k=4)
    assert scores.recall == 0.5
    assert scores.precision == 0.5
    assert scores.mrr == 0.5
    assert scores.ndcg == pytest.approx((1 / log2(3)) / (1 + 1 / log2(3)))


def test_a_perfect_ranking_and_an_empty_one() -> None:
    assert score(hits({0}, {1}), expected=2, k=2) == Scores(1.0, 1.0, 1.0, 1.0)
    assert score(hits({0, 1}), expected=2, k=1) == Scores(1.0, 1.0, 1.0, 1.0)
    assert score([], expected=1, k=5) == Scores(0.0, 0.0, 0.0, 0.0)


def test_only_the_first_k_count() -> None:
    assert score(hits(set(), set(), {0}), expected=1, k=2) == Scores(0.0, 0.0, 0.0, 0.0)


def test_means_are_over_questions() -> None:
    assert mean([Scores(1, 0, 1, 0), Scores(0, 0, 0.5, 1)]) == Scores(0.5, 0, 0.75, 0.5)


def test_gates_name_the_score_and_the_bound() -> None:
    gates = RetrievalGates(min_recall=0.8, min_precision=0.2, min_mrr=0.5, max_regression=0.1)
    assert failed_gates(Scores(0.8, 0.2, 0.5, 0), Scores(0.9, 1, 1, 1), gates, 5) == []
    lines = failed_gates(Scores(0.7, 0.1, 0.4, 0), Scores(0.9, 1, 1, 1), gates, 5)
    assert lines == [
        "recall@5 0.700 is below minRecall 0.8",
        "precision@5 0.100 is below minPrecision 0.2",
        "MRR@5 0.400 is below minMRR 0.5",
        "recall@5 0.700 is 0.200 below the live version's 0.900, more than maxRegression 0.1",
    ]
    assert failed_gates(Scores(0, 0, 0, 0), None, RetrievalGates(max_regression=0.0), 5) == []


def test_a_quote_is_found_across_line_breaks_and_a_source_by_whole_parts() -> None:
    documents = [
        ("volume://c/docs/a.md", "The plan\ncosts  34 euros."),
        ("volume://c/docs/aa.md", "34 euros"),
    ]
    found = place(Relevant(source="a.md", text="costs 34 euros"), documents)
    assert found.spans == {"volume://c/docs/a.md": [(9, 24)]}
    assert found.holds("volume://c/docs/a.md", 20, 60)
    assert not found.holds("volume://c/docs/a.md", 24, 60)
    assert not found.holds("volume://c/docs/aa.md", 0, 99)
    whole = place(Relevant(source="docs/aa.md"), documents)
    assert whole.holds("volume://c/docs/aa.md", 5, 6)
    assert is_source("s3://b/x.md", "s3://b/x.md")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "is not JSON"),
        ('{"question": " ", "relevant": [{"source": "a.md"}]}', "line 2: question:"),
        ('{"question": "q"}', "line 2: relevant: Field required"),
        ('{"question": "q", "relevant": []}', "line 2: relevant:"),
        ('{"question": "q", "relevant": [{"text": "t"}]}', "line 2: relevant[0].source: Field required"),
    ],
)
def test_a_malformed_golden_set_names_field_and_line(tmp_path: Path, line: str, complaint: str) -> None:
    (tmp_path / "c").mkdir()
    good = '{"question": "q", "relevant": [{"source": "a.md"}], "note": "free"}'
    (tmp_path / "c" / "g.jsonl").write_text(f"{good}\n{line}\n")
    source = Source.model_validate({"volume": {"claimName": "c", "path": "g.jsonl"}})
    with pytest.raises(SpecError) as caught:
        load_golden(source, Places(tmp_path, tmp_path, tmp_path, tmp_path))
    assert str(caught.value).startswith("spec.evaluation.dataset: g.jsonl line 2: ")
    assert complaint in str(caught.value)
    assert caught.value.reason == "GoldenSetInvalid"


def test_a_missing_golden_set_is_named(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    source = Source.model_validate({"volume": {"claimName": "c", "path": "g.jsonl"}})
    with pytest.raises(
        SpecError, match=r"spec\.evaluation\.dataset\.volume\.path: g\.jsonl does not exist"
    ) as caught:
        load_golden(source, Places(tmp_path, tmp_path, tmp_path, tmp_path))
    assert caught.value.reason == "GoldenSetNotFound"
