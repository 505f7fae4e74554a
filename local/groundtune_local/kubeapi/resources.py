"""What kinds of objects are served: the built-in ones and those of custom resource definitions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

Schema = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """One printer column of ``kubectl get``; ``path`` is a JSONPath such as ``.status.phase``."""

    name: str
    type: str
    path: str
    description: str = ""
    priority: int = 0
    format: str = ""


@dataclass(frozen=True)
class Resource:
    """One served version of one kind.

    ``schema`` is None for built-in kinds: they are stored as they come.
    """

    group: str
    version: str
    plural: str
    singular: str
    kind: str
    namespaced: bool
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    schema: Schema | None = None
    columns: tuple[Column, ...] = ()
    selectable: tuple[str, ...] = ()
    has_status: bool = False
    scale: dict[str, str] | None = None
    list_kind: str = ""
    custom: bool = False
    storage_version: bool = True
    deprecation: str = ""

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """``plural.group``, as messages name it; also the key its objects are stored under."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def kind_of_list(self) -> str:
        return self.list_kind or f"{self.kind}List"

    @property
    def tracks_generation(self) -> bool:
        return self.custom or self.plural == "customresourcedefinitions"


def _builtin(
    api_version: str,
    plural: str,
    kind: str,
    short: str = "",
    *,
    namespaced: bool = True,
    status: bool = False,
) -> Resource:
    group, _, version = api_version.rpartition("/")
    return Resource(
        group=group,
        version=version,
        plural=plural,
        singular=kind.lower(),
        kind=kind,
        namespaced=namespaced,
        short_names=tuple(short.split()),
        has_status=status,
    )


NAMESPACES = _builtin("v1", "namespaces", "Namespace", "ns", namespaced=False, status=True)
CONFIGMAPS = _builtin("v1", "configmaps", "ConfigMap", "cm")
SECRETS = _builtin("v1", "secrets", "Secret")
EVENTS = _builtin("v1", "events", "Event", "ev")
SERVICES = _builtin("v1", "services", "Service", "svc", status=True)
SERVICE_ACCOUNTS = _builtin("v1", "serviceaccounts", "ServiceAccount", "sa")
LEASES = _builtin("coordination.k8s.io/v1", "leases", "Lease")
CRDS = _builtin(
    "apiextensions.k8s.io/v1",
    "customresourcedefinitions",
    "CustomResourceDefinition",
    "crd crds",
    namespaced=False,
    status=True,
)
BUILTIN = (NAMESPACES, CONFIGMAPS, SECRETS, EVENTS, SERVICES, SERVICE_ACCOUNTS, LEASES, CRDS)


@dataclass
class Registry:
    """All resources served now, by group and version and plural."""

    _resources: dict[tuple[str, str, str], Resource] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.replace("", BUILTIN)

    def replace(self, qualified: str, resources: Iterable[Resource]) -> None:
        """Put ``resources`` in place of all versions now served of ``qualified``."""
        for key in [k for k, r in self._resources.items() if r.qualified == qualified]:
            del self._resources[key]
        for resource in resources:
            self._resources[resource.group, resource.version, resource.plural] = resource

    def find(self, group: str, version: str, plural: str) -> Resource | None:
        return self._resources.get((group, version, plural))

    def find_kind(self, api_version: str, kind: str) -> Resource | None:
        """The resource with this kind, in any version of the group (objects have one storage)."""
        group = api_version.rpartition("/")[0]
        return next((r for r in self if r.group == group and r.kind == kind), None)

    def __iter__(self) -> Iterator[Resource]:
        return iter(self._resources.values())

    def versions(self) -> dict[tuple[str, str], list[Resource]]:
        """Resources by (group, version), the core group first, in a stable order."""
        by_version: dict[tuple[str, str], list[Resource]] = {}
        for resource in sorted(self, key=lambda r: (r.group, r.version, r.plural)):
            by_version.setdefault((resource.group, resource.version), []).append(resource)
        return by_version

    def storages(self) -> list[Resource]:
        """One resource per stored kind: its storage version."""
        return [r for r in self if r.storage_version]
