"""kopf's handlers, which only wake the operator. For `python -m groundtune_operator`, or kopf's own `kopf run -m`."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import kopf

from groundtune.api import GROUP, VERSION
from groundtune_operator.cache import KIND_OF_PLURAL, Body
from groundtune_operator.clients import kube
from groundtune_operator.control_loop import Operator
from groundtune_operator.settings import operator_settings

logger = logging.getLogger(__name__)


@kopf.on.login()
def login(**options: Any) -> kopf.ConnectionInfo | None:
    """Credentials for kopf, the same that the operator's own calls use."""
    return kube.login(**options)


@kopf.on.startup()
async def start(settings: kopf.OperatorSettings, memo: kopf.Memo, **_: Any) -> None:
    """Start the operator's own loops, once kopf is up."""
    # A watch that dies silently is noticed within these bounds, and opened again.
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.connect_timeout = 10
    settings.posting.enabled = False
    memo.operator = Operator(operator_settings())
    memo.task = asyncio.create_task(memo.operator.run(), name="groundtune operator")


@kopf.on.cleanup()
async def stop(memo: kopf.Memo, **_: Any) -> None:
    """Stop what is in hand; every step is safe to repeat."""
    memo.task.cancel()
    await asyncio.gather(memo.task, return_exceptions=True)


@kopf.on.probe(id="loops")
def loops(memo: kopf.Memo, **_: Any) -> str:
    """Fails the liveness check when the operator's loops have ended, which they never do by themselves."""
    if memo.task.done():
        memo.task.result()
        raise RuntimeError("the operator's loops have ended")
    return "running"


@kopf.on.event(GROUP, VERSION, "knowledgebases")
@kopf.on.event(GROUP, VERSION, "finetunejobs")
@kopf.on.event(GROUP, VERSION, "inferencedeployments")
async def changed(event: kopf.RawEvent, resource: kopf.Resource, memo: kopf.Memo, **_: Any) -> None:
    """A resource was listed, added, changed or deleted."""
    meta = {"apiVersion": f"{GROUP}/{VERSION}", "kind": KIND_OF_PLURAL[resource.plural].kind_name}
    body = Body(dict(event["object"]) | meta)
    if event["type"] == "DELETED":
        memo.operator.gone(body)
    else:
        memo.operator.seen(body)


async def run() -> None:
    """Run kopf with this module's handlers until a signal stops it."""
    settings = operator_settings()
    await kopf.operator(
        standalone=True,
        clusterwide=not settings.watched,
        namespaces=sorted(settings.watched),
        liveness_endpoint=settings.liveness_endpoint,
    )
