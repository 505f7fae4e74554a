"""Every reason that the operator itself gives a condition. A failed run's own reasons come beside these."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """A stable CamelCase word, and in `meaning` what it says and what to do."""

    meaning: str

    def __new__(cls, value: str, meaning: str = "") -> Reason:
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    # Something works, or there is nothing to do.
    READY = "Ready", "It does its job; a probe has just said so."
    IDLE = "Idle", "Nothing is left to do for this generation of the spec."
    NOT_STALLED = "NotStalled", "Nothing is in the way: it is done, or goes on by itself."
    UP_TO_DATE = "UpToDate", "What is live is as new as the spec asks for."
    GATE_PASSED = "GatePassed", "The newest evaluated version reached every gate."
    NO_GATE = "NoGate", "The spec has no evaluation, so every complete version passes."
    NOT_EVALUATED = "NotEvaluated", "No run has evaluated a version yet."
    DATASET_READ = "DatasetRead", "The newest run read the dataset and found it valid."
    DATASET_NOT_READ = "DatasetNotRead", "No run has read the dataset yet."
    NOT_DECLARED = "NotDeclared", "The spec names none, so there is nothing to wait for."
    ADAPTERS_LOADED = "AdaptersLoaded", "The engine answers with the promoted version of every adapter."
    KNOWLEDGE_READY = "KnowledgeReady", "A probe search has just read every knowledge base's live version."

    # Work in hand.
    RUN_PENDING = "RunPending", "A run is queued in Prefect."
    WAITING_FOR_WORKER = (
        "WaitingForWorker",
        "A run is overdue: no worker of the work pool `groundtune` has taken it.",
    )
    REFRESHING = "Refreshing", "A refresh runs."
    TRAINING = "Training", "A fine-tuning run runs."
    RETRYING = (
        "Retrying",
        "The last run failed for no fault of the spec; the message says when it is tried again.",
    )
    DEPLOYING = "Deploying", "Ray Serve starts or updates the application."
    ADAPTER_LOADING = (
        "AdapterLoading",
        "The engine loads the promoted version; the one before it answers until then.",
    )
    WAITING_FOR_ADAPTER = (
        "WaitingForAdapter",
        "The FineTuneJob has not promoted a version yet; the base model answers.",
    )
    WAITING_FOR_KNOWLEDGE = "WaitingForKnowledge", "A KnowledgeBase has no live version yet."
    CLEANING_UP = "CleaningUp", "The resource is being deleted."

    # Not live.
    NO_LIVE_VERSION = "NoLiveVersion", "No corpus version is live yet."
    EMPTY_CORPUS = (
        "EmptyCorpus",
        "The live version gave back no passage; look at the sources and their globs.",
    )
    NO_PROMOTED_VERSION = "NoPromotedVersion", "No adapter version is promoted yet."
    CANDIDATE_READY = (
        "CandidateReady",
        "A candidate waits for a person to promote it, as spec.promotion is Manual.",
    )

    # Stale.
    NEVER_REFRESHED = "NeverRefreshed", "No refresh has succeeded yet."
    ROLLED_BACK = (
        "RolledBack",
        "An earlier version was made live again; it stays so until a refresh finds that the sources have changed.",
    )
    SOURCE_UNREACHED = (
        "SourceUnreached",
        "The last refresh could not read every source; what is stored of those stays live, and may be old.",
    )
    NEVER_PROMOTED = "NeverPromoted", "No adapter version has been promoted yet."
    TOO_OLD = "TooOld", "The last success is longer ago than the spec allows."
    LAST_RUN_FAILED = "LastRunFailed", "The newest run failed, so changes since the last success are missing."
    STALE_REFERENCE = (
        "StaleReference",
        "A knowledge base or fine-tune job that is served is not fresh itself.",
    )

    # The spec has to change.
    INVALID_SPEC = "InvalidSpec", "The spec does not parse; the message names the field."
    INVALID_TIME_ZONE = "InvalidTimeZone", "The time zone is not in the IANA database, such as Europe/Berlin."
    INVALID_SCHEDULE = "InvalidSchedule", "The cron expression never comes due or can't be read."
    REFERENCE_NOT_FOUND = (
        "ReferenceNotFound",
        "A resource that the spec names does not exist in this namespace.",
    )
    ADAPTER_MISMATCH = (
        "AdapterMismatch",
        "The job's adapter does not fit the base model or the engine that would load it.",
    )
    EVALUATION_FAILED = "EvaluationFailed", "The newest version missed a gate; the one before it stays live."

    # A run ended badly.
    RUN_FAILED = "RunFailed", "A run failed before it could record why; the message is Prefect's."
    RUN_CRASHED = "RunCrashed", "A run's process died; the message is Prefect's."
    RUN_CANCELLED = "RunCancelled", "A run was cancelled."
    RUN_LOST = "RunLost", "A run ended or vanished without recording how, such as with a killed worker."

    # A backend.
    PREFECT_UNAVAILABLE = (
        "PrefectUnavailable",
        "Prefect's API does not answer or refuses; runs can't be set or started.",
    )
    REGISTRY_UNAVAILABLE = "RegistryUnavailable", "Postgres does not answer; what is live can't be told."
    SERVE_UNAVAILABLE = "ServeUnavailable", "Ray's dashboard does not answer; the application can't be set."
    ENDPOINT_UNAVAILABLE = "EndpointUnavailable", "The application's /ready does not answer."
    NOT_READY = "NotReady", "The application says itself that it is not ready; the message is its own."
    DEPLOY_FAILED = "DeployFailed", "Ray Serve could not start the application; the message is the replica's."
    UNHEALTHY = "Unhealthy", "Ray Serve says that the application is unhealthy."
    ADAPTER_FAILED = (
        "AdapterFailed",
        "The engine could not load an adapter version; the message is the engine's.",
    )
    KNOWLEDGE_FAILED = "KnowledgeFailed", "A probe search failed; the message is the gateway's."
