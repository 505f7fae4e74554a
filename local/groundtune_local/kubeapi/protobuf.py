"""Reads the protobuf bodies that kubectl sends for a few built-in kinds; every answer is JSON.

Only the messages that kubectl's own commands write are known (``create namespace``, ``create
configmap``, ``auth can-i`` …); other kinds come as JSON from any client.
"""

from __future__ import annotations

import base64
import datetime
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from groundtune_local.kubeapi.errors import bad_request, unsupported_media_type
from groundtune_local.kubeapi.objects import Obj

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class _Field:
    name: str
    read: Callable[[Any], Any]
    repeated: bool = False
    is_map: bool = False


_Message = dict[int, _Field]


def decode(body: bytes) -> Obj:
    """The object in a body. Raises ApiError 400 for what is not protobuf, 415 for unknown kinds."""
    if not body.startswith(_MAGIC):
        raise bad_request("the body is not in Kubernetes' protobuf form")
    try:
        envelope = _read(body[len(_MAGIC) :], _UNKNOWN)
        kind = envelope["typeMeta"]
        message = _KINDS.get(kind["kind"])
        if message is None:
            raise unsupported_media_type(
                f"the local control plane does not read {kind['kind']} as protobuf; send it as application/json"
            )
        return {**kind, **_read(envelope.get("raw", b""), message)}
    except (IndexError, KeyError, UnicodeDecodeError) as exc:
        raise bad_request(f"the protobuf body can't be read: {exc}") from exc


def _read(data: bytes, message: _Message) -> Obj:
    result: Obj = {}
    for number, value in _fields(data):
        field = message.get(number)
        if field is None:
            continue
        item = field.read(value)
        if field.is_map:
            result.setdefault(field.name, {})[item.get("key", "")] = item.get("value", "")
        elif field.repeated:
            result.setdefault(field.name, []).append(item)
        elif item not in ("", {}, None):
            result[field.name] = item
    return result


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == _VARINT:
            value, position = _varint(data, position)
            yield number, value
            continue
        if wire_type == _BYTES:
            length, position = _varint(data, position)
        elif wire_type in (_FIXED64, _FIXED32):
            length = 8 if wire_type == _FIXED64 else 4
        else:
            raise IndexError(f"unknown wire type {wire_type}")
        if position + length > len(data):
            raise IndexError("it is cut short")
        yield number, data[position : position + length]
        position += length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _text(name: str, *, repeated: bool = False) -> _Field:
    return _Field(name, lambda value: value.decode(), repeated)


def _number(name: str) -> _Field:
    return _Field(name, lambda value: value - (1 << 64) if value >> 63 else value)


def _flag(name: str) -> _Field:
    return _Field(name, bool)


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _time(value: bytes) -> str | None:
    seconds = dict(_fields(value)).get(1)
    if not seconds:
        return None
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _nested(name: str, message: _Message, *, repeated: bool = False) -> _Field:
    return _Field(name, lambda value: _read(value, message), repeated)


def _map(name: str, value: Callable[[Any], Any] = bytes.decode) -> _Field:
    entry: _Message = {1: _text("key"), 2: _Field("value", value)}
    return _Field(name, lambda data: _read(data, entry), is_map=True)


_OWNER: _Message = {
    1: _text("kind"),
    3: _text("name"),
    4: _text("uid"),
    5: _text("apiVersion"),
    6: _flag("controller"),
    7: _flag("blockOwnerDeletion"),
}
_META: _Message = {
    1: _text("name"),
    2: _text("generateName"),
    3: _text("namespace"),
    5: _text("uid"),
    6: _text("resourceVersion"),
    7: _number("generation"),
    8: _Field("creationTimestamp", _time),
    11: _map("labels"),
    12: _map("annotations"),
    13: _nested("ownerReferences", _OWNER, repeated=True),
    14: _text("finalizers", repeated=True),
}
_REFERENCE: _Message = {3: _text("name")}
_LOCAL_REFERENCE: _Message = {1: _text("name")}
_ATTRIBUTES: _Message = {
    1: _text("namespace"),
    2: _text("verb"),
    3: _text("group"),
    4: _text("version"),
    5: _text("resource"),
    6: _text("subresource"),
    7: _text("name"),
}
_UNKNOWN: _Message = {
    1: _nested("typeMeta", {1: _text("apiVersion"), 2: _text("kind")}),
    2: _Field("raw", bytes),
}
_KINDS: dict[str, _Message] = {
    "Namespace": {
        1: _nested("metadata", _META),
        2: _nested("spec", {1: _text("finalizers", repeated=True)}),
        3: _nested("status", {1: _text("phase")}),
    },
    "ConfigMap": {
        1: _nested("metadata", _META),
        2: _map("data"),
        3: _map("binaryData", _base64),
        4: _flag("immutable"),
    },
    "Secret": {
        1: _nested("metadata", _META),
        2: _map("data", _base64),
        3: _text("type"),
        4: _map("stringData"),
        5: _flag("immutable"),
    },
    "ServiceAccount": {
        1: _nested("metadata", _META),
        2: _nested("secrets", _REFERENCE, repeated=True),
        3: _nested("imagePullSecrets", _LOCAL_REFERENCE, repeated=True),
        4: _flag("automountServiceAccountToken"),
    },
    "SelfSubjectAccessReview": {
        1: _nested("metadata", _META),
        2: _nested(
            "spec",
            {
                1: _nested("resourceAttributes", _ATTRIBUTES),
                2: _nested("nonResourceAttributes", {1: _text("path"), 2: _text("verb")}),
            },
        ),
    },
    "SelfSubjectRulesReview": {1: _nested("metadata", _META), 2: _nested("spec", {1: _text("namespace")})},
    "SelfSubjectReview": {1: _nested("metadata", _META)},
    "DeleteOptions": {
        1: _number("gracePeriodSeconds"),
        3: _flag("orphanDependents"),
        4: _text("propagationPolicy"),
        2: _nested("preconditions", {1: _text("uid"), 2: _text("resourceVersion")}),
        5: _text("dryRun", repeated=True),
    },
}
