"""The documentation names what the code knows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from groundtune.api import KnowledgeBaseSpec
from groundtune.costs import Prices
from groundtune_operator.reasons import Reason

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
OPERATOR = ROOT / "operator" / "groundtune_operator"
_SOURCES = [{"volume": {"claimName": "c"}}]
RAISED = re.compile(r"""reason(?:: str)? ?= ?"([A-Z][A-Za-z]+)"|RunError\("([A-Z][A-Za-z]+)\"""")


def _raised() -> set[str]:
    folders = ("core/groundtune", "flows/groundtune_flows")
    texts = [path.read_text(encoding="utf-8") for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return {name for text in texts for match in RAISED.findall(text) for name in match if name}


def test_every_reason_has_its_entry_in_the_troubleshooting_page() -> None:
    page, _, events = (DOCS / "troubleshooting.md").read_text(encoding="utf-8").partition("## Events")
    entries = set(re.findall(r"^\| ([A-Z][A-Za-z]+) \|", page, re.MULTILINE))
    raised = _raised()
    assert len(raised) > 10
    assert {reason.value for reason in Reason} | raised == entries
    code = "".join(path.read_text(encoding="utf-8") for path in OPERATOR.rglob("*.py"))
    written = set(
        re.findall(r'(?:Event\(\s*"\w+"(?: if [^"]*"\w+"| if .* else "\w+")?,\s*|_began\(.*, )"(\w+)"', code)
    )
    named = {
        name for row in re.findall(r"^\| ([A-Z].*?) \|", events, re.MULTILINE) for name in row.split(", ")
    }
    assert written == named


def test_every_operator_reason_is_explained_in_its_own_words() -> None:
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    for reason in Reason:
        assert f"| {reason.value} | {reason.meaning} |" in page


@pytest.mark.parametrize("page", sorted([ROOT / "README.md", *DOCS.glob("*.md")]), ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_quick_start_shows_the_file_that_it_applies() -> None:
    shown = re.search(
        r"^```yaml\n(.*?)^```", (DOCS / "quickstart.md").read_text(encoding="utf-8"), re.M | re.S
    )
    assert shown is not None
    assert shown[1] == (ROOT / "manifests/examples/handbook/handbook.yaml").read_text(encoding="utf-8")


def test_the_parts_of_a_spec_that_are_shown_are_valid() -> None:
    page = (DOCS / "knowledge-bases.md").read_text(encoding="utf-8")
    shown = [
        yaml.safe_load(each) for each in re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    ]
    parts = [each for each in shown if "asOf" not in each]
    specs = [KnowledgeBaseSpec.model_validate({"sources": _SOURCES, **part}) for part in parts]
    assert [source.kind for source in specs[0].sources] == ["git", "http", "sql"]
    assert [Prices.model_validate(each).currency for each in shown if each not in parts] == ["EUR"]
