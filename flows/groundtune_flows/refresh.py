"""The flow `refresh-knowledge-base`: read the sources, write the next corpus version, prove it, make it live."""

from __future__ import annotations

from prefect import flow

from groundtune.names import REFRESH_FLOW
from groundtune.snapshots import KnowledgeBaseSnapshot
from groundtune_flows.run import recorded_run


@flow(name=REFRESH_FLOW, persist_result=False)
async def refresh_knowledge_base(snapshot: KnowledgeBaseSnapshot, reason: str = "schedule") -> None:
    """Bring a knowledge base in line with its sources.

    Raises:
        GroundtuneError: it could not be done; the live version stays what it was.
    """
    # A coroutine, though nothing in it awaits: at the end of a plain function Prefect waits for its heartbeat thread,
    # up to a second, which is longer than most refreshes take. Nothing else is in the loop that this would hold up.
    with recorded_run(snapshot, reason) as run:
        # what it needs takes seconds to import: the run is on record by then
        from groundtune_flows.refreshing import Refresh

        Refresh(run, snapshot).run()
