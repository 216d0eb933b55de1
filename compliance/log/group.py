"""Group commit: whoever may write next writes for all threads that wait, in one durable transaction."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from compliance.errors import EnvironmentFault

Item = TypeVar("Item")
Done = TypeVar("Done")


class _Job(Generic[Item, Done]):
    """One caller's item, and what became of it."""

    def __init__(self, item: Item) -> None:
        self.item = item
        self.error: Exception | None = None
        self.done: list[Done] = []  # its answer, once it is on disk

    @property
    def ended(self) -> bool:
        return self.error is not None or bool(self.done)


class GroupCommit(Generic[Item, Done]):
    """`write` takes the items of all who wait, in their order, and answers each once all are on disk, or none is.

    No caller waits for company: an item that finds nobody writing is written at once, and those that come meanwhile go
    together into the next transaction.
    """

    def __init__(self, write: Callable[[Sequence[Item]], Sequence[Done]]) -> None:
        self._write = write
        self._waiting: list[_Job[Item, Done]] = []
        self._lock = threading.Lock()  # of the list
        self._turn = threading.Lock()  # who writes

    def submit(self, item: Item) -> Done:
        """The answer to `item`, after it is on disk. Raises what `write` raised: then nothing of it was written."""
        job: _Job[Item, Done] = _Job(item)
        with self._lock:
            self._waiting.append(job)
        with self._turn:
            if not job.ended:
                self._lead()
        if job.error is not None:
            raise job.error
        return job.done[0]

    def _lead(self) -> None:
        with self._lock:
            jobs, self._waiting = self._waiting, []
        try:
            for job, done in zip(jobs, self._write([job.item for job in jobs]), strict=True):
                job.done.append(done)
        except BaseException as e:
            for job in jobs:
                job.error = e if isinstance(e, Exception) else _stopped(e)
            raise


def _stopped(error: BaseException) -> EnvironmentFault:
    return EnvironmentFault(
        "RSD-5030",
        "the thread that was writing to the log was stopped",
        rule="what is not on disk did not happen: nothing may be released without its log entry",
        found=type(error).__name__,
        limit="a durable commit",
        next="repeat it; nothing was half written",
    )
