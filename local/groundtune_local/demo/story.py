"""The main job, told from an empty folder to a refreshed corpus and a second adapter."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import openai
import yaml
from rich.console import Console

from groundtune_local import lifecycle
from groundtune_local.cli import print_part
from groundtune_local.demo import tables
from groundtune_local.demo.ask import Answer, SteadyClient, ask
from groundtune_local.demo.watch import RESOURCES, Objects, Watch, is_ready
from groundtune_local.kubectl import Kubectl
from groundtune_local.stack import Stack, StackError

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "manifests" / "examples" / "support-bot"
MODELS = dict(
    zip(
        tables.WAYS,
        ("support-bot:base", "support-bot:grounded", "support-bot:tuned", "support-bot"),
        strict=True,
    )
)

_KB, _JOB, _BOT = RESOURCES
#: What the parts of the report are called in the summary.
_CHAPTERS = {
    "start": "stack up",
    "apply": "resources applied",
    "firstReady": "all three Ready",
    "questions": "questions answered",
    "refresh": "article refreshed",
    "retrain": "adapter retrained, swapped",
    "total": "in all",
}
_NEW_PRICE_STEP = 5


class Story:
    """Each chapter is one method; `tell` runs them in order and writes the report."""

    def __init__(self, data: Path, console: Console, *, example: Path, keep: bool) -> None:
        self._data = data
        self._example = example
        self._console = console
        self._keep = keep
        self._report: dict[str, Any] = {
            "startedAt": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": {},
        }
        self._questions: list[dict[str, str]] = _lines(example / "questions.jsonl")

    def tell(self) -> None:
        """Everything, then stop the stack unless it is to be kept."""
        began = time.monotonic()
        stack = lifecycle.open_stack(self._data, None, new_ports=False)
        supervisor = lifecycle.launch(stack, tied=not self._keep)
        completed = False
        try:
            with self._chapter("start", "1 · Bringing up the stack"):
                lifecycle.follow(self._data, supervisor, print_part)
            kubectl = Kubectl(stack)
            with self._chapter(
                "apply", "2 · kubectl apply: a KnowledgeBase, a FineTuneJob, an InferenceDeployment"
            ):
                self._apply(stack, kubectl)
            with Watch(kubectl, self._console, began) as watch:
                self._run_the_loop(stack, kubectl, watch)
            self._report["seconds"]["total"] = round(time.monotonic() - began, 1)
            self._write_report()
            self._print_places(stack, kubectl)
            completed = True
        finally:
            if not (self._keep and completed):
                with self._console.status("Stopping everything"):
                    lifecycle.shut_down(self._data)

    def _run_the_loop(self, stack: Stack, kubectl: Kubectl, watch: Watch) -> None:
        with self._chapter("firstReady", "3 · The operator reconciles"):
            self._first_ready(watch)
            self._report["adapters"] = [self._evaluation(kubectl)]
        client = self._client(kubectl)
        with self._chapter("questions", "4 · Five questions, asked in four ways"):
            self._ask_all(client)
        with self._chapter("refresh", "5 · An article changes"):
            self._change_price(stack, kubectl, watch, client)
        with self._chapter(
            "retrain", "6 · The desk adds examples: the adapter is trained again and swapped in"
        ):
            self._retrain(stack, kubectl, watch, client)

    # -- chapters -----------------------------------------------------------------------------------------------

    def _apply(self, stack: Stack, kubectl: Kubectl) -> None:
        volume = stack.data / "volumes" / "support-bot"
        example = self._example
        for name in ("articles", "style"):
            shutil.copytree(example / name, volume / name)
        shutil.copy(example / "golden.jsonl", volume / "golden.jsonl")
        shutil.copytree(ROOT / "docs", stack.data / "volumes" / "groundtune-docs")
        for line in kubectl.run("apply", *_files(example)).splitlines():
            self._console.print(f"  {line}")

    def _first_ready(self, watch: Watch) -> None:
        def all_ready(objects: Objects) -> bool:
            return all(is_ready(found) for found in objects.values())

        watch.until("all three to be ready", all_ready, seconds=900)

    def _ask_all(self, client: openai.OpenAI) -> None:
        pattern = re.compile(_format_pattern(self._example), re.DOTALL)
        facts, formats = dict.fromkeys(tables.WAYS, 0), dict.fromkeys(tables.WAYS, 0)
        asked = []
        for entry in self._questions:
            answers = {way: ask(client, model, entry["question"]) for way, model in MODELS.items()}
            tables.print_answers(self._console, entry["question"], entry["fact"], answers)
            for way, answer in answers.items():
                facts[way] += entry["fact"] in answer.text
                formats[way] += pattern.fullmatch(answer.text) is not None
            asked.append(
                {"question": entry["question"], "fact": entry["fact"]}
                | {w: _facts(a) for w, a in answers.items()}
            )
        tables.print_summary(self._console, facts, formats, len(asked))
        self._report |= {"answers": asked, "hasFact": facts, "hasFormat": formats, "questions": len(asked)}

    def _change_price(self, stack: Stack, kubectl: Kubectl, watch: Watch, client: openai.OpenAI) -> None:
        entry = self._questions[0]
        article = stack.data / "volumes" / "support-bot" / "articles" / entry["source"]
        old = entry["fact"]
        number = re.search(r"\d+", old)
        if number is None:
            raise StackError(f"questions.jsonl: the first fact {old!r} holds no number to change")
        new = old.replace(number[0], str(int(number[0]) + _NEW_PRICE_STEP))
        text = article.read_text(encoding="utf-8")
        article.write_text(text.replace(old, new), encoding="utf-8")
        # who changes a fact changes what is expected of retrieval, too
        golden = stack.data / "volumes" / "support-bot" / "golden.jsonl"
        expected = golden.read_text(encoding="utf-8")
        golden.write_text(expected.replace(old, new), encoding="utf-8")
        self._console.print(f"  {entry['source']} and golden.jsonl: {old} → {new}")
        before = kubectl.get(*_KB.split("/"))["status"]["liveVersion"]
        seconds = self._request(
            kubectl, watch, _KB, lambda found: (found["status"].get("liveVersion") or 0) > before
        )
        summary = kubectl.get(*_KB.split("/"))["status"]["lastRefresh"]
        self._console.print(
            f"  version {summary['version']} is live after {seconds:.0f} s; documents updated: {summary['updated']}, "
            f"unchanged: {summary['unchanged']}; chunks embedded: {summary['embeddedChunks']}",
            soft_wrap=True,
        )
        answer = ask(client, MODELS["both"], entry["question"])
        tables.print_answers(self._console, entry["question"], new, {"both": answer})
        self._report["refresh"] = {
            "changed": f"{old} → {new}",
            "seconds": round(seconds, 1),
            "lastRefresh": summary,
            "answer": _facts(answer),
            "newPriceInAnswer": new in answer.text,
            "newPriceInContext": any(new in entry["text"] for entry in answer.citations),
        }

    def _retrain(self, stack: Stack, kubectl: Kubectl, watch: Watch, client: openai.OpenAI) -> None:
        more = self._example / "style" / "more.jsonl"
        shutil.copy(more, stack.data / "volumes" / "support-bot" / "style" / "train" / "more.jsonl")
        self._console.print(f"  {len(_lines(more))} more examples; a client keeps asking meanwhile")
        before = kubectl.get(*_BOT.split("/"))["status"]["adapters"][0]["version"]
        with SteadyClient(client, MODELS["both"], self._questions[0]["question"]) as steady:
            promoted = kubectl.get(*_JOB.split("/"))["status"]["promotedVersion"]
            seconds = self._request(
                kubectl, watch, _JOB, lambda found: found["status"]["promotedVersion"] != promoted
            )
            steady.pause = 0.2  # the swap itself happens under load
            seconds += watch.until(
                f"{_BOT} to answer with the new version",
                lambda objects: objects[_BOT]["status"]["adapters"][0]["version"] != before,
            )
            swapped = sum(steady.adapters.values())
            deadline = time.monotonic() + 60
            while sum(steady.adapters.values()) < swapped + 3 and time.monotonic() < deadline:
                time.sleep(0.2)
        after = kubectl.get(*_BOT.split("/"))["status"]["adapters"][0]["version"]
        answered = ", ".join(f"{count} by {name}" for name, count in steady.adapters.items())
        colour = "red" if steady.errors else "green"
        self._console.print(f"  {before} → {after} after {seconds:.0f} s")
        self._console.print(
            f"  {steady.asked} requests meanwhile ({answered}), [bold {colour}]failed: {len(steady.errors)}[/]",
            soft_wrap=True,
        )
        self._report["retrain"] = {
            "seconds": round(seconds, 1),
            "from": before,
            "to": after,
            "requests": steady.asked,
            "failed": len(steady.errors),
            "errors": steady.errors[:3],
            "answeredBy": dict(steady.adapters),
        }
        self._report["adapters"].append(self._evaluation(kubectl))

    def _evaluation(self, kubectl: Kubectl) -> dict[str, Any]:
        """Print and return what the newest adapter was measured to be, beside what it replaces."""
        found: dict[str, Any] = kubectl.get(*_JOB.split("/"))["status"]["evaluation"]
        tables.print_evaluation(self._console, found)
        return found

    # -- pieces -------------------------------------------------------------------------------------------------

    def _request(
        self, kubectl: Kubectl, watch: Watch, name: str, holds: Callable[[dict[str, Any]], bool]
    ) -> float:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        kubectl.run("annotate", "--overwrite", name, f"groundtune.io/requestedAt={now}")
        return watch.until(f"{name} to move on", lambda objects: holds(objects[name]), seconds=900)

    def _client(self, kubectl: Kubectl) -> openai.OpenAI:
        url = kubectl.get(*_BOT.split("/"))["status"]["url"]
        return openai.OpenAI(base_url=url, api_key="not-needed-here", timeout=120, max_retries=0)

    def _print_places(self, stack: Stack, kubectl: Kubectl) -> None:
        recall = kubectl.get(*_KB.split("/"))["status"].get("evaluation", {})
        self._console.rule("Summary", align="left")
        for name, seconds in self._report["seconds"].items():
            self._console.print(f"  {_CHAPTERS[name]:<26} {seconds:6.1f} s")
        self._console.print(
            f"  retrieval: recall@{recall.get('k')} {recall.get('recall')}, MRR {recall.get('mrr')}"
        )
        self._console.print(f"  the same in {self._data / 'demo' / 'report.json'}")
        if self._keep:
            self._console.print(f"\n  Prefect UI  {stack.prefect_url}", soft_wrap=True)
            self._console.print(
                f"  Endpoint    {kubectl.get(*_BOT.split('/'))['status']['url']}", soft_wrap=True
            )
            self._console.print(f"  kubectl     export KUBECONFIG={stack.kubeconfig}", soft_wrap=True)
            self._console.print(f"  groundtune  export GROUNDTUNE_DATA={self._data}", soft_wrap=True)
            command = f".venv/bin/groundtune {{}} --data-dir {self._data}"
            self._console.print(f"  Stop        {command.format('down')}", soft_wrap=True)
            self._console.print(f"  Start again {command.format('up --detach')}", soft_wrap=True)
        else:
            self._console.print(
                "  make demo KEEP=1 leaves the stack up, with the Prefect UI and the endpoint to try"
            )

    def _write_report(self) -> None:
        folder = self._data / "demo"
        folder.mkdir(exist_ok=True)
        (folder / "report.json").write_text(
            json.dumps(self._report, indent=2, ensure_ascii=False), encoding="utf-8"
        )

    @contextmanager
    def _chapter(self, name: str, title: str) -> Iterator[None]:
        self._console.rule(f"[bold]{title}[/]", align="left")
        began = time.monotonic()
        yield
        self._report["seconds"][name] = round(time.monotonic() - began, 1)


def _files(example: Path) -> list[str]:
    return [part for path in sorted(example.glob("*.yaml")) for part in ("--filename", str(path))]


def _format_pattern(example: Path) -> str:
    spec = yaml.safe_load((example / "fine-tune-job.yaml").read_text(encoding="utf-8"))["spec"]
    return str(spec["evaluation"]["formatPattern"])


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _facts(answer: Answer) -> dict[str, Any]:
    return {
        "text": answer.text,
        "firstTokenMs": round(answer.first_token_ms),
        "totalMs": round(answer.total_ms),
        "adapter": answer.adapter,
        "corpus": answer.corpus,
        "contextTokens": answer.context_tokens,
        "citations": [
            {key: entry[key] for key in ("source", "start", "end", "version")} for entry in answer.citations
        ],
    }
