"""Making an earlier version of a knowledge base live again, as an annotation asks for it."""

from __future__ import annotations

import re

from groundtune.api.common import ROLLBACK_ANNOTATION
from groundtune.errors import GroundtuneError
from groundtune_operator import events
from groundtune_operator.cache import Body
from groundtune_operator.clients.http import BackendError
from groundtune_operator.context import Context
from groundtune_operator.events import Event

_VALUE = re.compile(r"([1-9][0-9]{0,8})(@.*)?")
_LENGTH = 256


async def roll_back(context: Context, body: Body) -> str:
    """Act on the annotation unless that was done; its value that was last acted on.

    What can't be done is told in an event and not tried again: it would come as a surprise later.
    """
    handled = str(body.status.get("lastHandledRollback", ""))
    asked = body.annotation(ROLLBACK_ANNOTATION)[:_LENGTH]
    if not asked or asked == handled:
        return handled
    try:
        event = await _act(context, body, asked)
    except BackendError:
        return handled
    await events.record(context.kube, body, event, context.now())
    return asked


async def _act(context: Context, body: Body, asked: str) -> Event:
    found = _VALUE.fullmatch(asked)
    if found is None:
        return Event(
            "Warning", "RollbackFailed", f"{ROLLBACK_ANNOTATION}: {asked!r} is not a version, such as 3"
        )
    try:
        await context.registry.roll_back(body.uid, int(found[1]))
    except GroundtuneError as error:
        return Event("Warning", "RollbackFailed", str(error))
    return Event("Normal", "RolledBack", f"version {found[1]} is live again")
