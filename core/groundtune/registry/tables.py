"""The registry's tables. Corpora's chunk tables, one a space, are made by `groundtune.registry.spaces`."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import BigInteger, DateTime, Float, ForeignKey, Index, Integer, MetaData, Text, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SCHEMA = "groundtune"


class VersionState(StrEnum):
    """Of a corpus version. At most one is live; a building one is continued by the next refresh."""

    BUILDING = "building"
    REJECTED = "rejected"
    LIVE = "live"
    SUPERSEDED = "superseded"


class RunState(StrEnum):
    """Of a flow run. `unchanged`: it found nothing to do, and ended well."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    UNCHANGED = "unchanged"
    FAILED = "failed"


class AdapterState(StrEnum):
    """Of an adapter version. At most one of a job is promoted."""

    CANDIDATE = "candidate"
    PROMOTED = "promoted"
    REJECTED = "rejected"
    SUPERSEDED = "superseded"


class Base(DeclarativeBase):
    metadata = MetaData(schema=SCHEMA)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Text,
        dict[str, Any]: JSONB,
        list[dict[str, Any]]: JSONB,
        datetime: DateTime(timezone=True),
    }


class KnowledgeBaseRow(Base):
    """A knowledge base, by the resource's uid. `live_version` is what every search reads."""

    __tablename__ = "knowledge_bases"

    uid: Mapped[str] = mapped_column(primary_key=True)
    namespace: Mapped[str]
    name: Mapped[str]
    live_version: Mapped[int | None] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class SpaceRow(Base):
    """One recipe (embedding model, chunking, storage, language) of a knowledge base, with tables of its own.

    `texts` and `lexemes` count the passages that full-text search knows, and their distinct words.
    """

    __tablename__ = "spaces"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=True)
    kb_uid: Mapped[str] = mapped_column(ForeignKey("knowledge_bases.uid", ondelete="CASCADE"))
    recipe_hash: Mapped[str]
    recipe: Mapped[dict[str, Any]]
    dimensions: Mapped[int] = mapped_column(Integer)
    texts: Mapped[int] = mapped_column(BigInteger, server_default="0")
    lexemes: Mapped[int] = mapped_column(BigInteger, server_default="0")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (Index("spaces_kb_recipe", "kb_uid", "recipe_hash", unique=True),)


class CorpusVersionRow(Base):
    """One version of a knowledge base: an interval bound in a space, and how it came out."""

    __tablename__ = "corpus_versions"

    kb_uid: Mapped[str] = mapped_column(
        ForeignKey("knowledge_bases.uid", ondelete="CASCADE"), primary_key=True
    )
    version: Mapped[int] = mapped_column(Integer, primary_key=True)
    space_id: Mapped[int] = mapped_column(ForeignKey("spaces.id", ondelete="CASCADE"))
    state: Mapped[str]
    run_id: Mapped[UUID]
    documents: Mapped[int] = mapped_column(Integer, server_default="0")
    chunks: Mapped[int] = mapped_column(Integer, server_default="0")
    tokens: Mapped[int] = mapped_column(BigInteger, server_default="0")
    evaluation: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]


class DocumentRow(Base):
    """A document as stored, visible in versions v with valid_from ≤ v < valid_to."""

    __tablename__ = "documents"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=True)
    space_id: Mapped[int] = mapped_column(ForeignKey("spaces.id", ondelete="CASCADE"))
    uri: Mapped[str]
    content_hash: Mapped[str]
    text: Mapped[str]
    chunks: Mapped[int] = mapped_column(Integer)
    tokens: Mapped[int] = mapped_column(Integer)
    valid_from: Mapped[int] = mapped_column(Integer)
    valid_to: Mapped[int | None] = mapped_column(Integer)
    fingerprint: Mapped[str | None]
    source: Mapped[str] = mapped_column(server_default="")
    attributes: Mapped[dict[str, Any]] = mapped_column(server_default="{}")

    __table_args__ = (
        Index("documents_space_uri_from", "space_id", "uri", "valid_from", unique=True),
        Index(
            "documents_attributes",
            "attributes",
            postgresql_using="gin",
            postgresql_ops={"attributes": "jsonb_path_ops"},
        ),
    )


class RunRow(Base):
    """A flow run and its facts, by Prefect's flow run id. Only the run itself writes it."""

    __tablename__ = "runs"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    kind: Mapped[str]
    resource_uid: Mapped[str]
    namespace: Mapped[str]
    name: Mapped[str]
    generation: Mapped[int] = mapped_column(BigInteger)
    reason: Mapped[str]
    state: Mapped[str]
    progress: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    result: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    error_reason: Mapped[str | None]
    error_message: Mapped[str | None]
    tokens: Mapped[int] = mapped_column(BigInteger, server_default="0")
    seconds: Mapped[float] = mapped_column(Float, server_default="0")
    amount: Mapped[float] = mapped_column(Float, server_default="0")
    currency: Mapped[str] = mapped_column(server_default="")
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]

    __table_args__ = (Index("runs_resource_started", "resource_uid", "started_at"),)


class FineTuneJobRow(Base):
    """A fine-tune job, by the resource's uid. `promoted_version` is what every deployment follows."""

    __tablename__ = "fine_tune_jobs"

    uid: Mapped[str] = mapped_column(primary_key=True)
    namespace: Mapped[str]
    name: Mapped[str]
    promoted_version: Mapped[int | None] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class DatasetRow(Base):
    """A training dataset that a run has read, by job and content hash."""

    __tablename__ = "datasets"

    job_uid: Mapped[str] = mapped_column(
        ForeignKey("fine_tune_jobs.uid", ondelete="CASCADE"), primary_key=True
    )
    hash: Mapped[str] = mapped_column(primary_key=True)
    examples: Mapped[int] = mapped_column(Integer)
    tokens: Mapped[int] = mapped_column(BigInteger)
    first_seen: Mapped[datetime] = mapped_column(server_default=func.now())


class AdapterRow(Base):
    """An immutable adapter version; only its state moves. `path` is relative to the artifact folder."""

    __tablename__ = "adapters"

    job_uid: Mapped[str] = mapped_column(
        ForeignKey("fine_tune_jobs.uid", ondelete="CASCADE"), primary_key=True
    )
    version: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str]
    state: Mapped[str]
    path: Mapped[str]
    recipe_hash: Mapped[str]
    dataset_hash: Mapped[str]
    evaluation: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    provenance: Mapped[dict[str, Any]]
    run_id: Mapped[UUID]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    promoted_at: Mapped[datetime | None]

    __table_args__ = (Index("adapters_run", "run_id", unique=True),)


class UsageRow(Base):
    """What one answered request used; written in batches by the gateway."""

    __tablename__ = "usage"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=True)
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    namespace: Mapped[str]
    deployment: Mapped[str]
    model: Mapped[str]
    adapter: Mapped[str | None]
    corpus_version: Mapped[int | None] = mapped_column(Integer)
    prompt_tokens: Mapped[int] = mapped_column(Integer)
    completion_tokens: Mapped[int] = mapped_column(Integer)
    context_tokens: Mapped[int] = mapped_column(Integer)
    retrieval_ms: Mapped[float | None] = mapped_column(Float)
    first_token_ms: Mapped[float | None] = mapped_column(Float)

    __table_args__ = (Index("usage_deployment_at", "namespace", "deployment", "at"),)
