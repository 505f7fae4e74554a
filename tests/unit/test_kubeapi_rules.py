"""Validation, defaults and CEL rules of the local control plane."""

from __future__ import annotations

from typing import Any

import pytest

from groundtune_local.kubeapi.cel import CelError, check_rule, check_rules, evaluate, to_cel
from groundtune_local.kubeapi.formats import matches_format
from groundtune_local.kubeapi.schema import fill_defaults, prune_object
from groundtune_local.kubeapi.validation import newly_broken, validate


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def _messages(value: Any, **schema: Any) -> list[str]:
    return [str(cause) for cause in validate({"f": value}, _object(f=schema))]


@pytest.mark.parametrize(
    ("schema", "good", "bad", "message"),
    [
        (
            {"type": "integer"},
            1,
            True,
            'f: Invalid value: "boolean": f in body must be of type integer: "boolean"',
        ),
        (
            {"type": "integer"},
            2.0,
            2.5,
            'f: Invalid value: "number": f in body must be of type integer: "number"',
        ),
        ({"type": "number", "minimum": 1}, 1, 0.5, "f in body should be greater than or equal to 1"),
        (
            {"type": "number", "minimum": 1, "exclusiveMinimum": True},
            2,
            1,
            "f in body should be greater than 1",
        ),
        ({"type": "integer", "maximum": 3}, 3, 4, "f in body should be less than or equal to 3"),
        ({"type": "integer", "format": "int32"}, 1, 2**31, "must be of type int32"),
        ({"type": "integer", "multipleOf": 5}, 10, 11, "should be a multiple of 5"),
        ({"type": "string", "minLength": 2}, "ab", "a", "should be at least 2 chars long"),
        ({"type": "string", "maxLength": 2}, "ab", "abc", "Too long: may not be more than 2 characters"),
        ({"type": "string", "pattern": "^a"}, "ab", "b", "f in body should match '^a'"),
        (
            {"type": "string", "enum": ["A", "B"]},
            "A",
            "C",
            'Unsupported value: "C": supported values: "A", "B"',
        ),
        ({"type": "array", "maxItems": 1, "items": {}}, [1], [1, 2], "Too many: 2: must have at most 1 item"),
        ({"type": "array", "minItems": 1, "items": {}}, [1], [], "should have at least 1 items"),
        ({"type": "object", "minProperties": 1}, {"a": 1}, {}, "should have at least 1 properties"),
        ({"type": "object", "required": ["a"]}, {"a": 1}, {}, "f.a: Required value"),
        ({"type": "string", "nullable": True}, None, 1, "must be of type string"),
        ({"x-kubernetes-int-or-string": True}, "80%", [], 'must be of type integer,string: "array"'),
        ({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}, {"a": 1}, {"a": 1, "b": 2}, "Found 2 valid"),
        ({"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, {"b": 1}, {}, "at least one schema (anyOf)"),
        ({"not": {"required": ["a"]}}, {}, {"a": 1}, "must not validate the schema (not)"),
        ({"allOf": [{"required": ["a"]}]}, {"a": 1}, {}, "f.a: Required value"),
        (
            {"type": "object", "additionalProperties": {"type": "string"}},
            {"k": "v"},
            {"k": 1},
            "f[k]: Invalid value",
        ),
    ],
)
def test_a_schema_tells_good_from_bad(schema: dict[str, Any], good: Any, bad: Any, message: str) -> None:
    assert _messages(good, **schema) == []
    assert any(message in told for told in _messages(bad, **schema)), _messages(bad, **schema)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("duration", "1h30m", "1 hour"),
        ("duration", "-1.5s", "s"),
        ("date-time", "2026-01-31T10:00:00Z", "2026-01-32T10:00:00Z"),
        ("date", "2026-01-31", "31.1.2026"),
        ("ipv4", "10.0.0.1", "10.0.0.256"),
        ("cidr", "10.0.0.0/8", "10.0.0.0/99"),
        ("uri", "https://example.dev/a", "example.dev"),
        ("byte", "YQ==", "a"),
        ("hostname", "a.example.dev", "-a.dev"),
        ("uuid", "b6f4f1de-6d2c-4d2e-8e1a-3a0a4e3d2c1b", "b6f4"),
    ],
)
def test_formats(name: str, good: str, bad: str) -> None:
    assert matches_format(good, name)
    assert not matches_format(bad, name)


def test_unknown_fields_are_pruned_and_named() -> None:
    schema = _object(
        spec=_object(
            known={"type": "string"},
            free={"type": "object", "x-kubernetes-preserve-unknown-fields": True, **_object(n=_object())},
            list={"type": "array", "items": _object(a={"type": "string"})},
            map={"type": "object", "additionalProperties": _object(a={"type": "string"})},
        )
    )
    obj = {
        "apiVersion": "v1",
        "kind": "K",
        "metadata": {"name": "x", "nmae": "y"},
        "spec": {
            "known": "a",
            "unknown": 1,
            "free": {"x": 1, "n": {"dropped": 1}},
            "list": [{"a": "b", "c": 1}],
            "map": {"k": {"a": "b", "c": 1}},
        },
    }
    assert prune_object(obj, schema) == [
        "metadata.nmae",
        "spec.unknown",
        "spec.free.n.dropped",
        "spec.list[0].c",
        "spec.map[k].c",
    ]
    assert obj["spec"] == {
        "known": "a",
        "free": {"x": 1, "n": {}},
        "list": [{"a": "b"}],
        "map": {"k": {"a": "b"}},
    }


