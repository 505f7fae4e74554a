"""The form in which objects are sent: as they are, as a table, or as their metadata alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from groundtune_local.kubeapi.errors import not_acceptable
from groundtune_local.kubeapi.objects import Obj
from groundtune_local.kubeapi.resources import Resource
from groundtune_local.kubeapi.table import partial_metadata, table
from groundtune_local.kubeapi.writes import in_version

Form = Literal["plain", "table", "metadata"]


@dataclass(frozen=True)
class Rendering:
    """How one client wants the objects of one resource. ``include`` is what a table's rows carry."""

    resource: Resource
    form: Form
    include: str = "Metadata"

    @classmethod
    def asked_for(cls, resource: Resource, accept: str, query: Mapping[str, str]) -> Rendering:
        """From the Accept header. Raises ApiError 406 where nothing in it can be given."""
        return cls(resource, _form(accept), query.get("includeObject") or "Metadata")

    def one(self, obj: Obj) -> Obj:
        """A single object."""
        shown = in_version(self.resource, obj)
        if self.form == "table":
            list_meta = {"resourceVersion": obj["metadata"].get("resourceVersion", "")}
            return table(self.resource, [shown], list_meta, include=self.include)
        return partial_metadata(shown) if self.form == "metadata" else shown

    def many(self, objects: list[Obj], list_meta: Obj) -> Obj:
        """A list."""
        shown = [in_version(self.resource, obj) for obj in objects]
        if self.form == "table":
            return table(self.resource, shown, list_meta, include=self.include)
        if self.form == "metadata":
            items = [partial_metadata(obj) for obj in shown]
            return _list("PartialObjectMetadataList", "meta.k8s.io/v1", items, list_meta)
        return _list(self.resource.kind_of_list, self.resource.api_version, shown, list_meta)

    def bookmark(self, resource_version: int, annotations: dict[str, str]) -> Obj:
        """The object of a bookmark event: nothing but a resource version."""
        metadata: Obj = {"resourceVersion": str(resource_version), "creationTimestamp": None}
        if annotations:
            metadata["annotations"] = annotations
        if self.form == "table":
            return table(self.resource, [], metadata, include=self.include, headers=False)
        if self.form == "metadata":
            return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}
        return {"kind": self.resource.kind, "apiVersion": self.resource.api_version, "metadata": metadata}


def _list(kind: str, api_version: str, items: list[Obj], list_meta: Obj) -> Obj:
    return {"kind": kind, "apiVersion": api_version, "metadata": list_meta, "items": items}


def _form(accept: str) -> Form:
    for choice in accept.split(",") if accept else ("*/*",):
        media_type, *parameters = (part.strip() for part in choice.split(";"))
        if media_type not in ("application/json", "application/*", "*/*"):
            continue
        wanted = dict(parameter.partition("=")[::2] for parameter in parameters)
        if wanted.get("v", "v1") != "v1":
            continue
        if wanted.get("as") == "Table":
            return "table"
        if (wanted.get("as") or "").startswith("PartialObjectMetadata"):
            return "metadata"
        if "as" not in wanted:
            return "plain"
    raise not_acceptable("the local control plane answers in application/json only")
