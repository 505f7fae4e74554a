"""The steps of a refresh, in order, and what is decided between them."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache
from typing import Any

from groundtune.api import KnowledgeBaseSpec
from groundtune.api.knowledge_base import Embedding, Reranker, RetrievalEvaluation
from groundtune.costs import embedding_cost
from groundtune.embedding import CrossEncoder, Embedder
from groundtune.errors import GroundtuneError, SourceError, SpecError
from groundtune.registry import contents, corpora
from groundtune.registry.spaces import MOST_DIMENSIONS
from groundtune.registry.tables import CorpusVersionRow, RunState, VersionState
from groundtune.registry.texts import index_texts
from groundtune.retrieval.corpus import Corpus
from groundtune.settings import settings
from groundtune.snapshots import KnowledgeBaseSnapshot
from groundtune_flows.evaluation import Asked, Scores, ask, failed_gates, mean, measured_with, worst
from groundtune_flows.golden import Golden, load_golden
from groundtune_flows.ingest import Discovered, Ingested, Target, ingest, recipe
from groundtune_flows.run import Run, finished
from groundtune_flows.sources.discovery import documents, places, source_key


@cache
def _embedder(spec: Embedding) -> Embedder:
    return Embedder(spec, settings().models)


@cache
def _reranker(spec: Reranker) -> CrossEncoder:
    return CrossEncoder(spec, settings().models)


class Refresh:
    """One refresh. The run's lock makes it the only one of its knowledge base."""

    def __init__(self, run: Run, snapshot: KnowledgeBaseSnapshot) -> None:
        self._run = run
        self._engine = run.engine
        self._snapshot = snapshot
        self._spec = snapshot.spec
        self._unreached: list[SourceError] = []

    def run(self) -> None:
        """Do it.

        Raises:
            GroundtuneError: with the reason; the live version stays what it was.
        """
        self._run.progress("discovering")
        with self._engine.begin() as connection:
            corpora.ensure_knowledge_base(connection, self._snapshot)
            self._live = corpora.live_version(connection, self._snapshot.uid)
        self._run.result = {
            "version": None,
            "liveVersion": self._live and self._live.version,
            "evaluation": None,
        }
        evaluation = self._spec.evaluation
        golden = load_golden(evaluation.dataset, places()) if evaluation else None
        sources = self._discover(golden.uris if golden else frozenset())
        target, newest = self._target()
        outcome = self._ingest(target, sources)
        candidate = newest
        if outcome.written or self._needs_version(newest):
            candidate = self._finish(target)
        self._summarize(outcome, target, candidate)
        with self._engine.begin() as connection:
            index_texts(connection, target.space_id)
            corpora.ensure_vector_index(
                connection, target.space_id, self._spec.index.m, self._spec.index.ef_construction
            )
        assert candidate is not None
        self._settle(candidate, evaluation, golden)
        with self._engine.begin() as connection:
            corpora.collect_garbage(connection, self._snapshot.uid, self._spec.retention.versions)

    def _discover(self, left_out: frozenset[str]) -> list[Discovered]:
        """What each source holds, every document once, even where two sources overlap.

        Args:
            left_out: the golden set, which beside the documents would be the best answer to its own questions.

        Raises:
            SourceError: not one source could be read, or the only one.
        """
        seen = set(left_out)
        found: list[Discovered] = []
        for index, source in enumerate(self._spec.sources):
            field, key = f"spec.sources[{index}]", source_key(source)
            try:
                files = [
                    file
                    for file in documents(source, places(), field=field)
                    if not (file.uri in seen or seen.add(file.uri))  # type: ignore[func-returns-value]
                ]
            except SourceError as error:
                self._unreached.append(error)
                self._run.logger.warning("%s; what is stored of it stays", error)
                found.append(Discovered(key, [], reached=False))
            else:
                found.append(Discovered(key, files, attributes=source.attributes or {}))
        if not any(each.reached for each in found):
            raise self._unreached[0]
        return found

    def _target(self) -> tuple[Target, CorpusVersionRow | None]:
        """Where this run writes, and the newest version there so far."""
        uid, wanted = self._snapshot.uid, recipe(self._spec)
        with self._engine.begin() as connection:
            space_id = corpora.find_space(connection, uid, wanted)
            corpora.discard_building(connection, uid, except_space=space_id)
        if space_id is None:
            dimensions = _embedder(self._spec.embedding).dimensions
            _fits(dimensions, self._spec)
            with self._engine.begin() as connection:
                space_id = corpora.create_space(connection, uid, wanted, dimensions)
        with self._engine.begin() as connection:
            newest = corpora.newest_version(connection, uid, space_id)
            number = corpora.next_version(connection, uid)
        if newest is not None and newest.state == VersionState.BUILDING:
            number = newest.version
        return Target(uid, space_id, number, self._run.id), newest

    def _ingest(self, target: Target, sources: list[Discovered]) -> Ingested:
        def report(done: int, total: int) -> None:
            self._run.progress("embedding", percent=100 * done / max(1, total), done=done, total=total)

        outcome = Ingested()
        try:
            ingest(
                self._engine,
                target,
                self._spec,
                sources,
                lambda: _embedder(self._spec.embedding),
                report,
                outcome,
            )
        finally:
            self._run.tokens = outcome.embedded_tokens
            self._run.charged = embedding_cost(self._spec.embedding, outcome.embedded_tokens)
        return outcome

    def _needs_version(self, newest: CorpusVersionRow | None) -> bool:
        """Whether one has to be made though no document changed: an unfinished one, or the recipe is back to one
        whose newest version is older than what is live. A newer one was live and rolled back: that holds."""
        if newest is None or newest.state == VersionState.BUILDING:
            return True
        return (
            self._live is not None
            and self._live.space_id != newest.space_id
            and newest.version < self._live.version
        )

    def _finish(self, target: Target) -> CorpusVersionRow:
        uid = self._snapshot.uid
        with self._engine.begin() as connection:
            corpora.open_version(connection, uid, target.space_id, target.version, self._run.id)
            documents = corpora.finish_version(connection, uid, target.version)
            version = corpora.newest_version(connection, uid, target.space_id)
        if documents == 0:
            raise SourceError("spec.sources: no document could be read", reason="NoDocuments")
        assert version is not None
        return version

    def _summarize(self, outcome: Ingested, target: Target, candidate: CorpusVersionRow | None) -> None:
        made = candidate is not None and candidate.version == target.version
        with self._engine.begin() as connection:
            changes = contents.changes(connection, target.space_id, target.version)
        unchanged = outcome.files - outcome.failed - changes.added - changes.updated
        self._run.result |= {
            "version": target.version if made else None,
            **asdict(changes),
            "unchanged": max(0, unchanged),
            "failed": outcome.failed,
            "embeddedChunks": outcome.embedded_chunks,
            "failedDocuments": [*self._unreached_rows(), *outcome.failures],
            "unreached": [str(error) for error in self._unreached],
        }
        counts = [
            {"what": name, "documents": self._run.result[name]}
            for name in ("added", "updated", "removed", "unchanged", "failed")
        ]
        if made or outcome.failed:
            self._run.table("summary", counts, "What this refresh found")
        if self._run.result["failedDocuments"]:
            rows = self._run.result["failedDocuments"]
            self._run.table("failed", rows, "Documents and sources that could not be taken in")

    def _unreached_rows(self) -> list[dict[str, str]]:
        return [
            {"source": str(error).split(": ", 1)[0], "reason": str(error)[:512]} for error in self._unreached
        ]

    def _settle(
        self, candidate: CorpusVersionRow, evaluation: RetrievalEvaluation | None, golden: Golden | None
    ) -> None:
        """Through the gates, and then live or not."""
        uid, version = self._snapshot.uid, candidate.version
        if candidate.state == VersionState.SUPERSEDED:
            self._run.state = RunState.UNCHANGED
            return
        if evaluation is not None and golden is not None:
            before = None
            other = self._live if self._live is not None and self._live.version != version else None
            if other is not None and evaluation.gates.max_regression is not None:
                before = self._scores(other, evaluation, golden)
            scores = self._scores(candidate, evaluation, golden)  # last: its table is the one to be seen
            self._run.result["evaluation"] = _shown(version, evaluation.k, golden, scores)
            failed = failed_gates(scores, before, evaluation.gates, evaluation.k)
            if failed:
                if candidate.state != VersionState.LIVE:
                    with self._engine.begin() as connection:
                        corpora.reject(connection, uid, version)
                stays = f"version {self._live.version} stays live" if self._live else "nothing is live yet"
                raise GroundtuneError(
                    f"corpus version {version}: {'; '.join(failed)}; {stays}", reason="EvaluationFailed"
                )
        if candidate.state == VersionState.LIVE:
            self._run.state = RunState.UNCHANGED
            return
        self._run.progress("promoting", percent=100)
        with self._engine.begin() as connection:
            corpora.promote(connection, uid, version)
        self._run.result |= {"version": version, "liveVersion": version}

    def _scores(self, version: CorpusVersionRow, evaluation: RetrievalEvaluation, golden: Golden) -> Scores:
        """Of the version: those on record if they were measured with the same questions and settings."""
        key = measured_with(golden, evaluation.k, self._spec.retrieval)
        stored = version.evaluation or {}
        if stored.get("measuredWith") == key:
            return Scores(**{name: float(stored[name]) for name in ("recall", "precision", "mrr", "ndcg")})
        self._run.progress("evaluating", percent=100)
        with self._engine.begin() as connection:
            space = corpora.space(connection, version.space_id)
        storage = space.recipe.get("storage", "vector")
        asked = finished(
            ask(
                settings().database_url.get_secret_value(),
                self._engine,
                Corpus(space.id, version.version, space.dimensions, storage),
                golden,
                _embedder(Embedding.model_validate(space.recipe["embedding"])),
                self._spec.retrieval,
                evaluation.k,
                _reranker(self._spec.retrieval.reranker).rerank if self._spec.retrieval.reranker else None,
            )
        )
        scores = mean([one.scores for one in asked])
        self._record(
            version, asked, {**_shown(version.version, evaluation.k, golden, scores), "measuredWith": key}
        )
        return scores

    def _record(self, version: CorpusVersionRow, asked: list[Asked], evaluation: dict[str, Any]) -> None:
        with self._engine.begin() as connection:
            corpora.record_evaluation(connection, self._snapshot.uid, version.version, evaluation)
        rows = worst(asked)
        if rows:
            self._run.table(
                "questions", rows, f"Questions that corpus version {version.version} answers worst"
            )


def _fits(dimensions: int, spec: KnowledgeBaseSpec) -> None:
    """Raises SpecError if no index can be built over such vectors."""
    storage = spec.index.storage
    if dimensions > MOST_DIMENSIONS[storage]:
        others = [name for name, most in MOST_DIMENSIONS.items() if dimensions <= most]
        raise SpecError(
            f"spec.index.storage: {storage} takes up to {MOST_DIMENSIONS[storage]} dimensions, and "
            f"{spec.embedding.model} has {dimensions}; use {' or '.join(others) or 'a smaller model'}"
        )


def _shown(version: int, k: int, golden: Golden, scores: Scores) -> dict[str, Any]:
    questions = {"questions": len(golden.questions), "bootstrapQuestions": golden.bootstrap}
    return {"version": version, "k": k, **questions, **asdict(scores)}
