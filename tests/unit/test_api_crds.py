"""The CRDs say what the types say, and refuse what can't be said."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import Field, ValidationError

from groundtune.api import KINDS, KnowledgeBaseSpec
from groundtune.api.common import _CRON_PATTERN, ApiModel, Resource
from groundtune.api.crd import CrdError, crd, stale_files, write_files

REPOSITORY = Path(__file__).resolve().parents[2]


def _schema(kind: type[Resource]) -> dict[str, Any]:
    schema: dict[str, Any] = crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def test_the_committed_files_are_in_step() -> None:
    assert stale_files(REPOSITORY / "manifests" / "crds") == []


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    write_files(tmp_path)
    changed = tmp_path / "groundtune.io_knowledgebases.yaml"
    changed.write_text(changed.read_text().replace("recall", "RECALL"))
    assert stale_files(tmp_path) == [changed.name]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind_name)
def test_objects_default_as_a_whole_so_that_nested_defaults_apply(kind: type[Resource]) -> None:
    spec = _schema(kind)["properties"]["spec"]
    for name, field in spec["properties"].items():
        if field["type"] == "object" and name not in spec["required"] and not field.get("nullable"):
            assert field["default"] == {}, name


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind_name)
def test_conditions_are_a_map_by_type(kind: type[Resource]) -> None:
    conditions = _schema(kind)["properties"]["status"]["properties"]["conditions"]
    assert conditions["x-kubernetes-list-type"] == "map"
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]


def test_a_field_without_description_is_refused() -> None:
    class Bare(ApiModel):
        silent: int

    class Broken(KINDS[0]):  # type: ignore[valid-type, misc]
        spec_type = Bare

    with pytest.raises(CrdError, match="silent: every field needs a description"):
        crd(Broken)


def test_an_unbounded_string_is_refused() -> None:
    class Long(ApiModel):
        text: str = Field(description="Anything.")

    class Broken(KINDS[0]):  # type: ignore[valid-type, misc]
        spec_type = Long

    with pytest.raises(CrdError, match="text: a string needs max_length"):
        crd(Broken)


def test_a_union_is_refused() -> None:
    class Either(ApiModel):
        value: int | str = Field(description="One or the other.")

    class Broken(KINDS[0]):  # type: ignore[valid-type, misc]
        spec_type = Either

    with pytest.raises(CrdError, match="union of 2 types"):
        crd(Broken)


@pytest.mark.parametrize(
    "expression",
    ["* * * * *", "0 */6 * * *", "30 2 1,15 * *", "0 9-17/2 * * mon-fri", "59 23 31 12 7", "5 4 * JAN sun"],
)
def test_cron_expressions_that_are_taken(expression: str) -> None:
    assert re.match(_CRON_PATTERN, expression)


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "* * * *",
        "60 * * * *",
        "0 24 * * *",
        "0 0 32 * *",
        "0 0 * 13 *",
        "0 0 * * 8",
        "every day",
        "*/0 * * * *",
        "0 0 * * * *",
    ],
)
def test_cron_expressions_that_are_refused(expression: str) -> None:
    assert not re.match(_CRON_PATTERN, expression)


def test_an_unknown_field_is_refused_by_the_type_too() -> None:
    with pytest.raises(ValidationError, match="scedule"):
        KnowledgeBaseSpec.model_validate(
            {"sources": [{"volume": {"claimName": "docs"}}], "refresh": {"scedule": "* * * * *"}}
        )


def test_the_example_manifests_fit_the_types() -> None:
    kinds = {kind.kind_name: kind for kind in KINDS}
    found = sorted((REPOSITORY / "manifests" / "examples").rglob("*.yaml"))
    assert len(found) >= 3
    for path in found:
        for manifest in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            kinds[manifest["kind"]].spec_type.model_validate(manifest["spec"])
