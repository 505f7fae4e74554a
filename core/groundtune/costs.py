"""What work costs. Prices are data, dated; a file of the user's own takes their place."""

from __future__ import annotations

from datetime import date
from functools import lru_cache
from pathlib import Path

import yaml
from pydantic import Field, ValidationError

from groundtune.api.common import ApiModel
from groundtune.api.knowledge_base import Embedding
from groundtune.errors import GroundtuneError
from groundtune.settings import settings


class Prices(ApiModel):
    """Prices, in one currency."""

    as_of: date = Field(description="Day that they were looked up.")
    currency: str = Field(min_length=3, max_length=3, description="ISO 4217 code.")
    cpu_hour: float = Field(ge=0, description="An hour of the machine that a run without a GPU is on.")
    gpu_hour: float | None = Field(None, ge=0, description="An hour of a machine with one GPU.")
    embedding_million_tokens: dict[str, float] = Field(
        default_factory=dict,
        description="A million tokens embedded by an endpoint, by the model's name there.",
    )


@lru_cache(maxsize=1)
def prices() -> Prices:
    """The prices in force, read once: those of the file that GROUNDTUNE_PRICES names, else the ones built in.

    Raises:
        GroundtuneError: the file can't be read or is wrong (reason InvalidPrices).
    """
    path = settings().prices or Path(__file__).with_name("prices.yaml")
    try:
        return Prices.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise GroundtuneError(f"{path}: {where}: {first['msg']}", reason="InvalidPrices") from None
    except (OSError, yaml.YAMLError) as error:
        raise GroundtuneError(f"{path} can't be read: {error}", reason="InvalidPrices") from None


def embedding_cost(spec: Embedding, tokens: int) -> float:
    """What an endpoint charges for so many tokens, in the currency of `prices()`; 0 where it has no price there."""
    if spec.endpoint is None:
        return 0.0
    return prices().embedding_million_tokens.get(spec.endpoint_model, 0.0) * tokens / 1_000_000
