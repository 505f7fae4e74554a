"""What is cleaned up before a resource may go."""

from __future__ import annotations

from groundtune.names import application_name
from groundtune_operator.cache import Body
from groundtune_operator.clients.http import BackendError
from groundtune_operator.context import Context
from groundtune_operator.pipeline import Pipelines
from groundtune_operator.serve_sync import ServeSync


async def clean_up(context: Context, pipelines: Pipelines, sync: ServeSync, body: Body) -> str:
    """One step of it; safe to repeat. Empty when all is done, else what is left."""
    try:
        if body.key.kind == "InferenceDeployment":
            return await _remove_application(context, sync, body)
        if not await pipelines.remove(context, body):
            return "a run is still being cancelled"
        if body.key.kind == "KnowledgeBase" and body.spec.get("deletionPolicy") == "Delete":
            await context.registry.delete_corpus(body.uid)
    except BackendError as error:
        return str(error)
    return ""


async def _remove_application(context: Context, sync: ServeSync, body: Body) -> str:
    before = await sync.sync(context)
    if application_name(body.key.namespace, body.key.name) in before:
        return "Ray Serve still stops the application"
    return ""
