"""Rows of a database as documents."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import IO, Any
from urllib.parse import quote
from uuid import UUID

from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from groundtune.errors import SourceError, SpecError
from groundtune_flows.formats.attributes import Attributes, attributes
from groundtune_flows.sources.found import MAX_BYTES, Content, in_one_line, too_large

_BATCH = 500
#: Columns that make the document's text; the others are attributes.
_TEXT = ("id", "text", "title")


@dataclass(frozen=True, slots=True)
class FoundRow:
    """A row. Its text waits in a file, so that memory stays flat however many there are."""

    uri: str
    fingerprint: str
    start: int
    length: int
    spool: IO[bytes]
    attributes: Attributes
    name: str = "row.md"
    awaited: bool = False

    def read(self, known: str | None = None) -> Content | None:
        if known == self.fingerprint:
            return None
        if self.length > MAX_BYTES:
            raise too_large()
        data = os.pread(self.spool.fileno(), self.length, self.start)
        return Content(data, self.fingerprint, "text/markdown", self.attributes)


def rows(query: str, secret: str, url: str, field: str) -> Iterator[tuple[str, FoundRow]]:
    """The query's rows, each with its id as its path.

    Args:
        secret: name of the Secret that has the URL; it stands for the database in the documents' URIs.
        url: the database's, as SQLAlchemy takes it; a plain postgresql:// means psycopg.

    Raises:
        SourceError: the database can't be reached, or refuses the query.
        SpecError: the query gives no `id` or `text`, or an id twice.
    """
    spool = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the rows that point into it)
    seen: set[bytes] = set()
    try:
        engine = create_engine(_driver(url))
    except (ArgumentError, ModuleNotFoundError) as error:
        # the URL holds a password, and SQLAlchemy's message the URL
        said = in_one_line(error) if isinstance(error, ModuleNotFoundError) else "it is no database URL"
        raise SourceError(f"{field}.secretRef: key url of Secret {secret}: {said}") from None
    try:
        options: dict[str, Any] = {"stream_results": True, "yield_per": _BATCH}
        if engine.dialect.name == "postgresql":
            options["postgresql_readonly"] = True
        with engine.connect().execution_options(**options) as connection:
            # to drivers with such parameters, a single percent sign would begin one
            escaped = engine.dialect.paramstyle in ("format", "pyformat")
            found = connection.exec_driver_sql(query.replace("%", "%%") if escaped else query)
            columns = set(found.keys())
            others = [name for name in found.keys() if name not in _TEXT]  # noqa: SIM118 (not a mapping)
            if missing := {"id", "text"} - columns:
                raise SpecError(f"{field}.sql.query: gives no column {' and no '.join(sorted(missing))}")
            for row in found.mappings():
                id_, body = str(row["id"]), "" if row["text"] is None else str(row["text"])
                digest = hashlib.sha256(id_.encode()).digest()
                if digest in seen:
                    raise SpecError(f"{field}.sql.query: gives the id {id_!r} twice")
                seen.add(digest)
                if "title" in columns and row["title"]:
                    body = f"# {row['title']}\n\n{body}"
                data = body.encode()
                start = spool.seek(0, 2)
                spool.write(data)
                uri = f"sql://{secret}/{quote(id_, safe='')}"
                others_said = attributes({name: _plain(row[name]) for name in others})
                mark = hashlib.sha256(
                    data + json.dumps(others_said, sort_keys=True).encode() * bool(others_said)
                )
                yield id_, FoundRow(uri, mark.hexdigest(), start, len(data), spool, others_said)
    except SQLAlchemyError as error:
        cause = in_one_line(getattr(error, "orig", None) or error)
        raise SourceError(f"{field}.sql: the database of Secret {secret} refuses: {cause}") from None
    finally:
        spool.flush()
        engine.dispose()


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, Decimal) else str(value) if isinstance(value, UUID) else value


def _driver(url: str) -> str:
    parsed = make_url(url)
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    return parsed.render_as_string(hide_password=False)
