"""Questions to the endpoint, through the official client."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import openai


@dataclass(frozen=True)
class Answer:
    """A streamed answer. Times in milliseconds; `cut`: it ran into the limit of tokens."""

    text: str
    first_token_ms: float
    total_ms: float
    adapter: str
    corpus: str
    context_tokens: int
    cut: bool = False
    citations: list[dict[str, Any]] = field(default_factory=list)


def ask(client: openai.OpenAI, model: str, question: str, *, max_tokens: int = 64) -> Answer:
    """One question, streamed, at temperature 0.

    Raises:
        openai.OpenAIError: it failed.
    """
    began = time.monotonic()
    first = 0.0
    parts: list[str] = []
    extra: dict[str, Any] = {}
    cut = False
    raw = client.chat.completions.with_raw_response.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        temperature=0,
        max_tokens=max_tokens,
        stream=True,
    )
    for chunk in raw.parse():
        extra = extra or (chunk.model_extra or {}).get("groundtune") or {}
        if chunk.choices and (text := chunk.choices[0].delta.content):
            first = first or time.monotonic()
            parts.append(text)
        cut = cut or any(choice.finish_reason == "length" for choice in chunk.choices)
    ended = time.monotonic()
    return Answer(
        text="".join(parts).strip(),
        first_token_ms=((first or ended) - began) * 1000,
        total_ms=(ended - began) * 1000,
        adapter=raw.headers.get("x-groundtune-adapter", "none"),
        corpus=raw.headers.get("x-groundtune-corpus", "none"),
        context_tokens=int(raw.headers.get("x-groundtune-context-tokens", 0)),
        cut=cut,
        citations=list(extra.get("citations", [])),
    )


class SteadyClient:
    """Asks the same question again and again in the background, and counts; `pause` is in seconds."""

    def __init__(self, client: openai.OpenAI, model: str, question: str) -> None:
        self._client = client
        self._model = model
        self._question = question
        self._stop = threading.Event()
        self.pause = 20.0  # training needs the cores too
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.asked = 0
        self.errors: list[str] = []
        self.adapters: Counter[str] = Counter()

    def __enter__(self) -> SteadyClient:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(120)

    def _run(self) -> None:
        while not self._stop.is_set():
            self.asked += 1
            try:
                answer = ask(self._client, self._model, self._question, max_tokens=16)
                self.adapters[answer.adapter] += 1
                if not answer.text:
                    self.errors.append("an empty answer")
            except openai.OpenAIError as error:
                self.errors.append(str(error))
            self._stop.wait(self.pause)
