"""Reading sources: what is taken, what is refused, and how it is named."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import fsspec
import pytest

from groundtune.api.knowledge_base import DocumentSource
from groundtune.errors import GroundtuneError, SourceError
from groundtune_flows.formats.text import decode
from groundtune_flows.sources.discovery import documents
from groundtune_flows.sources.found import MAX_BYTES, Found, Places, UnreadableFile, read_whole


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    folder = tmp_path / "volumes" / "docs"
    for name in ("a.md", "b.txt", "c.pdf", "deep/d.md", "deep/er/e.md", ".git/f.md", "deep/.hidden.md"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text of {name}")
    return folder


def where(folder: Path) -> Places:
    return Places(folder, folder.parent / "configmaps", folder.parent / "secrets", folder.parent / "cache")


def files(volume: Path, path: str = "", **globs: list[str]) -> list[Found]:
    source = DocumentSource.model_validate({"volume": {"claimName": volume.name, "path": path}, **globs})
    return list(documents(source, where(volume.parent), field="spec.sources[0]"))


def uris(found: list[Found]) -> list[str]:
    return [file.uri for file in found]


def test_globs_take_and_leave_out(volume: Path) -> None:
    assert uris(files(volume)) == [
        "volume://docs/a.md",
        "volume://docs/b.txt",
        "volume://docs/c.pdf",
        "volume://docs/deep/d.md",
        "volume://docs/deep/er/e.md",
    ]
    assert uris(files(volume, include=["*.md"])) == ["volume://docs/a.md"]
    assert uris(files(volume, include=["**/*.md"], exclude=["deep/er/**"])) == [
        "volume://docs/a.md",
        "volume://docs/deep/d.md",
    ]
    assert uris(files(volume, "deep", include=["*.md"])) == ["volume://docs/deep/d.md"]
    assert uris(files(volume, "deep/d.md")) == ["volume://docs/deep/d.md"]


def test_links_may_not_leave_the_volume(volume: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.md"
    secret.write_text("secret")
    (volume / "stolen.md").symlink_to(secret)
    (volume / "out").symlink_to(tmp_path)
    (volume / "inside.md").symlink_to(volume / "a.md")
    (volume / "loop").symlink_to(volume)
    (volume / "dangling.md").symlink_to(volume / "nothing.md")
    assert uris(files(volume, include=["**/*.md"])) == [
        "volume://docs/a.md",
        "volume://docs/inside.md",
        "volume://docs/deep/d.md",
        "volume://docs/deep/er/e.md",
    ]
    for path in ("out", "stolen.md", "deep/../../../secret.md"):
        with pytest.raises(
            GroundtuneError, match=r"spec\.sources\[0\]\.volume\.path: .* leaves the volume docs"
        ):
            files(volume, path)


@pytest.mark.parametrize(
    ("claim", "extra", "reason", "message"),
    [
        ("gone", {}, "SourceUnavailable", "spec.sources[0].volume.claimName: gone is not mounted"),
        ("docs", {"path": "no"}, "SourceUnavailable", "spec.sources[0].volume.path: no does not exist"),
        (
            "docs",
            {"include": ["*.rst"]},
            "SourceEmpty",
            "spec.sources[0].volume.claimName: docs holds no file",
        ),
        ("docs", {"include": ["a**b"]}, "InvalidSpec", "spec.sources[0].include[0]: 'a**b' is not a glob"),
    ],
)
def test_what_is_wrong_with_a_source_is_named(
    volume: Path, claim: str, extra: dict[str, Any], reason: str, message: str
) -> None:
    path = extra.pop("path", "") if "path" in extra else ""
    source = DocumentSource.model_validate({"volume": {"claimName": claim, "path": path}, **extra})
    with pytest.raises(GroundtuneError) as caught:
        list(documents(source, where(volume.parent), field="spec.sources[0]"))
    assert caught.value.reason == reason
    assert str(caught.value).startswith(message)


def objects(uri: str, **globs: list[str]) -> list[Found]:
    source = DocumentSource.model_validate({"object": {"uri": uri}, **globs})
    return list(documents(source, where(Path("/nowhere")), field="spec.sources[1]"))


def test_objects_of_any_filesystem() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe({"/bucket/docs/a.md": b"alpha", "/bucket/docs/x/b.md": b"beta", "/bucket/other.md": b"no"})
    found = objects("memory://bucket/docs/", include=["**/*.md"])
    assert uris(found) == ["memory://bucket/docs/a.md", "memory://bucket/docs/x/b.md"]
    assert [read_whole(file) for file in found] == [b"alpha", b"beta"]
    assert uris(objects("memory://bucket/docs/a.md")) == ["memory://bucket/docs/a.md"]
    with pytest.raises(
        SourceError, match=r"spec\.sources\[1\]\.object\.uri: memory://nothing does not exist"
    ):
        objects("memory://nothing")
    with pytest.raises(SourceError, match=r"spec\.sources\[1\]\.object\.uri: odd://x is out of reach"):
        objects("odd://x")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b" \n\t", "empty"),
        (b"PK\x00\x01", "binary"),
        (b"caf\xe9 au lait", r"UTF-8 \(byte 3\)"),
    ],
)
def test_what_is_not_text(data: bytes, why: str) -> None:
    with pytest.raises(UnreadableFile, match=why):
        decode(data)


def test_a_byte_order_mark_is_no_text() -> None:
    assert decode(b"\xef\xbb\xbfhello") == "hello"


def test_a_file_that_is_too_large_is_not_read(volume: Path) -> None:
    with (volume / "big.md").open("wb") as file:
        os.truncate(file.fileno(), MAX_BYTES + 1)
    (big,) = files(volume, include=["big.md"])
    with pytest.raises(UnreadableFile, match="larger than 20 MB"):
        big.read()


def test_a_file_that_went_away_says_so(volume: Path) -> None:
    (gone,) = files(volume, include=["a.md"])
    (volume / "a.md").unlink()
    with pytest.raises(UnreadableFile, match="can't be read"):
        gone.read()
