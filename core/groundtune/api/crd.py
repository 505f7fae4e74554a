"""CustomResourceDefinitions from the pydantic types.

A CRD's structural schema is a subset of JSON Schema. What the subset can't say fails loudly here, at
generation, instead of being dropped: a rule that is not in the CRD would not be a rule.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from groundtune.api import KINDS
from groundtune.api.common import GROUP, VERSION, Resource

_COPIED = frozenset(
    {
        "type",
        "description",
        "default",
        "enum",
        "pattern",
        "minLength",
        "maxLength",
        "minimum",
        "maximum",
        "minItems",
        "maxItems",
        "maxProperties",
        "format",
        "x-kubernetes-validations",
        "x-kubernetes-list-type",
        "x-kubernetes-list-map-keys",
    }
)


class _WithFactoryDefaults(GenerateJsonSchema):
    """Says defaults that come from a factory too, as an API server has to fill them in."""

    def get_default_value(self, schema: core_schema.WithDefaultSchema) -> Any:
        if "default_factory" not in schema:
            return super().get_default_value(schema)
        value = schema["default_factory"]()  # type: ignore[call-arg]
        # {} lets the nested fields' own defaults apply; an empty list says no more than an absent one.
        return {} if isinstance(value, BaseModel) else [_plain(item) for item in value] or None


class _Dumper(yaml.SafeDumper):
    """Repeats shared parts instead of naming them: anchors are legal YAML that people don't expect in a CRD."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _plain(value: Any) -> Any:
    return (
        value.model_dump(exclude_none=True, exclude_defaults=True) if isinstance(value, BaseModel) else value
    )


class CrdError(ValueError):
    """A type that a structural schema can't express, or a field that lacks what users need."""


def crd(kind: type[Resource]) -> dict[str, Any]:
    """The CustomResourceDefinition of a kind, as a plain object.

    Raises:
        CrdError: a field can't be expressed, has no description or is unbounded.
    """
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind.kind_name,
                "listKind": f"{kind.kind_name}List",
                "plural": kind.plural,
                "singular": kind.kind_name.lower(),
                "shortNames": [kind.short],
                "categories": ["groundtune"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": _root_schema(kind)},
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        {
                            "name": column.name,
                            "type": column.type,
                            "jsonPath": column.json_path,
                            "description": column.description,
                            **({"priority": column.priority} if column.priority else {}),
                        }
                        for column in kind.columns
                    ],
                }
            ],
        },
    }


def crd_yaml(kind: type[Resource]) -> str:
    """The CRD as the text of its file in `manifests/crds/`."""
    head = "# Generated from groundtune.api by `groundtune crds`; edit the types, not this file.\n"
    return head + yaml.dump(crd(kind), Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)


def crd_files() -> dict[str, str]:
    """File name → text, for every kind."""
    return {f"{GROUP}_{kind.plural}.yaml": crd_yaml(kind) for kind in KINDS}


def stale_files(folder: Path) -> list[str]:
    """Names of CRD files in `folder` that are missing or differ from the types."""
    return [
        name
        for name, text in crd_files().items()
        if not (folder / name).is_file() or (folder / name).read_text(encoding="utf-8") != text
    ]


def write_files(folder: Path) -> None:
    """Write every CRD file into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in crd_files().items():
        (folder / name).write_text(text, encoding="utf-8")


def _root_schema(kind: type[Resource]) -> dict[str, Any]:
    spec_schema = kind.spec_type.model_json_schema(
        by_alias=True, mode="validation", schema_generator=_WithFactoryDefaults
    )
    status_schema = kind.status_type.model_json_schema(
        by_alias=True, mode="validation", schema_generator=_WithFactoryDefaults
    )
    spec = _convert(spec_schema, spec_schema.get("$defs", {}), f"{kind.kind_name}.spec")
    status = _convert(status_schema, status_schema.get("$defs", {}), f"{kind.kind_name}.status")
    status.pop("required", None)
    return {
        "type": "object",
        "description": kind.summary,
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": "Version of the schema of this object."},
            "kind": {"type": "string", "description": "The REST resource that this object is."},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status,
        },
    }


def _convert(node: dict[str, Any], defs: dict[str, Any], path: str) -> dict[str, Any]:
    node = dict(node)
    if "$ref" in node:
        target = defs[node.pop("$ref").rsplit("/", 1)[-1]]
        node = {**target, **node}
    nullable = False
    if "anyOf" in node:
        options = [option for option in node.pop("anyOf") if option != {"type": "null"}]
        nullable = True
        if len(options) != 1:
            raise CrdError(
                f"{path}: a union of {len(options)} types can't be expressed in a structural schema"
            )
        return _convert({**options[0], **node}, defs, path) | ({"nullable": True} if nullable else {})
    schema: dict[str, Any] = {}
    for key, value in node.items():
        if key in _COPIED:
            schema[key] = value
        elif key == "const":
            schema["enum"] = [value]
        elif key in ("exclusiveMinimum", "exclusiveMaximum"):
            bound = "minimum" if key == "exclusiveMinimum" else "maximum"
            schema[bound] = value
            schema[key] = True
        elif key == "properties":
            schema["properties"] = {
                name: _property(child, defs, f"{path}.{name}") for name, child in value.items()
            }
        elif key == "items":
            schema["items"] = _convert(value, defs, f"{path}[]")
        elif key == "additionalProperties":
            if value is not False:
                schema["additionalProperties"] = _convert(value, defs, f"{path}.*")
        elif key == "required":
            schema["required"] = list(value)
        elif key not in ("title", "$defs"):
            raise CrdError(f"{path}: JSON schema keyword {key!r} can't be expressed in a structural schema")
    if schema.get("default", ...) is None:
        del schema["default"]
    _require_bounds(schema, path)
    return schema


def _property(node: dict[str, Any], defs: dict[str, Any], path: str) -> dict[str, Any]:
    if "description" not in node:
        raise CrdError(f"{path}: every field needs a description (kubectl explain shows it)")
    return _convert(node, defs, path)


def _require_bounds(schema: dict[str, Any], path: str) -> None:
    kind = schema.get("type")
    if kind == "array" and "maxItems" not in schema:
        raise CrdError(f"{path}: a list needs max_length, or its CEL rules can't be costed")
    if path.split(".")[1].startswith("status"):
        return  # only the operator writes it; some of its strings are formats or short lists of names
    if kind == "string" and not ({"maxLength", "enum", "format"} & schema.keys()):
        raise CrdError(f"{path}: a string needs max_length, or its CEL rules can't be costed")
