"""The flow `fine-tune`: check the data, train an adapter, prove it, promote it."""

from __future__ import annotations

from prefect import flow

from groundtune.names import FINE_TUNE_FLOW
from groundtune.snapshots import FineTuneJobSnapshot
from groundtune_flows.run import recorded_run


@flow(name=FINE_TUNE_FLOW, persist_result=False)
def fine_tune(snapshot: FineTuneJobSnapshot, reason: str = "schedule") -> None:
    """Bring a job's adapter in line with its data and recipe.

    Raises:
        GroundtuneError: it could not be done; the promoted version stays what it was.
    """
    with recorded_run(snapshot, reason) as run:
        # what it needs takes seconds to import: the run is on record by then
        from groundtune_flows.tuning import Tuning

        Tuning(run, snapshot).run()
