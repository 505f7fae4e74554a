"""From an entry of a spec to the documents that it names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from fsspec.utils import glob_translate

from groundtune.api.knowledge_base import DocumentSource
from groundtune.api.sources import Source
from groundtune.errors import SourceError, SpecError
from groundtune.settings import settings
from groundtune_flows.formats import DOCUMENTS
from groundtune_flows.sources.files import FoundFile, mounted_files, object_files
from groundtune_flows.sources.found import Found, Places

_EVERYTHING = [f"**/*{end}" for end in DOCUMENTS]


def places() -> Places:
    """Those of this process."""
    own = settings()
    return Places(own.volumes, own.config_maps, own.secrets, own.sources)


def documents(source: DocumentSource, where: Places, *, field: str) -> Iterator[Found]:
    """Documents of a source that its globs take, hidden files left out, in a stable order.

    A source that is itself a file is taken as it is.

    Args:
        field: where the source stands in the spec, for errors.

    Raises:
        SourceError: the source is missing, out of reach, or holds nothing that fits: an empty mount must not
            pass for a corpus whose documents were all deleted.
        SpecError: a glob or an address is wrong.
    """
    whole = source.kind in ("sql", "http", "configMap")  # what these give was named one by one
    globs = source.include or (["**"] if whole else _EVERYTHING)
    included = _matcher(globs, f"{field}.include")
    excluded = _matcher(source.exclude, f"{field}.exclude")
    any_file = False
    for relative, file in _found(source, where, field):
        if not relative or (included(relative) and not excluded(relative)):
            any_file = True
            yield file
    if not any_file:
        taken = (
            f"that {field}.include takes ({', '.join(source.include)})"
            if source.include
            else "of a known type"
        )
        raise SourceError(f"{named(source, field)} holds no file {taken}", reason="SourceEmpty")


def jsonl_files(source: Source, where: Places, *, field: str, reason: str) -> list[Found]:
    """The source itself if it is a file, else all *.jsonl files under it, sorted by path.

    Raises:
        SourceError: there is none, with `reason`.
    """
    try:
        files = [
            file
            for relative, file in _found(source, where, field)
            if relative.endswith(".jsonl") or not relative
        ]
    except SourceError as error:
        raise SourceError(str(error), reason=reason) from error
    if not files:
        raise SourceError(f"{named(source, field)} holds no .jsonl file", reason=reason)
    return files


def source_key(source: Source) -> str:
    """What a source's documents are kept under while it is out of reach: where it is, without how it is read."""
    if source.volume is not None:
        return f"volume://{source.volume.claim_name}/{source.volume.path}"
    if source.object is not None:
        return source.object.uri
    if source.git is not None:
        return f"git+{source.git.url}@{source.git.ref or 'HEAD'}/{source.git.path}"
    if source.http is not None:
        return " ".join([*(source.http.urls or ()), source.http.sitemap or ""]).strip()
    if source.config_map is not None:
        return f"configmap://{source.config_map.name}"
    assert source.sql is not None and source.secret_ref is not None
    return f"sql://{source.secret_ref.name} {source.sql.query}"


def named(source: Source, field: str) -> str:
    """The field that says where the source is, and its value, for errors."""
    if source.volume is not None:
        return f"{field}.volume.claimName: {source.volume.claim_name}"
    if source.object is not None:
        return f"{field}.object.uri: {source.object.uri}"
    if source.git is not None:
        return f"{field}.git.url: {source.git.url}"
    if source.http is not None:
        return f"{field}.http: {source.http.sitemap or (source.http.urls or [''])[0]}"
    if source.config_map is not None:
        return f"{field}.configMap.name: {source.config_map.name}"
    return f"{field}.sql: the query"


def _found(source: Source, where: Places, field: str) -> Iterator[tuple[str, Found]]:
    """Documents with their path below the source's root; it is empty where the source itself is one file.

    What only some sources need is imported for those.
    """
    if source.volume is not None:
        return _volume(source, where, field)
    if source.config_map is not None:
        name = source.config_map.name
        return mounted_files(
            where.config_maps / name,
            "",
            prefix=f"configmap://{name}/",
            field=f"{field}.configMap.name: {name}",
            path_field=field,
            named=f"ConfigMap {name}",
        )
    credentials = _credentials(source, where, field)
    if source.object is not None:
        return object_files(source.object.uri, credentials, f"{field}.object.uri")
    if source.git is not None:
        from groundtune_flows.sources.git import git_files

        return git_files(source.git, credentials, where.cache, field)
    if source.http is not None:
        from groundtune_flows.sources.web import Web, pages

        return pages(source.http, Web(credentials), field)
    from groundtune_flows.sources.database import rows

    assert source.sql is not None and source.secret_ref is not None
    if "url" not in credentials:
        raise SourceError(f"{field}.secretRef.name: Secret {source.secret_ref.name} has no key url")
    return rows(source.sql.query, source.secret_ref.name, credentials["url"], field)


def _volume(source: Source, where: Places, field: str) -> Iterator[tuple[str, FoundFile]]:
    assert source.volume is not None
    claim = source.volume.claim_name
    return mounted_files(
        where.volumes / claim,
        source.volume.path,
        prefix=f"volume://{claim}/",
        field=named(source, field),
        path_field=f"{field}.volume.path",
        named=f"volume {claim}",
    )


def _credentials(source: Source, where: Places, field: str) -> Mapping[str, str]:
    """The keys of the source's Secret; none if it names none.

    Raises:
        SourceError: the Secret is not mounted here.
    """
    if source.secret_ref is None:
        return {}
    folder = where.secrets / source.secret_ref.name
    if not folder.is_dir():
        name = f"{field}.secretRef.name: {source.secret_ref.name}"
        raise SourceError(f"{name} is not mounted where this run happens: no folder {folder}")
    keys = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    return {path.name: path.read_text(encoding="utf-8").strip() for path in keys}


def _matcher(globs: Sequence[str], field: str) -> Callable[[str], bool]:
    patterns = []
    for index, glob in enumerate(globs):
        try:
            patterns.append(re.compile(glob_translate(glob), re.IGNORECASE if glob in _EVERYTHING else 0))
        except (ValueError, re.error) as error:
            raise SpecError(f"{field}[{index}]: {glob!r} is not a glob: {error}") from error
    return lambda path: any(pattern.match(path) for pattern in patterns)
