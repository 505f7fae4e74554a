"""Reading documents of a source ahead of whoever works on them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from groundtune_flows.sources.found import Content, Found, UnreadableFile

#: Content; None: unchanged; or why it can't be read.
Reading = Content | None | UnreadableFile

#: Documents that are read at a time, where reading means to wait for a server.
_READERS = 8


def read_ahead(files: Sequence[Found], known: Mapping[str, str | None]) -> Iterator[tuple[Found, Reading]]:
    """Each file with what reading it gave, in order.

    Args:
        known: fingerprints by URI, as they were stored.
    """

    def read(file: Found) -> Reading:
        try:
            return file.read(known.get(file.uri))
        except UnreadableFile as error:
            return error

    if not files or not files[0].awaited:
        yield from ((file, read(file)) for file in files)
        return
    with ThreadPoolExecutor(_READERS, thread_name_prefix="reading") as pool:
        pending: deque[tuple[Found, Future[Reading]]] = deque()
        for file in files:
            pending.append((file, pool.submit(read, file)))
            if len(pending) > _READERS:
                first, future = pending.popleft()
                yield first, future.result()
        for file, future in pending:
            yield file, future.result()
