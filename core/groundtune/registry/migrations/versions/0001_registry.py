"""The registry: knowledge bases and their versions, jobs and their adapters, runs, usage; and the roles."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None

_ROLES = {
    # What serves and what only looks: reads everything, writes nothing but usage.
    "groundtune_reader": [
        "GRANT USAGE ON SCHEMA groundtune, groundtune_corpora TO groundtune_reader",
        "GRANT SELECT ON ALL TABLES IN SCHEMA groundtune TO groundtune_reader",
        "GRANT INSERT ON groundtune.usage TO groundtune_reader",
        "GRANT USAGE ON ALL SEQUENCES IN SCHEMA groundtune TO groundtune_reader",
    ],
    # What works: writes facts, and makes chunk tables.
    "groundtune_writer": [
        "GRANT USAGE ON SCHEMA groundtune TO groundtune_writer",
        "GRANT USAGE, CREATE ON SCHEMA groundtune_corpora TO groundtune_writer",
        "GRANT SELECT, INSERT, UPDATE, DELETE, REFERENCES ON ALL TABLES IN SCHEMA groundtune TO groundtune_writer",
        "GRANT USAGE ON ALL SEQUENCES IN SCHEMA groundtune TO groundtune_writer",
    ],
}

_TABLES = """
CREATE TABLE groundtune.knowledge_bases (
    uid text PRIMARY KEY,
    namespace text NOT NULL,
    name text NOT NULL,
    live_version integer,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE groundtune.spaces (
    id bigserial PRIMARY KEY,
    kb_uid text NOT NULL REFERENCES groundtune.knowledge_bases ON DELETE CASCADE,
    recipe_hash text NOT NULL,
    recipe jsonb NOT NULL,
    dimensions integer NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX spaces_kb_recipe ON groundtune.spaces (kb_uid, recipe_hash);
CREATE TABLE groundtune.corpus_versions (
    kb_uid text NOT NULL REFERENCES groundtune.knowledge_bases ON DELETE CASCADE,
    version integer NOT NULL,
    space_id bigint NOT NULL REFERENCES groundtune.spaces ON DELETE CASCADE,
    state text NOT NULL,
    run_id uuid NOT NULL,
    documents integer NOT NULL DEFAULT 0,
    chunks integer NOT NULL DEFAULT 0,
    tokens bigint NOT NULL DEFAULT 0,
    evaluation jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    PRIMARY KEY (kb_uid, version)
);
CREATE TABLE groundtune.documents (
    id bigserial PRIMARY KEY,
    space_id bigint NOT NULL REFERENCES groundtune.spaces ON DELETE CASCADE,
    uri text NOT NULL,
    content_hash text NOT NULL,
    text text NOT NULL,
    chunks integer NOT NULL,
    tokens integer NOT NULL,
    valid_from integer NOT NULL,
    valid_to integer
);
CREATE UNIQUE INDEX documents_space_uri_from ON groundtune.documents (space_id, uri, valid_from);
CREATE TABLE groundtune.runs (
    id uuid PRIMARY KEY,
    kind text NOT NULL,
    resource_uid text NOT NULL,
    namespace text NOT NULL,
    name text NOT NULL,
    generation bigint NOT NULL,
    reason text NOT NULL,
    state text NOT NULL,
    progress jsonb NOT NULL DEFAULT '{}',
    result jsonb NOT NULL DEFAULT '{}',
    error_reason text,
    error_message text,
    tokens bigint NOT NULL DEFAULT 0,
    seconds double precision NOT NULL DEFAULT 0,
    started_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
);
CREATE INDEX runs_resource_started ON groundtune.runs (resource_uid, started_at);
CREATE TABLE groundtune.fine_tune_jobs (
    uid text PRIMARY KEY,
    namespace text NOT NULL,
    name text NOT NULL,
    promoted_version integer,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE groundtune.datasets (
    job_uid text NOT NULL REFERENCES groundtune.fine_tune_jobs ON DELETE CASCADE,
    hash text NOT NULL,
    examples integer NOT NULL,
    tokens bigint NOT NULL,
    first_seen timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (job_uid, hash)
);
CREATE TABLE groundtune.adapters (
    job_uid text NOT NULL REFERENCES groundtune.fine_tune_jobs ON DELETE CASCADE,
    version integer NOT NULL,
    name text NOT NULL,
    state text NOT NULL,
    path text NOT NULL,
    recipe_hash text NOT NULL,
    dataset_hash text NOT NULL,
    evaluation jsonb,
    provenance jsonb NOT NULL,
    run_id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    promoted_at timestamptz,
    PRIMARY KEY (job_uid, version)
);
CREATE UNIQUE INDEX adapters_run ON groundtune.adapters (run_id);
CREATE TABLE groundtune.usage (
    id bigserial PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    namespace text NOT NULL,
    deployment text NOT NULL,
    model text NOT NULL,
    adapter text,
    corpus_version integer,
    prompt_tokens integer NOT NULL,
    completion_tokens integer NOT NULL,
    context_tokens integer NOT NULL,
    retrieval_ms double precision,
    first_token_ms double precision
);
CREATE INDEX usage_deployment_at ON groundtune.usage (namespace, deployment, at);
"""


def upgrade() -> None:
    op.execute("CREATE EXTENSION IF NOT EXISTS vector")
    op.execute("CREATE SCHEMA IF NOT EXISTS groundtune_corpora")
    for statement in filter(str.strip, _TABLES.split(";")):
        op.execute(statement)
    for role, grants in _ROLES.items():
        op.execute(
            f"DO $$ BEGIN CREATE ROLE {role} NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
        )
        for grant in grants:
            op.execute(grant)
