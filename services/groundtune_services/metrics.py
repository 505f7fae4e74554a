"""The gateway's own Prometheus metrics, beside the engine's."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

RETRIEVAL_SECONDS = Histogram(
    "groundtune_retrieval_seconds",
    "Time from a question to its passages.",
    buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2),
)
DEGRADED = Counter("groundtune_degraded", "Requests answered without passages because retrieval failed.")
ADAPTER_LOADS = Counter("groundtune_adapter_loads", "Adapter versions loaded and probed.", ["outcome"])
USAGE_DROPPED = Counter("groundtune_usage_dropped", "Usage rows that could not be written.")
