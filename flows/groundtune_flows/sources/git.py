"""Files of a git repository, over HTTP, without a git program.

A bare copy is kept in the cache: a refresh fetches the one commit that it needs, and nothing if that is there already.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3
from dulwich.client import HTTPUnauthorized, Urllib3HttpGitClient, default_urllib3_manager
from dulwich.errors import GitProtocolError, HangupException, NotGitRepository
from dulwich.object_store import iter_tree_contents, tree_lookup_path
from dulwich.objects import Blob, Commit, ObjectID, Tag, Tree
from dulwich.repo import Repo
from filelock import FileLock

from groundtune.addresses import ForbiddenAddress, check_url
from groundtune.api.sources import GitSource
from groundtune.errors import SourceError, SpecError
from groundtune_flows.sources.found import MAX_BYTES, Content, UnreadableFile, in_one_line, too_large

_SECONDS = 60.0
#: Fetches after which the copy is made anew, so that it does not grow for ever.
_MOST_PACKS = 20
_COMMIT_ID = re.compile(r"[0-9a-f]{40}")
_LFS = b"version https://git-lfs.github.com/spec/"


class _Guarded(urllib3.PoolManager):
    """Checks where each request goes, also after a redirect."""

    def urlopen(self, method: str, url: str, *arguments: Any, **options: Any) -> urllib3.BaseHTTPResponse:
        check_url(url)
        return super().urlopen(method, url, *arguments, **options)


@dataclass(frozen=True, slots=True)
class FoundBlob:
    """A file of a commit. Its fingerprint is git's own name for its content."""

    uri: str
    name: str
    fingerprint: str
    repository: Repo
    awaited: bool = False

    def read(self, known: str | None = None) -> Content | None:
        if known == self.fingerprint:
            return None
        blob = self.repository.object_store[ObjectID(self.fingerprint.encode())]
        assert isinstance(blob, Blob)
        if blob.raw_length() > MAX_BYTES:
            raise too_large()
        data = blob.data
        if data.startswith(_LFS):
            raise UnreadableFile("is a pointer of Git LFS, whose files are not fetched")
        return Content(data, self.fingerprint)


def git_files(
    source: GitSource, credentials: Mapping[str, str], cache: Path, field: str
) -> Iterator[tuple[str, FoundBlob]]:
    """Files of the commit that the ref names now, with their path below `source.path`.

    Args:
        credentials: `username` and `password`, or `token`; may be empty.
        cache: folder of the copies.

    Raises:
        SourceError: the repository, the ref or the path is not there, or can't be reached.
        SpecError: the address is not one to fetch from.
    """
    folder = cache / "git" / hashlib.sha256(source.url.encode()).hexdigest()[:16]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        repository, tip = _fetch(source, credentials, folder, field)
    commit = _peeled(repository, tip)
    prefix = f"git+{source.url}@{source.ref or 'HEAD'}/"
    path = source.path.strip("/")
    root: Tree | Blob = repository.object_store[commit.tree]  # type: ignore[assignment]
    if path:
        try:
            mode, name = tree_lookup_path(repository.object_store.__getitem__, commit.tree, path.encode())
        except (KeyError, NotADirectoryError, ValueError):
            raise SourceError(
                f"{field}.git.path: {path} does not exist in {source.url} at {source.ref or 'its default branch'}"
            ) from None
        if stat.S_ISREG(mode):
            yield "", FoundBlob(f"{prefix}{path}", path, name.decode(), repository)
            return
        root = repository.object_store[name]  # type: ignore[assignment]
    for entry in iter_tree_contents(repository.object_store, root.id):
        assert entry.path is not None and entry.mode is not None and entry.sha is not None
        relative = entry.path.decode("utf-8", "replace")
        # neither links nor the commits of submodules; hidden files are left out as everywhere
        if not stat.S_ISREG(entry.mode) or any(part.startswith(".") for part in relative.split("/")):
            continue
        inside = f"{path}/{relative}" if path else relative
        yield relative, FoundBlob(f"{prefix}{inside}", relative, entry.sha.decode(), repository)


def _fetch(
    source: GitSource, credentials: Mapping[str, str], folder: Path, field: str
) -> tuple[Repo, ObjectID]:
    try:
        check_url(source.url)
        repository = _open(folder)
        client = Urllib3HttpGitClient(
            source.url,
            pool_manager=default_urllib3_manager(
                None, pool_manager_cls=_Guarded, base_url=source.url, timeout=_SECONDS
            ),
            username=credentials.get("username") or ("git" if "token" in credentials else None),
            password=credentials.get("password") or credentials.get("token"),
            timeout=_SECONDS,
            quiet=True,
        )
        tips: list[ObjectID] = []

        def wants(refs: Mapping[bytes, ObjectID], depth: int | None = None) -> list[ObjectID]:
            tip = _tip(refs, source.ref)
            if tip is None:
                return []
            tips.append(tip)
            return [] if _complete(repository, tip) else [tip]

        client.fetch("", repository, determine_wants=wants, depth=1)  # type: ignore[arg-type]
    except ForbiddenAddress as error:
        raise SpecError(f"{field}.git.url: {error}") from error
    except HTTPUnauthorized as error:
        given = "the credentials of secretRef" if credentials else "no credentials; give a secretRef"
        raise SourceError(f"{field}.git.url: {source.url} does not let in {given}") from error
    except (
        NotGitRepository,
        GitProtocolError,
        HangupException,
        urllib3.exceptions.HTTPError,
        OSError,
    ) as error:
        raise SourceError(f"{field}.git.url: {source.url} is out of reach: {in_one_line(error)}") from error
    if not tips:
        raise SourceError(f"{field}.git.ref: {source.url} has no {source.ref or 'default branch'}")
    return repository, tips[0]


def _open(folder: Path) -> Repo:
    if folder.is_dir():
        try:
            repository = Repo(str(folder))
            if len(repository.object_store.packs) <= _MOST_PACKS:
                return repository
            repository.close()
        except (NotGitRepository, OSError):
            pass  # half made by a killed run
        shutil.rmtree(folder)
    return Repo.init_bare(str(folder), mkdir=True)


def _tip(refs: Mapping[bytes, ObjectID], ref: str) -> ObjectID | None:
    if _COMMIT_ID.fullmatch(ref):
        return ObjectID(ref.encode())
    if not ref:
        return refs.get(b"HEAD")
    for name in (f"refs/heads/{ref}", f"refs/tags/{ref}", ref):
        if name.encode() in refs:
            return refs[name.encode()]
    return None


def _complete(repository: Repo, tip: ObjectID) -> bool:
    """Whether a commit is there with all its files; a pack is written as a whole, so its tree tells."""
    try:
        commit = _peeled(repository, tip)
    except KeyError:
        return False
    return commit.tree in repository.object_store


def _peeled(repository: Repo, name: ObjectID) -> Commit:
    found = repository.object_store[name]
    while isinstance(found, Tag):
        found = repository.object_store[found.object[1]]
    assert isinstance(found, Commit)
    return found
