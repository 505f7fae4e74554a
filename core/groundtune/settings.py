"""Where a process finds what it works with. Set by the chart in a cluster, by `groundtune up` on one machine."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Read from environment variables with the prefix GROUNDTUNE_."""

    model_config = SettingsConfigDict(env_prefix="GROUNDTUNE_", extra="ignore")

    database_url: SecretStr = Field(
        SecretStr(""), description="Postgres URL (postgresql://…) of the registry and the corpora."
    )
    artifacts: Path = Field(
        Path("/artifacts"), description="Folder of adapters and checkpoints, shared by all parts."
    )
    volumes: Path = Field(
        Path("/volumes"), description="Folder under which claims are mounted, one folder a claim."
    )
    config_maps: Path = Field(
        Path("/configmaps"), description="Folder under which ConfigMaps are mounted, one folder each."
    )
    secrets: Path = Field(
        Path("/secrets"),
        description="Folder under which the Secrets of sources are mounted, one folder each.",
    )
    sources: Path = Field(
        Path.home() / ".cache" / "groundtune" / "sources",
        description="Folder of what is kept of sources between runs; it may be emptied at any time.",
    )
    prices: Path | None = Field(None, description="File of prices, instead of the ones built in.")
    models: Path = Field(
        Path.home() / ".cache" / "groundtune" / "models",
        description="Folder of converted and downloaded models.",
    )


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The process's settings, read once."""
    return Settings()
