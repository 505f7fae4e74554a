"""The three resources as pydantic types: the one source of the CRDs and of every spec that is parsed."""

from __future__ import annotations

from groundtune.api.common import API_VERSION, GROUP, VERSION, Condition, Resource
from groundtune.api.fine_tune_job import FineTuneJob, FineTuneJobSpec, FineTuneJobStatus
from groundtune.api.inference_deployment import (
    InferenceDeployment,
    InferenceDeploymentSpec,
    InferenceDeploymentStatus,
)
from groundtune.api.knowledge_base import KnowledgeBase, KnowledgeBaseSpec, KnowledgeBaseStatus
from groundtune.api.sources import Source

KINDS: tuple[type[Resource], ...] = (KnowledgeBase, FineTuneJob, InferenceDeployment)

__all__ = [
    "API_VERSION",
    "GROUP",
    "KINDS",
    "VERSION",
    "Condition",
    "FineTuneJob",
    "FineTuneJobSpec",
    "FineTuneJobStatus",
    "InferenceDeployment",
    "InferenceDeploymentSpec",
    "InferenceDeploymentStatus",
    "KnowledgeBase",
    "KnowledgeBaseSpec",
    "KnowledgeBaseStatus",
    "Resource",
    "Source",
]
