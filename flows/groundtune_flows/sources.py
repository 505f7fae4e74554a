"""Reading what a spec's sources hold. Nothing is written, and a volume's source can't leave its volume."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate

from groundtune.api.common import Source
from groundtune.api.knowledge_base import DocumentSource
from groundtune.errors import SourceError, SpecError

#: Largest file that is read.
MAX_BYTES = 20_000_000


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file of a source. `uri` is its identity, `size` its bytes where the source tells."""

    uri: str
    path: str
    size: int | None
    filesystem: AbstractFileSystem

    def read(self) -> bytes:
        """Its bytes.

        Raises:
            UnreadableFile: it can't be read, or is larger than 20 MB.
        """
        if self.size is not None and self.size > MAX_BYTES:
            raise UnreadableFile(f"is larger than {MAX_BYTES // 1_000_000} MB")
        try:
            with self.filesystem.open(self.path, "rb") as file:
                data: bytes = file.read(MAX_BYTES + 1)
        except Exception as error:  # every kind of fsspec filesystem raises errors of its own
            raise UnreadableFile(f"can't be read: {_line(error)}") from error
        if len(data) > MAX_BYTES:
            raise UnreadableFile(f"is larger than {MAX_BYTES // 1_000_000} MB")
        return data


class UnreadableFile(Exception):
    """One file that can't be taken in; the text says why."""


def decode(data: bytes) -> str:
    """The text of a file.

    Raises:
        UnreadableFile: it is empty, binary or not UTF-8.
    """
    if b"\0" in data:
        raise UnreadableFile("is binary, not text")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableFile(f"is not UTF-8 (byte {error.start})") from error
    if not text.strip():
        raise UnreadableFile("is empty")
    return text


def document_files(source: DocumentSource, volumes: Path, *, field: str) -> Iterator[FoundFile]:
    """Files of a knowledge base's source that its globs take, hidden ones left out, in a stable order.

    A source that is itself a file is taken as it is.

    Args:
        volumes: folder that holds one folder a claim.
        field: where the source stands in the spec, for errors.

    Raises:
        SourceError: the source is missing, out of reach, or holds nothing that fits: an empty mount must not
            pass for a corpus whose documents were all deleted.
        SpecError: a glob is wrong.
    """
    included = _matcher(source.include, f"{field}.include")
    excluded = _matcher(source.exclude, f"{field}.exclude")
    any_file = False
    for relative, file in _files(source, volumes, field):
        if not relative or (included(relative) and not excluded(relative)):
            any_file = True
            yield file
    if not any_file:
        raise SourceError(
            f"{_named(source, field)} holds no file that {field}.include takes ({', '.join(source.include)})",
            reason="SourceEmpty",
        )


def jsonl_files(source: Source, volumes: Path, *, field: str, reason: str) -> list[FoundFile]:
    """The source itself if it is a file, else all *.jsonl files under it, sorted by path.

    Raises:
        SourceError: there is none, with `reason`.
    """
    try:
        files = [
            file
            for relative, file in _files(source, volumes, field)
            if relative.endswith(".jsonl") or not relative
        ]
    except SourceError as error:
        raise SourceError(str(error), reason=reason) from error
    if not files:
        raise SourceError(f"{_named(source, field)} holds no .jsonl file", reason=reason)
    return files


def _files(source: Source, volumes: Path, field: str) -> Iterator[tuple[str, FoundFile]]:
    """Files with their path below the source's root; it is empty where the source itself is one file."""
    if source.volume is not None:
        return _volume_files(source, volumes, field)
    return _object_files(source, field)


def _volume_files(source: Source, volumes: Path, field: str) -> Iterator[tuple[str, FoundFile]]:
    assert source.volume is not None
    root = (volumes / source.volume.claim_name).resolve()
    if not root.is_dir():
        raise SourceError(f"{_named(source, field)} is not mounted where this run happens: no folder {root}")
    base = root / source.volume.path
    if not base.resolve().is_relative_to(root):
        raise SpecError(
            f"{field}.volume.path: {source.volume.path} leaves the volume {source.volume.claim_name}"
        )
    if not base.exists():
        raise SourceError(
            f"{field}.volume.path: {source.volume.path} does not exist in the volume {source.volume.claim_name}"
        )
    prefix = f"volume://{source.volume.claim_name}/"
    local = LocalFileSystem()
    for path in [base] if base.is_file() else _walk(base):
        # a link may point to another file of the volume, as those of mounted ConfigMaps do, but not out of it
        if not path.resolve().is_relative_to(root) or not path.is_file():
            continue
        uri = prefix + Path(os.path.normpath(path)).relative_to(root).as_posix()
        relative = "" if path == base else path.relative_to(base).as_posix()
        yield relative, FoundFile(uri, str(path), path.stat().st_size, local)


def _walk(base: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise SourceError(f"{error.filename} can't be listed: {error.strerror}")

    for folder, folders, files in os.walk(base, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(files) if not name.startswith("."))


def _object_files(source: Source, field: str) -> Iterator[tuple[str, FoundFile]]:
    assert source.object is not None
    uri = source.object.uri.rstrip("/")
    try:
        filesystem, base = url_to_fs(uri)
        if filesystem.isfile(base):
            yield "", FoundFile(uri, base, filesystem.info(base).get("size"), filesystem)
            return
        found: dict[str, dict[str, Any]] = filesystem.find(base, detail=True)
    except Exception as error:  # every kind of fsspec filesystem raises errors of its own
        raise SourceError(f"{_named(source, field)} is out of reach: {_line(error)}") from error
    if not found:
        raise SourceError(f"{_named(source, field)} does not exist, or is empty")
    for path in sorted(found):
        relative = path[len(base) :].lstrip("/")
        if not any(part.startswith(".") for part in relative.split("/")):
            yield relative, FoundFile(f"{uri}/{relative}", path, found[path].get("size"), filesystem)


def _named(source: Source, field: str) -> str:
    if source.volume is not None:
        return f"{field}.volume.claimName: {source.volume.claim_name}"
    return f"{field}.object.uri: {source.object.uri if source.object else ''}"


def _matcher(globs: Sequence[str], field: str) -> Callable[[str], bool]:
    patterns = []
    for index, glob in enumerate(globs):
        try:
            patterns.append(re.compile(glob_translate(glob)))
        except (ValueError, re.error) as error:
            raise SpecError(f"{field}[{index}]: {glob!r} is not a glob: {error}") from error
    return lambda path: any(pattern.match(path) for pattern in patterns)


def _line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
