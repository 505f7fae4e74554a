"""Volumes, ConfigMaps and object stores. Nothing is written, and no source can be left through a link."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from groundtune.errors import SourceError, SpecError
from groundtune_flows.sources.found import MAX_BYTES, Content, UnreadableFile, in_one_line, too_large

#: What filesystems call the fields that change with a file's content.
_MARKS = (
    "ETag",
    "etag",
    "md5Hash",
    "md5",
    "content_md5",
    "ino",
    "created",
    "mtime",
    "LastModified",
    "last_modified",
)

_LOCAL = LocalFileSystem()


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file of a filesystem. `size` in bytes, where the filesystem tells it."""

    uri: str
    path: str
    size: int | None
    filesystem: AbstractFileSystem
    fingerprint: str | None = None

    @property
    def name(self) -> str:
        return self.uri

    @property
    def awaited(self) -> bool:
        return self.filesystem is not _LOCAL

    def read(self, known: str | None = None) -> Content | None:
        if known is not None and known == self.fingerprint:
            return None
        if self.size is not None and self.size > MAX_BYTES:
            raise too_large()
        try:
            with self.filesystem.open(self.path, "rb") as file:
                data: bytes = file.read(MAX_BYTES + 1)
        except Exception as error:  # every kind of fsspec filesystem raises errors of its own
            raise UnreadableFile(f"can't be read: {in_one_line(error)}") from error
        if len(data) > MAX_BYTES:
            raise too_large()
        return Content(data, self.fingerprint)


def mounted_files(
    root: Path, path: str, *, prefix: str, field: str, path_field: str, named: str
) -> Iterator[tuple[str, FoundFile]]:
    """Files of a mounted folder, with their path below `path`, which is empty where `path` itself is a file.

    Args:
        prefix: what a file's URI begins with; its path below `root` follows.
        named: what is mounted, for errors.
    """
    root = root.resolve()
    if not root.is_dir():
        raise SourceError(f"{field} is not mounted where this run happens: no folder {root}")
    base = root / path
    if not base.resolve().is_relative_to(root):
        raise SpecError(f"{path_field}: {path} leaves the {named}")
    if not base.exists():
        raise SourceError(f"{path_field}: {path} does not exist in the {named}")
    start = Path(os.path.normpath(base)).relative_to(root).as_posix()
    found: Iterable[tuple[str, str]] = [(str(base), "")] if base.is_file() else _walk(base)
    for path_, relative in found:
        if (facts := _facts(path_, root)) is None:
            continue
        below = "/".join(part for part in (start, relative) if part not in ("", "."))
        # the change time moves with every write, and unlike the modification time can't be set by hand
        mark = f"{facts.st_size}-{facts.st_mtime_ns}-{facts.st_ctime_ns}-{facts.st_ino}"
        yield relative, FoundFile(prefix + below, path_, facts.st_size, _LOCAL, mark)


def _facts(path: str, root: Path) -> os.stat_result | None:
    """Of a regular file, or of a link to one inside `root`, as those of mounted ConfigMaps are; None of others."""
    try:
        facts = os.lstat(path)
        if stat.S_ISLNK(facts.st_mode):
            if not Path(path).resolve().is_relative_to(root):
                return None
            facts = Path(path).stat()
    except OSError:  # it has just gone
        return None
    return facts if stat.S_ISREG(facts.st_mode) else None


def _walk(base: Path) -> Iterator[tuple[str, str]]:
    """Files below a folder, with their path below it."""

    def refuse(error: OSError) -> None:
        raise SourceError(f"{error.filename} can't be listed: {error.strerror}")

    for folder, folders, files in os.walk(base, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = Path(folder).relative_to(base).as_posix()
        for name in sorted(files):
            if not name.startswith("."):
                yield f"{folder}/{name}", name if below == "." else f"{below}/{name}"


def object_files(uri: str, options: Mapping[str, str], field: str) -> Iterator[tuple[str, FoundFile]]:
    """Files under an fsspec URI, with their path below it.

    Args:
        options: of the filesystem, such as credentials.
    """
    uri = uri.rstrip("/")
    if uri.startswith(("http://", "https://")):
        raise SpecError(f"{field}: {uri}: for http and https there is the kind http, which knows whom to ask")
    try:
        filesystem, base = url_to_fs(uri, **options)
        if filesystem.isfile(base):
            facts = filesystem.info(base)
            yield "", FoundFile(uri, base, facts.get("size"), filesystem, _mark(facts))
            return
        found: dict[str, dict[str, Any]] = filesystem.find(base, detail=True)
    except Exception as error:  # every kind of fsspec filesystem raises errors of its own
        raise SourceError(f"{field}: {uri} is out of reach: {in_one_line(error)}") from error
    if not found:
        raise SourceError(f"{field}: {uri} does not exist, or is empty")
    for path in sorted(found):
        relative = path[len(base) :].lstrip("/")
        if not any(part.startswith(".") for part in relative.split("/")):
            size, mark = found[path].get("size"), _mark(found[path])
            yield relative, FoundFile(f"{uri}/{relative}", path, size, filesystem, mark)


def _mark(facts: Mapping[str, Any]) -> str | None:
    said = [f"{name}={facts[name]}" for name in _MARKS if facts.get(name) is not None]
    return "-".join([str(facts.get("size")), *said]) if said else None
