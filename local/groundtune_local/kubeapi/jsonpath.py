"""The part of JSONPath that printer columns use: ``.a.b[0].c[?(@.type=="Ready")].d['e.f'][*]``."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

Step = Callable[[Any], list[Any]]

_TOKEN = re.compile(
    r"""
    \.(?P<field>(?:\\.|[^.\[\]\s])+)
  | \[(?P<index>-?\d+)\]
  | \[(?P<all>\*)\]
  | \[(?P<quote>['"])(?P<quoted>.*?)(?P=quote)\]
  | \[\?\(\s*@(?P<left>[^=!<>)\s]*)\s*(?:(?P<op>==|!=|>=|<=|>|<)\s*(?P<right>"[^"]*"|'[^']*'|[^)\s]+)\s*)?\)\]
    """,
    re.VERBOSE,
)


class JsonPathError(ValueError):
    """The text is no JSONPath that this understands."""


def find(path: str, value: Any) -> list[Any]:
    """All values that ``path`` leads to. Raises JsonPathError."""
    found = [value]
    for step in compile_path(path):
        found = [result for item in found for result in step(item)]
    return found


@lru_cache(maxsize=512)
def compile_path(path: str) -> tuple[Step, ...]:
    """The steps of a path. Raises JsonPathError."""
    text = path.strip().removeprefix("{").removesuffix("}").removeprefix("$")
    steps: list[Step] = []
    position = 0
    while position < len(text):
        token = _TOKEN.match(text, position)
        if not token:
            raise JsonPathError(f"{path}: can't understand {text[position:]!r}")
        steps.append(_step(token))
        position = token.end()
    return tuple(steps)


def _step(token: re.Match[str]) -> Step:
    if token["field"] is not None:
        name = re.sub(r"\\(.)", r"\1", token["field"])
        return _all if name == "*" else _field(name)
    if token["quoted"] is not None:
        return _field(token["quoted"])
    if token["all"]:
        return _all
    if token["index"] is not None:
        return _index(int(token["index"]))
    return _filter(token["left"], token["op"], token["right"])


def _field(name: str) -> Step:
    return lambda value: [value[name]] if isinstance(value, dict) and name in value else []


def _all(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, list) else []


def _index(number: int) -> Step:
    def step(value: Any) -> list[Any]:
        if isinstance(value, list) and -len(value) <= number < len(value):
            return [value[number]]
        return []

    return step


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda a, b: bool(a == b),
    "!=": lambda a, b: bool(a != b),
    ">=": lambda a, b: bool(a >= b),
    "<=": lambda a, b: bool(a <= b),
    ">": lambda a, b: bool(a > b),
    "<": lambda a, b: bool(a < b),
}


def _filter(left: str, op: str | None, right: str | None) -> Step:
    compile_path(left)  # a mistake should show when the column is declared, not when it is printed
    wanted = _literal(right) if right is not None else None

    def matches(item: Any) -> bool:
        found = find(left, item)
        if op is None:
            return bool(found)
        try:
            return any(_COMPARE[op](value, wanted) for value in found)
        except TypeError:
            return False

    return lambda value: [item for item in _all(value) if matches(item)]


def _literal(text: str) -> Any:
    if text[0] in "'\"":
        return text[1:-1]
    if text in ("true", "false"):
        return text == "true"
    try:
        return float(text) if "." in text else int(text)
    except ValueError as exc:
        raise JsonPathError(f"can't understand {text!r} as a value") from exc
