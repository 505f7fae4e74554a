"""Names that the parts agree on."""

from __future__ import annotations

REFRESH_FLOW = "refresh-knowledge-base"
FINE_TUNE_FLOW = "fine-tune"
WORK_POOL = "groundtune"
FLOW_OF_KIND = {"KnowledgeBase": REFRESH_FLOW, "FineTuneJob": FINE_TUNE_FLOW}


def deployment_name(namespace: str, name: str) -> str:
    """Prefect deployment of a resource, under its flow."""
    return f"{namespace}.{name}"


def resource_tags(kind: str, namespace: str, uid: str) -> list[str]:
    """Tags of everything in Prefect that belongs to a resource."""
    return ["groundtune", f"namespace:{namespace}", f"kind:{kind}", f"uid:{uid}"]


def adapter_name(job: str, version: int) -> str:
    """Immutable name of an adapter version."""
    return f"{job}-v{version:d}"


def application_name(namespace: str, name: str) -> str:
    """Ray Serve application of an InferenceDeployment."""
    return f"{namespace}.{name}"


def route_prefix(namespace: str, name: str) -> str:
    """HTTP path of an InferenceDeployment on a shared Ray cluster."""
    return f"/{namespace}/{name}"
