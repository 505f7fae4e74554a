"""The steps of a fine-tune, in order, and what is decided between them."""

from __future__ import annotations

import gc
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from groundtune.api.fine_tune_job import AdapterEvaluation
from groundtune.errors import GroundtuneError, SpecError
from groundtune.models import resolve_model
from groundtune.names import adapter_name
from groundtune.registry import adapters
from groundtune.registry.tables import AdapterRow, AdapterState, RunState
from groundtune.settings import settings
from groundtune.snapshots import FineTuneJobSnapshot
from groundtune_flows.adapter_files import AdapterFiles, package_versions
from groundtune_flows.dataset import Dataset, Problem, leaks, load_dataset, require_valid
from groundtune_flows.encoding import Encoded, encode, load_tokenizer
from groundtune_flows.form import Form
from groundtune_flows.gates import Outcome, judge
from groundtune_flows.run import Run
from groundtune_flows.scoring import GENERATED, Bench, HeldOut
from groundtune_flows.sources.discovery import places
from groundtune_flows.training import Step, load_base, total_steps, train


@dataclass(frozen=True)
class _Inputs:
    """All that decides what an adapter becomes."""

    dataset_hash: str
    recipe_hash: str

    @property
    def key(self) -> str:
        """Names a training, over all runs that work on it."""
        return hashlib.sha256(f"{self.dataset_hash} {self.recipe_hash}".encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _Candidate:
    """An adapter to prove: `known` is its row if it is registered."""

    folder: Path
    known: AdapterRow | None


class Tuning:
    """One fine-tune. The run's lock makes it the only one of its job."""

    def __init__(self, run: Run, snapshot: FineTuneJobSnapshot) -> None:
        self._run = run
        self._engine = run.engine
        self._snapshot = snapshot
        self._spec = snapshot.spec
        self._form: Form | None = None
        self._files = AdapterFiles(settings().artifacts, snapshot.namespace, snapshot.name)

    def run(self) -> None:
        """Do it.

        Raises:
            GroundtuneError: with the reason; the promoted version stays what it was.
        """
        self._run.progress("validating")
        base = self._spec.base_model
        self._base = resolve_model(base.uri, base.revision, settings().models, field="spec.baseModel.uri")
        self._tokenizer = load_tokenizer(self._base, base.uri)
        dataset, held_out = self._datasets()
        encoded = self._encode(dataset)
        inputs = self._record(dataset, encoded)
        with self._engine.begin() as connection:
            self._promoted = adapters.promoted_adapter(connection, self._snapshot.uid)
            known = adapters.adapter_of(
                connection, self._snapshot.uid, inputs.dataset_hash, inputs.recipe_hash
            )
        self._run.result["promotedVersion"] = self._promoted.version if self._promoted else None
        if known is not None and self._settled(known):
            self._run.state = RunState.UNCHANGED
            return
        if known is not None and (settings().artifacts / known.path).is_dir():
            candidate = _Candidate(settings().artifacts / known.path, known)
        else:
            candidate = _Candidate(self._trained(inputs, encoded), None)
        version = self._version(candidate)
        metrics = self._evaluate(candidate, version, held_out)
        failed = self._judge(metrics)
        self._settle(candidate, inputs, version, metrics, failed)

    def _datasets(self) -> tuple[Dataset, Dataset | None]:
        """Training and held-out chats, valid and apart from each other."""
        where = places()
        evaluation = self._spec.evaluation
        training = load_dataset(self._spec.dataset, where, field="spec.dataset")
        held_out = None
        if evaluation is not None:
            if evaluation.format_pattern is not None:
                self._form = Form(evaluation.format_pattern)
            held_out = load_dataset(evaluation.dataset, where, field="spec.evaluation.dataset")
        self._require(training.problems, training, "spec.dataset")
        if held_out is not None:
            problems = [*held_out.problems, *leaks(training, held_out)]
            self._require(problems, held_out, "spec.evaluation.dataset")
        return training, held_out

    def _require(self, problems: Sequence[Problem], dataset: Dataset, field: str) -> None:
        if problems:
            rows = [asdict(problem) for problem in problems[:100]]
            self._run.table("dataset-problems", rows, f"What is wrong in {field}")
        require_valid(problems, dataset, field)

    def _encode(self, dataset: Dataset) -> list[Encoded]:
        """Chats that have something to learn within the length."""
        limit = self._spec.training.max_sequence_length
        encoded = [encode(self._tokenizer, example.messages, limit) for example in dataset.examples]
        useful = [one for one in encoded if one.answer_tokens]
        facts = {
            "examples": len(encoded),
            "duplicates": dataset.duplicates,
            "longer than maxSequenceLength": sum(one.length > limit for one in encoded),
            "left out, as no answer is within it": len(encoded) - len(useful),
        }
        self._run.table(
            "dataset", [{"what": what, "examples": count} for what, count in facts.items()], "The dataset"
        )
        if not useful:
            raise SpecError(
                f"spec.training.maxSequenceLength: {limit} cuts off every answer", reason="DatasetInvalid"
            )
        return useful

    def _record(self, dataset: Dataset, encoded: Sequence[Encoded]) -> _Inputs:
        spec = self._spec
        recipe = {
            "baseModel": spec.base_model.model_dump(mode="json", by_alias=True),
            "method": spec.method.model_dump(mode="json", by_alias=True),
            "training": spec.training.model_dump(mode="json", by_alias=True),
            "format": spec.dataset.format,
        }
        digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
        tokens = sum(one.length for one in encoded)
        with self._engine.begin() as connection:
            adapters.ensure_job(connection, self._snapshot)
            adapters.record_dataset(
                connection, self._snapshot.uid, dataset.hash, len(dataset.examples), tokens
            )
        self._recipe = recipe
        self._run.result = {
            "version": None,
            "promotedVersion": None,
            "dataset": {"hash": dataset.hash, "examples": len(dataset.examples), "tokens": tokens},
            "evaluation": None,
            "steps": 0,
        }
        return _Inputs(dataset.hash, digest)

    def _settled(self, known: AdapterRow) -> bool:
        """Whether these inputs are what is promoted, or were and have been rolled back: that holds."""
        if self._promoted is None:
            return False
        if known.version == self._promoted.version:
            return True
        return known.state == AdapterState.SUPERSEDED and known.version > self._promoted.version

    def _trained(self, inputs: _Inputs, encoded: Sequence[Encoded]) -> Path:
        """The adapter of these inputs: what is done of it already is not done again."""
        done = self._files.trained(inputs.key)
        if done is not None:
            return done

        def report(step: Step) -> None:
            self._run.tokens = step.tokens
            self._run.result["steps"] = step.step
            percent = 100 * step.step // step.total
            self._run.progress(
                "training",
                percent=percent,
                step=step.step,
                totalSteps=step.total,
                loss=round(step.loss, 4),
                etaSeconds=step.eta_seconds,
            )

        steps = total_steps(self._spec.training, len(encoded))
        self._run.progress("training", step=0, totalSteps=steps)
        model = train(
            load_base(self._base, self._spec.base_model.uri),
            self._spec,
            encoded,
            self._files.checkpoints(inputs.key),
            report,
        )
        provenance = {
            "baseModel": self._spec.base_model.model_dump(mode="json", by_alias=True),
            "datasetHash": inputs.dataset_hash,
            "recipeHash": inputs.recipe_hash,
            "recipe": self._recipe,
            "seed": self._spec.training.seed,
            "steps": steps,
            "packages": package_versions(),
            "snapshot": self._snapshot.model_dump(mode="json", by_alias=True),
        }
        folder = self._files.save_trained(inputs.key, model, self._spec.base_model, provenance)
        del model
        gc.collect()
        return folder

    def _version(self, candidate: _Candidate) -> int:
        if candidate.known is not None:
            return candidate.known.version
        with self._engine.begin() as connection:
            return adapters.next_version(connection, self._snapshot.uid)

    def _evaluate(
        self, candidate: _Candidate, version: int, held_out: Dataset | None
    ) -> dict[str, Any] | None:
        """Held-out results of candidate, base and promoted; what was measured in this way before is not again."""
        evaluation = self._spec.evaluation
        if evaluation is None or held_out is None:
            return None
        key = self._measured_with(evaluation, held_out)
        with self._engine.begin() as connection:
            before = adapters.evaluations(connection, self._snapshot.uid, key)
        bench = Bench(
            lambda: load_base(self._base, self._spec.base_model.uri),
            HeldOut(
                self._tokenizer,
                held_out.examples,
                self._spec.training.max_sequence_length,
                self._form,
                evaluation.max_new_tokens,
            ),
        )

        def measured(of: int, folder: Path) -> dict[str, float]:
            known = before.get(of)
            if known is not None:
                return dict(known["candidate"])
            self._run.progress("evaluating", percent=100)
            return bench.adapter(folder)

        of_candidate = measured(version, candidate.folder)
        if not math.isfinite(of_candidate["loss"]):
            raise GroundtuneError(
                f"the held-out loss is {of_candidate['loss']}; a lower spec.training.learningRate may help",
                reason="TrainingDiverged",
            )
        promoted = self._promoted
        of_promoted = measured(promoted.version, settings().artifacts / promoted.path) if promoted else None
        if before:
            of_base = next(iter(before.values()))["base"]
        else:
            self._run.progress("evaluating", percent=100)
            of_base = bench.base()
        results = {
            "version": version,
            "examples": len(held_out.examples),
            "candidate": of_candidate,
            "base": of_base,
            "promoted": of_promoted,
            "measuredWith": key,
        }
        self._run.result["evaluation"] = {name: results[name] for name in results if name != "measuredWith"}
        return results

    def _measured_with(self, evaluation: AdapterEvaluation, held_out: Dataset) -> str:
        """Names all but the adapter that decides a measurement."""
        base = self._spec.base_model.model_dump(mode="json", by_alias=True)
        facts = [
            base,
            held_out.hash,
            GENERATED,
            self._spec.training.max_sequence_length,
            evaluation.format_pattern,
            evaluation.max_new_tokens,
        ]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def _judge(self, metrics: dict[str, Any] | None) -> list[Outcome]:
        """The gates that are not passed."""
        if metrics is None or self._spec.evaluation is None:
            return []
        outcomes = judge(
            self._spec.evaluation.gates, metrics["candidate"], metrics["base"], metrics["promoted"]
        )
        self._run.table("evaluation", _rows(metrics, outcomes), "Held-out results, and the gates")
        return [outcome for outcome in outcomes if not outcome.passed]

    def _settle(
        self,
        candidate: _Candidate,
        inputs: _Inputs,
        version: int,
        metrics: dict[str, Any] | None,
        failed: Sequence[Outcome],
    ) -> None:
        """Register, and promote or not, in one transaction: a kill leaves all of it or nothing."""
        uid = self._snapshot.uid
        auto = self._spec.promotion == "Auto"
        known = candidate.known
        if known is None:
            self._run.progress("promoting" if auto and not failed else "registering", percent=100)
            self._files.publish(candidate.folder, version)
        with self._engine.begin() as connection:
            if known is None:
                adapters.register(
                    connection,
                    adapters.NewAdapter(
                        job_uid=uid,
                        version=version,
                        name=adapter_name(self._snapshot.name, version),
                        path=self._files.path(version),
                        recipe_hash=inputs.recipe_hash,
                        dataset_hash=inputs.dataset_hash,
                        provenance=self._files.provenance(candidate.folder),
                        run_id=self._run.id,
                    ),
                )
            if metrics is not None:
                adapters.record_evaluation(connection, uid, version, metrics)
            if failed:
                adapters.set_state(connection, uid, version, AdapterState.REJECTED)
            else:
                adapters.set_state(connection, uid, version, AdapterState.CANDIDATE)
                if auto:
                    adapters.promote(connection, uid, version)
        self._files.clean()
        if known is None:
            self._run.result["version"] = version
        if failed:
            stays = (
                f"v{self._promoted.version} stays promoted" if self._promoted else "nothing is promoted yet"
            )
            lines = "; ".join(outcome.line for outcome in failed)
            raise GroundtuneError(
                f"adapter {adapter_name(self._snapshot.name, version)}: {lines}; {stays}",
                reason="EvaluationFailed",
            )
        if auto:
            self._run.result |= {"version": version, "promotedVersion": version}
        elif known is not None:
            self._run.state = RunState.UNCHANGED


def _rows(metrics: dict[str, Any], outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for metric, value in metrics["candidate"].items():
        values = {
            "metric": metric,
            "base": metrics["base"][metric],
            "promoted": (metrics["promoted"] or {}).get(metric),
            "candidate": value,
        }
        gates = [outcome for outcome in outcomes if outcome.gate.metric == metric]
        rows.extend({**values, "gate": one.rule, "passed": "yes" if one.passed else "no"} for one in gates)
        if not gates:
            rows.append({**values, "gate": "", "passed": ""})
    return rows
