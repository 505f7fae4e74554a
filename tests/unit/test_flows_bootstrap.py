"""Questions made up from a corpus, and what a document says of itself."""

from __future__ import annotations

import pytest

from groundtune_flows.bootstrap import Passage, simulated_questions
from groundtune_flows.formats.attributes import front_matter
from groundtune_flows.golden import Question, place

_PASSAGES = [
    Passage(
        f"volume://docs/{name}.md",
        "Handbook > Devices",
        f"The {name} pairs by holding its {colour} button for some seconds. It then is listed with the others.",
    )
    for name, colour in (("hub", "violet"), ("lamp", "amber"), ("sensor", "green"))
]


def test_each_question_is_about_a_sentence_of_the_corpus_and_marked() -> None:
    lines = simulated_questions(_PASSAGES, 3)
    assert {line["relevant"][0]["source"] for line in lines} == {each.source for each in _PASSAGES}
    for line in lines:
        question = Question.model_validate(line)
        assert question.bootstrap
        assert question.question.startswith("Devices: ")
        text = next(each.text for each in _PASSAGES if each.source == question.relevant[0].source)
        assert question.relevant[0].text
        assert place(question.relevant[0], [(question.relevant[0].source, text)]).spans
        words = question.question.removeprefix("Devices: ").split()
        assert 4 <= len(words) <= 8
        assert set(words) <= set(text.replace(".", "").split())


def test_the_same_corpus_gives_the_same_questions_in_turns() -> None:
    many = [*_PASSAGES, *(Passage("volume://docs/hub.md", "", each.text) for each in _PASSAGES)]
    lines = simulated_questions(many, 4)
    assert lines == simulated_questions(many, 4)
    assert len({line["relevant"][0]["source"] for line in lines[:3]}) == 3
    assert len(simulated_questions(many, 100)) == 6
    assert simulated_questions([Passage("a.md", "", "Too short.")], 5) == []


def test_words_that_tell_a_passage_from_others_are_asked_for() -> None:
    lines = [line for seed in range(40) for line in simulated_questions(_PASSAGES, 3, seed)]
    about = [line["question"].split() for line in lines if "violet" in line["relevant"][0]["text"]]
    asked = {word: sum(word in question for question in about) for word in ("violet", "for", "its")}
    assert asked["violet"] > 0.9 * len(about)
    assert max(asked["for"], asked["its"]) < 0.9 * asked["violet"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "---\nteam: red\nyear: 2026\nlive: true\nsince: 2026-01-31\n---\ntext",
            {"team": "red", "year": 2026, "live": True, "since": "2026-01-31"},
        ),
        ("---\ntags: [a, b]\nnested: {a: 1}\nnothing:\nodd: .nan\n---\n", {}),
        ("---\n- a list\n---\n", {}),
        ("---\nbroken: [\n---\n", {}),
        ("---\n!!python/object/apply:os.system [ls]\n---\n", {}),
        ("no front matter\n---\na: 1\n---\n", {}),
        ("---\nlong: " + "x" * 600 + "\n---\n", {"long": "x" * 512}),
        ("---\n" + "".join(f"k{n}: {n}\n" for n in range(20)) + "---\n", {f"k{n}": n for n in range(16)}),
    ],
)  # fmt: skip
def test_front_matter_says_what_can_be_filtered_by(text: str, said: dict[str, object]) -> None:
    assert front_matter(text) == said
