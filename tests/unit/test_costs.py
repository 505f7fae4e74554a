"""Prices are data, and an error in them is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from groundtune.api.knowledge_base import Embedding
from groundtune.costs import embedding_cost, prices
from groundtune.errors import GroundtuneError
from groundtune.settings import settings


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file of the user's own prices."""
    monkeypatch.setenv("GROUNDTUNE_PRICES", str(tmp_path / "prices.yaml"))
    settings.cache_clear()
    prices.cache_clear()
    yield tmp_path / "prices.yaml"
    settings.cache_clear()
    prices.cache_clear()


def _embedding(**endpoint: str) -> Embedding:
    return Embedding.model_validate({"endpoint": {"url": "https://api.example.com/v1", **endpoint}})


def test_what_is_built_in_can_be_read() -> None:
    prices.cache_clear()
    assert prices().currency == "USD"
    assert embedding_cost(_embedding(model="text-embedding-3-small"), 50_000_000) == pytest.approx(1.0)
    assert embedding_cost(_embedding(model="nobody-knows"), 50_000_000) == 0
    assert embedding_cost(Embedding(), 50_000_000) == 0


def test_own_prices_take_their_place(own: Path) -> None:
    own.write_text(
        "{asOf: 2026-01-31, currency: EUR, cpuHour: 0.09, embeddingMillionTokens: {bge-base: 0.01}}"
    )
    assert (prices().currency, prices().cpu_hour, prices().gpu_hour) == ("EUR", 0.09, None)
    named_by_its_model = Embedding.model_validate(
        {"model": "hf://baai/bge-base", "endpoint": {"url": "https://api.example.com/v1"}}
    )
    assert embedding_cost(named_by_its_model, 2_000_000) == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "{asOf: 2026-01-31, currency: EUR, cpuHour: -1}",
            "cpuHour: Input should be greater than or equal to 0",
        ),
        (
            "{asOf: 2026-01-31, currency: EUR, cpuHour: 1, cpuDay: 2}",
            "cpuDay: Extra inputs are not permitted",
        ),
        ("[", "can't be read"),
    ],
)
def test_wrong_prices_are_named(own: Path, text: str, problem: str) -> None:
    own.write_text(text)
    with pytest.raises(GroundtuneError, match=problem) as caught:
        prices()
    assert caught.value.reason == "InvalidPrices"
    assert str(caught.value).startswith(str(own))
