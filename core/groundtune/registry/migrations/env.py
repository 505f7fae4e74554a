"""Alembic's entry: runs the steps on the connection that `groundtune.registry.database.migrate` hands over."""

from __future__ import annotations

from alembic import context
from sqlalchemy import text

from groundtune.registry.tables import SCHEMA, Base

connection = context.config.attributes["connection"]
connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
connection.commit()
context.configure(connection=connection, target_metadata=Base.metadata, version_table_schema=SCHEMA)
with context.begin_transaction():
    context.run_migrations()
