"""How the operator runs and where its backends are."""

from __future__ import annotations

from functools import lru_cache

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class OperatorSettings(BaseSettings):
    """Read from environment variables; the registry's address is in `groundtune.settings`."""

    model_config = SettingsConfigDict(
        env_prefix="GROUNDTUNE_OPERATOR_", extra="ignore", populate_by_name=True
    )

    prefect_api_url: str = Field(
        "http://127.0.0.1:4200/api", validation_alias="PREFECT_API_URL", description="Prefect's API."
    )
    prefect_auth_string: SecretStr = Field(
        SecretStr(""),
        validation_alias="PREFECT_API_AUTH_STRING",
        description="user:password of Prefect's API.",
    )
    ray_dashboard_url: str = Field(
        "http://127.0.0.1:8265",
        validation_alias="GROUNDTUNE_RAY_DASHBOARD_URL",
        description="Ray's dashboard, which carries the REST API of Serve.",
    )
    ray_auth_token: SecretStr = Field(
        SecretStr(""),
        validation_alias="RAY_AUTH_TOKEN",
        description="Token of the Ray cluster, if it asks for one.",
    )
    starts_serve: bool = Field(
        True, description="Start Serve on the Ray cluster if it does not run; else wait until somebody has."
    )
    serve_url: str = Field(
        "http://127.0.0.1:8000",
        validation_alias="GROUNDTUNE_SERVE_URL",
        description="Base of Serve's HTTP endpoint.",
    )
    namespaces: str = Field(
        "", description="Namespaces to look after, separated by commas; empty means all of them."
    )
    liveness_endpoint: str = Field(
        "http://0.0.0.0:8080/healthz", description="Where kopf answers the kubelet."
    )
    workers: int = Field(4, ge=1, description="Resources that are reconciled together.")
    poll_seconds: float = Field(
        5.0, gt=0, description="Seconds between looks at the registry, Prefect and Serve."
    )
    resync_seconds: float = Field(
        60.0, gt=0, description="Seconds after which a resource is looked at in any case."
    )
    request_seconds: float = Field(
        10.0, gt=0, description="Seconds after which a backend counts as not answering."
    )
    deletion_seconds: float = Field(
        60.0, ge=0, description="Seconds that a deletion waits for a backend that does not answer."
    )
    max_attempts: int = Field(5, ge=1, description="Attempts of a run that fails for no fault of its spec.")
    retry_seconds: float = Field(
        15.0, gt=0, description="Seconds to the second attempt of a run; they double after."
    )
    silence_seconds: float = Field(
        60.0,
        gt=0,
        description="Seconds without its lock and without progress after which a run counts as dead.",
    )

    @property
    def watched(self) -> frozenset[str]:
        """The namespaces to look after; empty means all of them."""
        return frozenset(name.strip() for name in self.namespaces.split(",") if name.strip())


@lru_cache(maxsize=1)
def operator_settings() -> OperatorSettings:
    """The process's settings, read once."""
    return OperatorSettings()
