"""What a source gives: documents by URI, read one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

#: Largest document that is read.
MAX_BYTES = 20_000_000


class UnreadableFile(Exception):
    """One document that can't be taken in; the text says why. What is stored of it stays."""


class GoneFile(UnreadableFile):
    """One document that its source has no more, though it was listed; what is stored of it goes, too."""


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes of a document.

    Args:
        fingerprint: changes whenever the bytes do, and is cheaper to know than they are; None where there is none.
        media_type: such as `text/html`, where the source says it.
        attributes: what the source says of the document; the fingerprint changes with them, too.
    """

    data: bytes
    fingerprint: str | None = None
    media_type: str | None = None
    attributes: Mapping[str, bool | float | str] = field(default_factory=dict)


class Found(Protocol):
    """A document of a source. `uri` is its identity; `name` ends in what tells its type, such as `guide.md`."""

    @property
    def uri(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str | None:
        """As in `Content`, if the source tells it without reading."""

    @property
    def awaited(self) -> bool:
        """Whether reading it means to wait for a server, so that several should be read at a time."""

    def read(self, known: str | None = None) -> Content | None:
        """Its content; None if it is still what it was when its fingerprint was `known`.

        Raises:
            UnreadableFile: it can't be read, or is larger than 20 MB.
        """


@dataclass(frozen=True)
class Places:
    """Where this process finds what a spec's sources name.

    Args:
        volumes: folder with a folder for each claim.
        config_maps: folder with a folder for each ConfigMap.
        secrets: folder with a folder for each Secret, a file for each of its keys.
        cache: folder for what is kept between runs; it may be empty at any time.
    """

    volumes: Path
    config_maps: Path
    secrets: Path
    cache: Path


def read_whole(file: Found) -> bytes:
    """Its bytes, whatever they were before.

    Raises:
        UnreadableFile: it can't be read.
    """
    content = file.read()
    assert content is not None
    return content.data


def too_large() -> UnreadableFile:
    """Of a document above `MAX_BYTES`."""
    return UnreadableFile(f"is larger than {MAX_BYTES // 1_000_000} MB")


def in_one_line(error: BaseException) -> str:
    """An error's own words, cut to their first line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
