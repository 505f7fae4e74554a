"""Discovery: which groups, versions and resources are served, in the old and the aggregated form."""

from __future__ import annotations

from typing import Any

from groundtune_local.kubeapi.objects import Obj
from groundtune_local.kubeapi.resources import Registry, Resource

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
_SUBRESOURCE_VERBS = ["get", "patch", "update"]

# Requests that are answered at once and never stored: (group, version, plural, kind).
REVIEWS = (
    ("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview"),
    ("authorization.k8s.io", "v1", "selfsubjectrulesreviews", "SelfSubjectRulesReview"),
    ("authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview"),
)


def subresources(resource: Resource) -> list[str]:
    """The subresources that a resource has."""
    return ["status"] * resource.has_status + ["scale"] * bool(resource.scale)


def _versions(registry: Registry) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for group, version in [*registry.versions(), *dict.fromkeys((g, v) for g, v, _, _ in REVIEWS)]:
        groups.setdefault(group, []).append(version)
    return {group: sorted(versions, key=_version_rank) for group, versions in groups.items()}


def _version_rank(version: str) -> tuple[int, str]:
    """Stable versions first, then beta, then alpha."""
    return (2 if "alpha" in version else 1 if "beta" in version else 0, version)


def core_versions() -> Obj:
    """The answer at ``/api``."""
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}


def group_list(registry: Registry) -> Obj:
    """The answer at ``/apis``."""
    groups = [_group(name, versions) for name, versions in _versions(registry).items() if name]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def group(registry: Registry, name: str) -> Obj | None:
    """The answer at ``/apis/{group}``, or None where there is no such group."""
    versions = _versions(registry).get(name)
    return {"kind": "APIGroup", "apiVersion": "v1", **_group(name, versions)} if name and versions else None


def _group(name: str, versions: list[str]) -> Obj:
    listed = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": listed, "preferredVersion": listed[0]}


def resource_list(registry: Registry, group_name: str, version: str) -> Obj | None:
    """The answer at ``/apis/{group}/{version}`` and ``/api/v1``, or None where nothing is served."""
    if version not in _versions(registry).get(group_name, ()):
        return None
    entries: list[Obj] = []
    for resource in registry.versions().get((group_name, version), ()):
        entries.append(_entry(resource))
        entries += [_subresource_entry(resource, name) for name in subresources(resource)]
    for review_group, review_version, plural, kind in REVIEWS:
        if (review_group, review_version) == (group_name, version):
            entries.append(
                {"name": plural, "singularName": "", "namespaced": False, "kind": kind, "verbs": ["create"]}
            )
    api_version = f"{group_name}/{version}" if group_name else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": entries}


def _entry(resource: Resource) -> Obj:
    entry: Obj = {
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": _VERBS,
    }
    if resource.short_names:
        entry["shortNames"] = list(resource.short_names)
    if resource.categories:
        entry["categories"] = list(resource.categories)
    return entry


def _subresource_entry(resource: Resource, name: str) -> Obj:
    entry: Obj = {
        "name": f"{resource.plural}/{name}",
        "singularName": "",
        "namespaced": resource.namespaced,
        "kind": "Scale" if name == "scale" else resource.kind,
        "verbs": _SUBRESOURCE_VERBS,
    }
    if name == "scale":
        entry |= {"group": "autoscaling", "version": "v1"}
    return entry


def aggregated(registry: Registry, *, core: bool) -> Obj:
    """The aggregated answer: at ``/api`` the core group alone, at ``/apis`` all the others."""
    items: list[Obj] = []
    for name, versions in _versions(registry).items():
        if (name == "") is core:
            listed = [_aggregated_version(registry, name, version) for version in versions]
            items.append({"metadata": {"name": name} if name else {}, "versions": listed})
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    }


def _aggregated_version(registry: Registry, group_name: str, version: str) -> Obj:
    entries: list[Obj] = []
    for resource in registry.versions().get((group_name, version), ()):
        plain = _entry(resource)
        entry: Obj = {
            "resource": resource.plural,
            "responseKind": _kind(resource.group, resource.version, resource.kind),
            "scope": _scope(resource.namespaced),
            "singularResource": resource.singular,
            "verbs": _VERBS,
            **{name: plain[name] for name in ("shortNames", "categories") if name in plain},
        }
        entry["subresources"] = [
            {
                "subresource": name,
                "responseKind": _kind("autoscaling", "v1", "Scale")
                if name == "scale"
                else _kind(resource.group, resource.version, resource.kind),
                "verbs": _SUBRESOURCE_VERBS,
            }
            for name in subresources(resource)
        ]
        entries.append(entry)
    for review_group, review_version, plural, kind in REVIEWS:
        if (review_group, review_version) == (group_name, version):
            entries.append(
                {
                    "resource": plural,
                    "responseKind": _kind(review_group, review_version, kind),
                    "scope": _scope(namespaced=False),
                    "singularResource": "",
                    "verbs": ["create"],
                }
            )
    return {"version": version, "freshness": "Current", "resources": entries}


def _kind(group_name: str, version: str, kind: str) -> dict[str, Any]:
    return {"group": group_name, "version": version, "kind": kind}


def _scope(namespaced: bool) -> str:
    return "Namespaced" if namespaced else "Cluster"
