"""A watch on which nothing happens."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from groundtune_local.kubeapi import reads
from groundtune_local.kubeapi.reads import Selection, Watch
from groundtune_local.kubeapi.store import Store


class _Counting(Store):
    looks = 0

    def changes_since(self, kind: str, rv: int) -> list[Any]:
        self.looks += 1
        return super().changes_since(kind, rv)


@pytest.mark.parametrize("bookmarks", [True, False])
async def test_it_sleeps_whether_or_not_bookmarks_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bookmarks: bool
) -> None:
    monkeypatch.setattr(reads, "_BOOKMARK_SECONDS", 0.3)
    store = _Counting(tmp_path / "store", history=10)
    selection = Selection("things.example.dev", None, lambda _: True, lambda _: True)
    query = {"timeoutSeconds": "1", "allowWatchBookmarks": str(bookmarks).lower()}

    class Rendering:
        def bookmark(self, version: int, annotations: dict[str, str]) -> dict[str, Any]:
            return {"metadata": {"resourceVersion": str(version)}}

    watch = Watch(store, cast(Any, Rendering()), selection, query, asyncio.Event())
    lines = [line async for line in watch.events()]
    assert len(lines) == (4 if bookmarks else 0)  # three in between, and the one that says it is over
    # one look at the start, one after each of three pauses, one at the end, and a late timer's
    assert store.looks <= 8
    store.close()
