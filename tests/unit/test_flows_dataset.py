"""Checking chats before they are trained on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from groundtune.api.sources import Source
from groundtune.errors import SourceError
from groundtune_flows.dataset import Dataset, leaks, load_dataset, require_valid
from groundtune_flows.sources.found import Places


def chat(question: str, answer: str = "Yes.", **extra: str) -> str:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer, **extra}]
    return json.dumps({"messages": turns})


def load(folder: Path, path: str = "") -> Dataset:
    source = Source.model_validate({"volume": {"claimName": folder.name, "path": path}})
    return load_dataset(source, Places(*[folder.parent] * 4), field="spec.dataset")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "c"
    made.mkdir()
    return made


def test_all_jsonl_files_of_a_folder_in_order(folder: Path) -> None:
    (folder / "b.jsonl").write_text(chat("second"))
    (folder / "a.jsonl").write_text(f"{chat('first')}\n\n{chat('first')}\n")
    (folder / "notes.txt").write_text("not a chat")
    dataset = load(folder)
    assert [example.messages[0]["content"] for example in dataset.examples] == ["first", "first", "second"]
    assert [example.where for example in dataset.examples] == [
        "a.jsonl line 1",
        "a.jsonl line 3",
        "b.jsonl line 1",
    ]
    assert (dataset.duplicates, dataset.problems) == (1, [])
    assert load(folder, "b.jsonl").examples[0].where == "b.jsonl line 1"


def test_the_hash_is_that_of_the_chats(folder: Path) -> None:
    (folder / "a.jsonl").write_text(f"{chat('one')}\n{chat('two')}\n")
    before = load(folder).hash
    (folder / "a.jsonl").rename(folder / "renamed.jsonl")
    assert load(folder).hash == before
    (folder / "renamed.jsonl").write_text(f"{chat('two')}\n{chat('one')}\n")
    assert load(folder).hash != before


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("not json", "is not JSON"),
        ("{}", "messages: Field required"),
        ('{"messages": []}', "messages: "),
        (
            '{"messages": [{"role": "user", "content": "q"}]}',
            "the last of messages has to be the assistant's",
        ),
        ('{"messages": [{"role": "bot", "content": "q"}]}', "messages[0].role: "),
        ('{"messages": [{"role": "user"}]}', "messages[0].content: Field required"),
        (chat("q", answer=" "), "the assistant's answer is empty"),
        (chat("q", tool_calls="x"), "messages[1].tool_calls: Extra inputs are not permitted"),
    ],
)
def test_a_wrong_line_is_named(folder: Path, line: str, problem: str) -> None:
    (folder / "a.jsonl").write_text(f"{chat('fine')}\n{line}\n{line}\n")
    dataset = load(folder)
    assert len(dataset.examples) == 1
    with pytest.raises(SourceError) as caught:
        require_valid(dataset.problems, dataset, "spec.dataset")
    assert caught.value.reason == "DatasetInvalid"
    assert str(caught.value).startswith("spec.dataset: a.jsonl line 2: ")
    assert problem in str(caught.value)
    assert str(caught.value).endswith("(1 more in the run's table)")


def test_an_empty_file_and_a_missing_one(folder: Path) -> None:
    with pytest.raises(SourceError, match=r"holds no \.jsonl file") as missing:
        load(folder)
    assert missing.value.reason == "DatasetNotFound"
    (folder / "a.jsonl").write_text("")
    dataset = load(folder)
    with pytest.raises(SourceError, match=r"a\.jsonl: is empty") as empty:
        require_valid(dataset.problems, dataset, "spec.dataset")
    assert empty.value.reason == "DatasetInvalid"


def test_a_held_out_question_that_is_trained_on_leaks(folder: Path) -> None:
    (folder / "train.jsonl").write_text(f"{chat('What is it?')}\n{chat('Other?')}\n")
    (folder / "held.jsonl").write_text(f"{chat('New?')}\n{chat('what  IS it?', 'Another answer.')}\n")
    (leak,) = leaks(load(folder, "train.jsonl"), load(folder, "held.jsonl"))
    assert leak.where == "held.jsonl line 2"
    assert "train.jsonl line 1" in leak.problem
