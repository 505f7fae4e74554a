"""Connections and migrations."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import make_url

from groundtune.registry.tables import SCHEMA

#: A fact about a resource changed; the payload is the resource's uid.
CHANNEL = "groundtune"

_MIGRATION_LOCK = 0x67726F756E64  # any number that nobody else locks


def connect(url: str) -> Engine:
    """Engine for a `postgresql://` URL, through psycopg 3. Connections are checked before use."""
    return create_engine(make_url(url).set(drivername="postgresql+psycopg"), pool_pre_ping=True, pool_size=5)


def migrate(url: str, revision: str = "head") -> None:
    """Bring the registry's schema to this version; safe to call from several processes at once.

    Where it is there already, no more than the right to read is needed.

    Args:
        revision: where to stop; the newest by default.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    head = ScriptDirectory.from_config(config).get_current_head()
    engine = connect(url)
    try:
        with engine.connect() as holder:
            holder.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _MIGRATION_LOCK})
            with engine.connect() as connection:
                context = MigrationContext.configure(connection, opts={"version_table_schema": SCHEMA})
                if context.get_current_revision() == head:
                    return
                connection.rollback()
                config.attributes["connection"] = connection
                command.upgrade(config, revision)
    finally:
        engine.dispose()  # ends the session that holds the lock
