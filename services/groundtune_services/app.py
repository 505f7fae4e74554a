"""The Ray Serve application: the operator names `groundtune_services.app:build` as its import path."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from ray import serve

from groundtune.models import resolve_model
from groundtune.serving import EngineArgs, ServedSet
from groundtune.settings import settings
from groundtune_services.flags import environment, threads

if TYPE_CHECKING:
    from fastapi import FastAPI

#: Name of the deployment in the application.
DEPLOYMENT = "Gateway"

_log = logging.getLogger(__name__)

_DRAIN_SECONDS = 60.0
#: Most that a new replica waits for adapters and embedding models; what is not there by then comes later.
_SETTLE_SECONDS = 120.0


def options(args: EngineArgs) -> dict[str, Any]:
    """Serve's options of the deployment."""
    found: dict[str, Any] = {
        "name": DEPLOYMENT,
        "ray_actor_options": {"num_cpus": args.resources.cpu, "num_gpus": args.resources.gpus},
        # The engine has a queue of its own; Serve's limit only keeps room for probes behind it.
        "max_ongoing_requests": 4 * args.engine.max_num_seqs + 64,
        "graceful_shutdown_timeout_s": _DRAIN_SECONDS,
        "graceful_shutdown_wait_loop_s": 0.5,
        "health_check_period_s": 2.0,  # a replica is replaced after three failures
        # A changed engine is started beside the old one, which answers until then.
        "max_surge_percent": 100,
    }
    if args.min_replicas == args.max_replicas:
        return found | {"num_replicas": args.min_replicas}
    return found | {
        "autoscaling_config": {
            "min_replicas": args.min_replicas,
            "max_replicas": args.max_replicas,
            "target_ongoing_requests": args.target_ongoing_requests,
        }
    }


@serve.ingress()
class Gateway:
    """A replica: the gateway in the process that talks to the engine."""

    def __init__(self, args: EngineArgs) -> None:
        self._args = args
        self._settled = False

    async def __serve_build_asgi_app__(self) -> FastAPI:
        """Start the engine and prove it.

        Raises:
            ModelError: the base model is not there.
            ValueError: the engine refuses it.
        """
        args = self._args
        for name, value in environment(args).items():
            os.environ.setdefault(name, value)
        os.environ["OMP_NUM_THREADS"] = str(threads(args))
        folder = resolve_model(args.model.uri, args.model.revision, settings().models, field="spec.model.uri")

        from groundtune_services import engine, gateway

        started = engine.Engine(args, folder)
        await started.prove()
        self._gateway = gateway.Gateway(args, settings(), started)
        self._engine = started
        return self._gateway.app

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Serve another set; it is brought about in the background, on the event loop that this runs on.

        The first one, before the replica takes requests, is waited for.
        """
        self._gateway.declare(ServedSet.model_validate(user_config))
        if not self._settled:
            # Serve sends no request before this returns: a new replica does not answer with less than its peers.
            self._settled = True
            await self._gateway.settle(_SETTLE_SECONDS)

    def check_health(self) -> None:
        """Called by Serve, which replaces the replica when it raises.

        Raises:
            RuntimeError: the engine has died.
        """
        if self._engine.error:
            raise RuntimeError(self._engine.error)


def build(args: dict[str, Any]) -> serve.Application:
    """Application builder.

    Args:
        args: an `EngineArgs` as JSON.

    Raises:
        pydantic.ValidationError: it is not one.
    """
    parsed = EngineArgs.model_validate(args)
    return serve.deployment(Gateway).options(**options(parsed)).bind(parsed)