def test_defaults_reach_into_defaults_and_replace_nulls() -> None:
    inner = {**_object(depth={"type": "integer", "default": 3}), "default": {}}
    schema = _object(
        inner=inner,
        color={"type": "string", "default": "red"},
        note={"type": "string"},
        maybe={"type": "string", "nullable": True, "default": "x"},
    )
    first: dict[str, Any] = {"color": None, "note": None, "maybe": None}
    fill_defaults(first, schema)
    assert first == {"inner": {"depth": 3}, "color": "red", "maybe": None}
    first["inner"]["depth"] = 4
    second: dict[str, Any] = {}
    fill_defaults(second, schema)
    assert second["inner"] == {"depth": 3}


def test_what_was_broken_before_locks_nobody_out() -> None:
    schema = _object(spec=_object(a={"type": "string", "maxLength": 1}, b={"type": "integer"}))
    old = {"spec": {"a": "long", "b": 1}}
    new = {"spec": {"a": "long", "b": 2}}
    assert newly_broken(validate(new, schema), new, old) == []
    worse = {"spec": {"a": "longer", "b": 2}}
    assert [cause.field for cause in newly_broken(validate(worse, schema), worse, old)] == ["spec.a"]


@pytest.mark.parametrize(
    "expression",
    [
        "has(self.a) && !has(self.missing)",
        "!has(self.missing) || self.missing > 1",
        "self.list.all(x, x > 0) && self.list.exists(x, x == 2) && self.list.exists_one(x, x == 1)",
        "size(self.list) == 2 && self.text.size() == 3",
        "2 in self.list && 'k' in self.map",
        "self.map.all(k, self.map[k] == 'v')",
        "self.text.matches('^a.c$') && self.text.startsWith('a') && self.text.endsWith('c')",
        "self.text.upperAscii() == 'ABC' && 'a,b'.split(',') == ['a', 'b'] && ['a', 'b'].join('-') == 'a-b'",
        "self.text.contains('b') && self.text.indexOf('c') == 2 && self.text.substring(1) == 'bc'",
        "self.every > duration('59m') && self.at < timestamp('2030-01-01T00:00:00Z')",
        "self.ratio < 1 && self.ratio == 0.5 && self.a < 1.5 && self.a == 1.0",
        "self.list.sum() == 3 && self.list.isSorted() && self.list.max() == 2",
        "[has(self.a), has(self.missing)].filter(x, x).size() == 1",
        "self.with__dash__dash == 'd' && self.__namespace__ == 'n'",
    ],
)
def test_expressions_that_hold(expression: str) -> None:
    schema = _object(
        ratio={"type": "number"},
        every={"type": "string", "format": "duration"},
        at={"type": "string", "format": "date-time"},
        **{"with-dash": {"type": "string"}, "namespace": {"type": "string"}},
    )
    value = {
        "a": 1,
        "text": "abc",
        "list": [1, 2],
        "map": {"k": "v"},
        "ratio": 0.5,
        "every": "1h",
        "at": "2026-01-01T00:00:00Z",
        "with-dash": "d",
        "namespace": "n",
    }
    assert evaluate(expression, {"self": to_cel(value, schema)})


def test_rules_that_do_not_compile_or_evaluate_say_why() -> None:
    with pytest.raises(CelError, match="compilation failed"):
        check_rule("self.a ==")
    schema = {**_object(a={"type": "integer"}), "x-kubernetes-validations": [{"rule": "self.a > 1"}]}
    (cause,) = check_rules({}, schema, None)
    assert "no such member in mapping: 'a'" in cause.message


def test_rules_tell_where_and_why() -> None:
    rules = [
        {
            "rule": "self.a < self.b",
            "message": "a before b",
            "fieldPath": ".a",
            "reason": "FieldValueForbidden",
        },
        {"rule": "self.b < 5", "messageExpression": "'b is ' + string(self.b)"},
        {"rule": "self.b < 4"},
    ]
    spec = {**_object(a={"type": "integer"}, b={"type": "integer"}), "x-kubernetes-validations": rules}
    causes = [str(cause) for cause in check_rules({"spec": {"a": 9, "b": 6}}, _object(spec=spec), None)]
    assert causes == [
        "spec.a: Forbidden: a before b",
        'spec: Invalid value: "object": b is 6',
        'spec: Invalid value: "object": failed rule: self.b < 4',
    ]


def test_transition_rules_follow_the_items_of_keyed_lists() -> None:
    item = {
        **_object(name={"type": "string"}, size={"type": "integer"}),
        "x-kubernetes-validations": [{"rule": "self.size >= oldSelf.size", "message": "shrinks"}],
    }
    parts = {
        "type": "array",
        "items": item,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
    }
    old = {"parts": [{"name": "a", "size": 5}, {"name": "b", "size": 1}]}
    new = {"parts": [{"name": "b", "size": 2}, {"name": "a", "size": 4}, {"name": "c", "size": 0}]}
    assert [cause.field for cause in check_rules(new, _object(parts=parts), old)] == ["parts[1]"]
    assert check_rules(new, _object(parts=parts), None) == []
