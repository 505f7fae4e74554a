"""FineTuneJob: LoRA adapters that are retrained on a cadence and earn their promotion."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, ConfigDict, Field

from groundtune.api.common import (
    AGE_COLUMN,
    READY_COLUMNS,
    ApiModel,
    Column,
    Conditions,
    Cron,
    Duration,
    ModelUri,
    Resource,
    RunCost,
    TimeZone,
    cel,
    exactly_one,
    rules,
)
from groundtune.api.sources import Source


class BaseModelRef(ApiModel):
    """A causal language model."""

    uri: ModelUri = Field(
        description="hf://ORG/NAME, package://NAME (an installed Python package that carries it) or file:///PATH."
    )
    revision: str = Field("", max_length=128, description="Revision of a hub model; empty means its default.")


class TrainingDataset(Source):
    """A JSONL file of examples."""

    format: Literal["chat"] = Field(
        "chat",
        description="chat: every line holds `messages`, each with a role and content, the last the assistant's.",
    )


class Method(ApiModel):
    """The parameter-efficient method, in PEFT's terms."""

    type: Literal["lora"] = Field("lora", description="Low-rank adaptation.")
    rank: int = Field(16, ge=1, le=512, description="Rank of the update matrices.")
    alpha: int = Field(
        32, ge=1, le=2048, description="Scaling numerator: updates are scaled by alpha / rank."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapter's input while training.")
    target_modules: list[Annotated[str, Field(min_length=1, max_length=128)]] = Field(
        default_factory=lambda: ["all-linear"],
        min_length=1,
        max_length=64,
        description="Modules to adapt, by name; all-linear means every linear layer but the head.",
    )


class Training(ApiModel):
    """How the adapter is trained."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel("!(has(self.epochs) && has(self.maxSteps))", "give epochs or maxSteps, not both"),
        )
    )

    epochs: float | None = Field(
        None, gt=0, le=1000, description="Passes over the data; 1 if maxSteps is not given."
    )
    max_steps: int | None = Field(
        None, ge=1, le=10_000_000, description="Optimizer steps, instead of epochs."
    )
    learning_rate: float = Field(2e-4, gt=0, le=1, description="Peak learning rate.")
    batch_size: int = Field(8, ge=1, le=4096, description="Examples in a forward pass.")
    gradient_accumulation: int = Field(1, ge=1, le=4096, description="Forward passes in an optimizer step.")
    max_sequence_length: int = Field(
        1024, ge=16, le=131072, description="Longer examples are cut to this many tokens."
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Seed of initialization and shuffling.")


class Checkpoint(ApiModel):
    """How often a run can be resumed from."""

    every_steps: int = Field(20, ge=1, le=1_000_000, description="Optimizer steps between checkpoints.")


class Retraining(ApiModel):
    """When the adapter is trained again."""

    schedule: Cron | None = Field(
        None,
        description="Cron expression with five fields; a run whose data and recipe are those of the promoted "
        "adapter ends at once.",
    )
    time_zone: TimeZone = Field("UTC", description="IANA time zone that the schedule is read in.")
    suspend: bool = Field(False, description="Stop scheduled retraining; requested runs still start.")
    max_age: Duration | None = Field(
        None, description="Age of the promoted adapter above which Fresh turns False."
    )


class Gate(ApiModel):
    """One thing that a candidate adapter has to reach."""

    model_config = ConfigDict(
        json_schema_extra=rules(exactly_one("atLeast", "atMost", "betterThan", what="bound in a gate"))
    )

    metric: Literal["loss", "perplexity", "formatMatch"] = Field(
        description="loss and perplexity of the held-out answers (lower is better); formatMatch: share of generated "
        "answers that match evaluation.formatPattern (higher is better)."
    )
    at_least: float | None = Field(None, description="The candidate's value has to be this or more.")
    at_most: float | None = Field(None, description="The candidate's value has to be this or less.")
    better_than: Literal["base", "promoted"] | None = Field(
        None,
        description="The candidate has to be better than this; promoted passes while nothing is promoted.",
    )
    by: float = Field(
        0.0, description="Margin for betterThan; negative allows a candidate to be that much worse."
    )


class AdapterEvaluation(ApiModel):
    """Held-out examples, and the gates; base, promoted and candidate answer the same examples in one run."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel(
                "!has(self.gates) || self.gates.all(g, g.metric != 'formatMatch') || has(self.formatPattern)",
                "a gate on formatMatch needs formatPattern",
            )
        )
    )

    dataset: Source = Field(description="A JSONL file of held-out examples in the training dataset's format.")
    format_pattern: str | None = Field(
        None,
        min_length=1,
        max_length=1024,
        description="Regular expression that a well-formed answer matches wholly.",
    )
    max_new_tokens: int = Field(120, ge=1, le=4096, description="Longest generated answer, for formatMatch.")
    gates: list[Gate] = Field(
        default_factory=lambda: [Gate(metric="loss", better_than="base")],
        max_length=16,
        description="All of them have to hold.",
    )


