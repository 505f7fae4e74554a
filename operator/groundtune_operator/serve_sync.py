"""Makes Ray Serve run what all InferenceDeployments together say, and only tells it when that differs."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from pydantic import ValidationError

from groundtune.api import InferenceDeploymentSpec
from groundtune.names import application_name
from groundtune_operator import serve_config
from groundtune_operator.cache import Body
from groundtune_operator.clients.serve import Application
from groundtune_operator.context import Context
from groundtune_operator.references import resolve

logger = logging.getLogger(__name__)


class ServeSync:
    """One writer of the Serve config; callers wait for one another."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def sync(self, context: Context, *, retry: str = "") -> dict[str, Application]:
        """Bring Serve in step, and return what it had before.

        Args:
            retry: an application to put again though nothing has changed, as Serve gave up on it.

        Raises:
            BackendError: Serve does not answer, or refuses the config.
        """
        async with self._lock:
            deployed = await context.serve.applications()
            wanted = {
                application_name(body.key.namespace, body.key.name): self.render(context, body)
                for body in context.cache.of_kind("InferenceDeployment")
                if body.deleted_at is None
            }
            listed = serve_config.whole(wanted, deployed, context.settings.watched)
            if retry or serve_config.differs(listed, deployed):
                logger.info("Ray Serve: applications %s", [each["name"] for each in listed])
                await context.serve.put({"applications": listed})
                context.observer.note_applications()
            return deployed

    def render(self, context: Context, body: Body) -> dict[str, Any] | None:
        """The application of one resource; None if what it should be can't be told now."""
        try:
            spec = InferenceDeploymentSpec.model_validate(body.spec)
        except ValidationError:
            return None
        resolved = resolve(spec, body.key.namespace, context.cache.get, context.observer.facts)
        return None if resolved.unknown else serve_config.application(body.key, spec, resolved)
