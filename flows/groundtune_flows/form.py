"""The form of answers: whether one has it, and whether one that is being written can still get it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import regex
import torch
from transformers import StoppingCriteria

from groundtune.errors import SpecError

#: Tokens between two looks at the answers that are being written.
_EVERY = 8


class Form:
    """`spec.evaluation.formatPattern`: an answer, without space around it, has to match it wholly."""

    def __init__(self, pattern: str) -> None:
        """Compile it.

        Raises:
            SpecError: it is not a regular expression.
        """
        try:
            self._pattern = regex.compile(pattern, regex.DOTALL)
        except regex.error as error:
            raise SpecError(
                f"spec.evaluation.formatPattern: {pattern!r} is not a regular expression: {error}"
            ) from error

    def matches(self, answer: str) -> bool:
        return self._pattern.fullmatch(answer.strip()) is not None

    def within_reach(self, beginning: str) -> bool:
        """Whether an answer that begins like this can match."""
        # a character of several tokens shows as U+FFFD until the last of them is there
        said = beginning.strip().rstrip("\ufffd")
        return self._pattern.fullmatch(said, partial=True) is not None


class OutOfForm(StoppingCriteria):  # type: ignore[misc]  # transformers is not followed by the type checker
    """Ends answers that can't get the form any more: what follows would change nothing that is measured."""

    def __init__(
        self,
        form: Form,
        decode: Callable[[torch.Tensor], Sequence[str]],
        prompt: int,
        step: Callable[[], None],
    ) -> None:
        """`prompt`: width of what was read; `step`: called between tokens."""
        self._form, self._decode, self._prompt, self._step = form, decode, prompt, step

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Which of the answers end here, shape (answers,)."""
        self._step()
        written = input_ids[:, self._prompt :]
        if written.shape[1] % _EVERY:
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        lost = [not self._form.within_reach(text) for text in self._decode(written)]
        return torch.tensor(lost, device=input_ids.device)
