"""The resources as last seen, so that a reconciliation reads none of them over the network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from groundtune.api import GROUP, KINDS, Resource

FINALIZER = f"{GROUP}/operator"
KIND_OF_PLURAL: dict[str, type[Resource]] = {kind.plural: kind for kind in KINDS}
PLURAL_OF_KIND: dict[str, str] = {kind.kind_name: kind.plural for kind in KINDS}


@dataclass(frozen=True, order=True)
class Key:
    """A resource by name; what stands in the work queue."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True)
class Body:
    """A resource as the API server has it."""

    raw: Mapping[str, Any]

    @property
    def metadata(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.raw["metadata"]
        return found

    @property
    def key(self) -> Key:
        return Key(self.raw["kind"], self.metadata["namespace"], self.metadata["name"])

    @property
    def uid(self) -> str:
        return str(self.metadata["uid"])

    @property
    def generation(self) -> int:
        return int(self.metadata.get("generation", 1))

    @property
    def version(self) -> str:
        return str(self.metadata.get("resourceVersion", ""))

    @property
    def finalizers(self) -> list[str]:
        return list(self.metadata.get("finalizers") or [])

    @property
    def deleted_at(self) -> datetime | None:
        """When its deletion was asked for."""
        found = self.metadata.get("deletionTimestamp")
        return None if found is None else datetime.fromisoformat(found)

    @property
    def spec(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.raw.get("spec") or {}
        return found

    @property
    def status(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.raw.get("status") or {}
        return found

    def annotation(self, name: str) -> str:
        """An annotation's value; empty if it is not set."""
        return str((self.metadata.get("annotations") or {}).get(name, ""))


class Cache:
    """Bodies by key and by uid. Events may come late or twice; an older body never replaces a newer one."""

    def __init__(self) -> None:
        self._bodies: dict[Key, Body] = {}
        self._keys: dict[str, Key] = {}

    def put(self, body: Body) -> bool:
        """Take a body in; False if it is no news."""
        old = self._bodies.get(body.key)
        if old is not None and old.uid == body.uid and not _newer(body.version, old.version):
            return False
        if body.deleted_at is not None and FINALIZER not in body.finalizers:
            self.remove(body)  # it only waits for others, or is a late event of one that is gone
            return True
        if old is not None:
            self._keys.pop(old.uid, None)
        self._bodies[body.key] = body
        self._keys[body.uid] = body.key
        return True

    def remove(self, body: Body) -> None:
        """Forget a body, unless a new one has taken its name since."""
        if self._keys.pop(body.uid, None) is not None:
            self._bodies.pop(body.key, None)

    def get(self, key: Key) -> Body | None:
        return self._bodies.get(key)

    def by_uid(self, uid: str) -> Body | None:
        key = self._keys.get(uid)
        return None if key is None else self._bodies.get(key)

    def of_kind(self, kind: str) -> Iterator[Body]:
        return (body for key, body in sorted(self._bodies.items()) if key.kind == kind)

    def known(self) -> list[Key]:
        return list(self._bodies)

    def uids(self) -> list[str]:
        return list(self._keys)


def _newer(version: str, than: str) -> bool:
    """Resource versions are numbers that grow; one that is not a number can only be told to differ."""
    if version.isdigit() and than.isdigit():
        return int(version) > int(than)
    return version != than
