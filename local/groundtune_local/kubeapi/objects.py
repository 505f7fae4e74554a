"""Small helpers on API objects, which are plain JSON dictionaries here."""

from __future__ import annotations

import datetime
import re
import secrets
from typing import Any

import orjson

Obj = dict[str, Any]

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_DNS_LABEL = re.compile(_LABEL)
# Without vowels and look-alikes, so that generated names spell nothing.
_SUFFIX_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"


def clone(obj: Any) -> Any:
    """A deep copy of a JSON value, sharing nothing with the original."""
    return orjson.loads(orjson.dumps(obj))


def now() -> str:
    """The time in the form of ``metav1.Time``: UTC, whole seconds."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> datetime.datetime:
    """Read an RFC 3339 time; raises ValueError. A time without a zone is taken as UTC."""
    parsed = datetime.datetime.fromisoformat(text)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=datetime.UTC)


def generated_name(prefix: str) -> str:
    """``prefix`` and five random characters, as for ``metadata.generateName``."""
    return prefix[:58] + "".join(secrets.choice(_SUFFIX_ALPHABET) for _ in range(5))


def name_problem(name: str, *, label: bool = False) -> str | None:
    """Why ``name`` can't name an object (a DNS subdomain, or a DNS label), or None when it can."""
    pattern, limit = (_DNS_LABEL, 63) if label else (_SUBDOMAIN, 253)
    if len(name) > limit:
        return f"must be no more than {limit} characters"
    if not pattern.fullmatch(name):
        what = "a lowercase RFC 1123 label" if label else "a lowercase RFC 1123 subdomain"
        extra = "" if label else ", '.'"
        return (
            f"{what} must consist of lower case alphanumeric characters, '-'{extra} "
            "and must start and end with an alphanumeric character"
        )
    return None


def finalizers(obj: Obj) -> list[str]:
    return list(obj["metadata"].get("finalizers") or [])


def is_deleting(obj: Obj) -> bool:
    return bool(obj["metadata"].get("deletionTimestamp"))
