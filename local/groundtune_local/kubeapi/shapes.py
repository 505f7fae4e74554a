"""The shape of a custom resource definition, itself written as schemas."""

from __future__ import annotations

from groundtune_local.kubeapi.resources import Schema
from groundtune_local.kubeapi.schema import LIST_KEYS, LIST_TYPE, MAP_TYPE, PRESERVE, VALIDATIONS

_TEXT: Schema = {"type": "string", "minLength": 1}
_TEXTS: Schema = {"type": "array", "items": _TEXT}
_FLAG: Schema = {"type": "boolean"}
_NUMBER: Schema = {"type": "number"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_ANY_OBJECT: Schema = {"type": "object"}
_BRANCHES: Schema = {"type": "array", "items": _ANY_OBJECT}


def _object(required: str, **properties: Schema) -> Schema:
    return {"type": "object", "required": required.split(), "properties": properties}


_COLUMN_TYPES = ["integer", "number", "string", "boolean", "date"]
_VERSION = _object(
    "name served storage schema",
    name=_TEXT,
    served=_FLAG,
    storage=_FLAG,
    deprecated=_FLAG,
    deprecationWarning=_TEXT,
    schema=_object("openAPIV3Schema", openAPIV3Schema=_ANY_OBJECT),
    subresources=_object(
        "",
        status=_ANY_OBJECT,
        scale=_object(
            "specReplicasPath statusReplicasPath",
            specReplicasPath=_TEXT,
            statusReplicasPath=_TEXT,
            labelSelectorPath=_TEXT,
        ),
    ),
    additionalPrinterColumns={
        "type": "array",
        "items": _object(
            "name type jsonPath",
            name=_TEXT,
            type={"type": "string", "enum": _COLUMN_TYPES},
            jsonPath=_TEXT,
            priority=_COUNT,
            description={"type": "string"},
            format={"type": "string"},
        ),
    },
    selectableFields={"type": "array", "items": _object("jsonPath", jsonPath=_TEXT)},
)

DEFINITION: Schema = _object(
    "spec",
    spec=_object(
        "group names scope versions",
        group=_TEXT,
        scope={"type": "string", "enum": ["Cluster", "Namespaced"]},
        names=_object(
            "plural kind",
            plural=_TEXT,
            kind=_TEXT,
            singular=_TEXT,
            listKind=_TEXT,
            shortNames=_TEXTS,
            categories=_TEXTS,
        ),
        versions={"type": "array", "minItems": 1, "items": _VERSION},
        conversion=_object("strategy", strategy=_TEXT),
    ),
)
"""What a definition has to look like before anything else is asked of it."""

NODE: Schema = {
    "type": "object",
    "properties": {
        "type": {"type": "string", "enum": ["array", "boolean", "integer", "number", "object", "string"]},
        "properties": {"type": "object", "additionalProperties": _ANY_OBJECT},
        "items": _ANY_OBJECT,
        "required": _TEXTS,
        "enum": {"type": "array"},
        "format": _TEXT,
        "nullable": _FLAG,
        "pattern": _TEXT,
        **dict.fromkeys(("allOf", "anyOf", "oneOf"), _BRANCHES),
        "not": _ANY_OBJECT,
        **dict.fromkeys(("minimum", "maximum", "multipleOf"), _NUMBER),
        **dict.fromkeys(("exclusiveMinimum", "exclusiveMaximum", PRESERVE), _FLAG),
        **{f"{side}{what}": _COUNT for side in ("min", "max") for what in ("Length", "Items", "Properties")},
        LIST_TYPE: {"type": "string", "enum": ["atomic", "map", "set"]},
        LIST_KEYS: _TEXTS,
        MAP_TYPE: {"type": "string", "enum": ["atomic", "granular"]},
        VALIDATIONS: {
            "type": "array",
            "items": _object(
                "rule",
                rule=_TEXT,
                message=_TEXT,
                messageExpression=_TEXT,
                fieldPath=_TEXT,
                reason={
                    "type": "string",
                    "enum": [
                        "FieldValueInvalid",
                        "FieldValueForbidden",
                        "FieldValueRequired",
                        "FieldValueDuplicate",
                    ],
                },
            ),
        },
    },
}
"""What one schema in a definition has to look like; the schemas in it are looked at one by one."""

_TEXT_MAP: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
_BYTES_MAP: Schema = {"type": "object", "additionalProperties": {"type": "string", "format": "byte"}}

BUILTIN: dict[str, Schema] = {
    "configmaps": _object("", data=_TEXT_MAP, binaryData=_BYTES_MAP),
    "customresourcedefinitions": DEFINITION,
    "events": _object("involvedObject", involvedObject=_ANY_OBJECT),
    "leases": _object("", spec=_ANY_OBJECT),
    "namespaces": _object("", spec=_object("", finalizers=_TEXTS), status=_ANY_OBJECT),
    "secrets": _object("", data=_BYTES_MAP, stringData=_TEXT_MAP, type=_TEXT),
    "serviceaccounts": _object("", secrets=_BRANCHES, imagePullSecrets=_BRANCHES),
    "services": _object("", spec=_object("", ports=_BRANCHES), status=_ANY_OBJECT),
}
"""What built-in kinds have to look like for the server to handle them."""