class FineTuneJobSpec(ApiModel):
    """The adapter that should be promoted, and how it is kept fresh."""

    base_model: BaseModelRef = Field(description="The model that is adapted.")
    dataset: TrainingDataset = Field(description="What it is trained on.")
    method: Method = Field(default_factory=lambda: Method(), description="The method.")
    training: Training = Field(default_factory=lambda: Training(), description="Training settings.")
    checkpoint: Checkpoint = Field(default_factory=lambda: Checkpoint(), description="Checkpoints.")
    retraining: Retraining = Field(default_factory=lambda: Retraining(), description="The cadence.")
    evaluation: AdapterEvaluation | None = Field(
        None, description="The promotion gate; without it every finished adapter passes."
    )
    promotion: Literal["Auto", "Manual"] = Field(
        "Auto", description="Auto promotes a candidate that passes its gates; Manual leaves it a candidate."
    )


class TrainingProgress(ApiModel):
    """Where the run in hand stands."""

    stage: str = Field("", max_length=64, description="What it is doing.")
    step: int = Field(0, ge=0, description="Optimizer steps done.")
    total_steps: int = Field(0, ge=0, description="Optimizer steps in all.")
    percent: int = Field(0, ge=0, le=100, description="Share of the steps that is done.")
    loss: float | None = Field(None, description="Training loss of the last logged step.")
    eta_seconds: int | None = Field(None, ge=0, description="Seconds of training left at the pace so far.")


class DatasetFacts(ApiModel):
    """The dataset of the newest run."""

    hash: str = Field(max_length=128, description="Content hash.")
    examples: int = Field(ge=0, description="Examples in it.")
    tokens: int = Field(0, ge=0, description="Tokens in it, by the base model's tokenizer.")


class RunSummary(ApiModel):
    """One run, newest first."""

    id: str = Field(max_length=64, description="Prefect flow run.")
    reason: str = Field(max_length=64, description="What started it.")
    state: str = Field(max_length=32, description="Running, Succeeded, Unchanged or Failed.")
    started: AwareDatetime = Field(description="When it started.")
    seconds: float = Field(0, ge=0, description="How long it has taken.")
    version: int | None = Field(None, ge=1, description="Adapter version that it made.")


class AdapterScores(ApiModel):
    """Held-out results of the newest evaluated version beside those it had to beat."""

    version: int = Field(ge=1, description="Adapter version that was measured.")
    examples: int = Field(ge=0, description="Held-out examples.")
    candidate: dict[str, float] = Field(description="Metrics of the candidate.")
    base: dict[str, float] = Field(description="Metrics of the base model.")
    promoted: dict[str, float] | None = Field(
        None, description="Metrics of the adapter that was promoted then."
    )


class FineTuneJobStatus(ApiModel):
    """What holds now, as the operator last observed it."""

    observed_generation: int = Field(0, ge=0, description="The spec generation that was last acted on.")
    promoted_version: int | None = Field(None, ge=1, description="Adapter version that deployments follow.")
    latest_version: int | None = Field(None, ge=1, description="Newest registered adapter version.")
    progress: TrainingProgress | None = Field(None, description="The run in hand.")
    runs: list[RunSummary] = Field(default_factory=list, max_length=10, description="The newest runs.")
    next_run_time: AwareDatetime | None = Field(None, description="When the schedule is due next.")
    dataset: DatasetFacts | None = Field(None, description="The newest run's dataset.")
    evaluation: AdapterScores | None = Field(None, description="The newest held-out results.")
    last_handled_request: str = Field(
        "",
        max_length=256,
        description="Value of the groundtune.io/requestedAt annotation that was last acted on.",
    )
    cost: RunCost | None = Field(None, description="What its runs have used so far.")
    conditions: Conditions


class FineTuneJob(Resource):
    kind_name = "FineTuneJob"
    plural = "finetunejobs"
    short = "ftj"
    summary = "LoRA adapters, retrained on a cadence and promoted only when they beat what they replace."
    spec_type = FineTuneJobSpec
    status_type = FineTuneJobStatus
    columns = (
        *READY_COLUMNS,
        Column("Promoted", "integer", ".status.promotedVersion", "Adapter version that deployments follow."),
        Column(
            "Latest", "integer", ".status.latestVersion", "Newest registered adapter version.", priority=1
        ),
        Column("Stage", "string", ".status.progress.stage", "What the run in hand is doing."),
        Column("Percent", "integer", ".status.progress.percent", "Percent of the training that is done."),
        Column(
            "Fresh", "string", '.status.conditions[?(@.type=="Fresh")].status', "Whether it is up to date."
        ),
        Column("Next", "string", ".status.nextRunTime", "When the schedule is due next.", priority=1),
        AGE_COLUMN,
    )
