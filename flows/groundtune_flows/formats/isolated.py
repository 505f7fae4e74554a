"""Converters run in a process of their own: a file that crashes a parser, hangs it or eats memory costs itself only."""

from __future__ import annotations

import multiprocessing
import resource
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType

from groundtune_flows.formats import convert
from groundtune_flows.formats.text import Form
from groundtune_flows.sources.found import UnreadableFile, in_one_line

_SECONDS = 120.0
_MEMORY = 4 * 2**30


class Converter:
    """Runs converters one at a time; its process is started when it is needed. A context manager."""

    def __init__(self, seconds: float = _SECONDS) -> None:
        """`seconds`: most that one file may take."""
        self._seconds = seconds
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Converter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def __call__(self, name: str, data: bytes) -> tuple[str, Form, list[int]]:
        """What the converter of that name makes of the bytes.

        Raises:
            UnreadableFile: it can't; with the reason.
        """
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(1, mp_context=context, initializer=_limit)
        try:
            return self._pool.submit(_convert, name, data).result(timeout=self._seconds)
        except TimeoutError:
            self._end()
            raise UnreadableFile(f"could not be parsed within {self._seconds:.0f} s") from None
        except BrokenProcessPool:
            self._end()
            raise UnreadableFile("made its parser crash") from None

    def _end(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            for process in list((pool._processes or {}).values()):
                process.kill()
            pool.shutdown(wait=False, cancel_futures=True)


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))


def _convert(name: str, data: bytes) -> tuple[str, Form, list[int]]:
    try:
        result: tuple[str, Form, list[int]] = getattr(convert, name)(data)
    except UnreadableFile:
        raise
    except MemoryError:
        raise UnreadableFile("needs more memory than a document may") from None
    except RecursionError:
        raise UnreadableFile("is nested too deeply") from None
    except Exception as error:  # each parser has errors of its own
        raise UnreadableFile(f"can't be parsed: {in_one_line(error)}") from None
    return result
