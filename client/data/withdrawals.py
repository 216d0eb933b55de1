"""What a withdrawal means for training: which rows are left out, what stops an attempt, and what must not leave.

Order: a withdrawal is stored and its traces are purged under an exclusive lock; an update is put on disk, and its
transfer logged, under a shared one. So an update either saw every withdrawal or is not sent.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from client.data.row_index import RowIndex
from client.home import AgentHome
from compliance.errors import EnvironmentFault, RunFailed
from compliance.files import read_bytes, write_durably

if TYPE_CHECKING:
    from client.admission import Case

WITHDRAWN = "RSD-2430"  # a subject was withdrawn: this attempt, or its finished update, is over
_TRIES = 20


def open_index(home: AgentHome) -> RowIndex:
    """The index of this site's rows. Raises EnvironmentFault RSD-5030."""
    return RowIndex(home.path / "rows.db", home.secret())


def standing(home: AgentHome, dataset: str, sha256: str) -> tuple[tuple[int, ...], int]:
    """Of one moment: the rows to leave out, and the number of the last withdrawal that touched the data source.

    Raises CheckFailed RSD-2417 for an extract that the index does not know.
    """
    index = open_index(home)
    try:
        return index.excluded(dataset, sha256)
    finally:
        index.close()


def people_at_most(home: AgentHome, source: str) -> int:
    """How many people a data source has held in all its extracts: the next number of two digits and zeros, 10 or more.

    Rounded up, so that a legal threshold is never passed unseen; 104 is 110, 1000 is 1000, 1049 is 1100.
    """
    index = open_index(home)
    try:
        people = index.people(source)
    finally:
        index.close()
    unit = max(10, int(10 ** (len(str(people)) - 2)))
    return max(10, -(-people // unit) * unit)


def excluded_rows(home: Path, dataset: str, sha256: str) -> tuple[int, ...]:
    """Positions, in file order from 0, of the rows of the extract whose subjects were withdrawn.

    `sha256` is that of the registered file. Raises CheckFailed RSD-2417 for another one.
    """
    return standing(AgentHome(home), dataset, sha256)[0]


def stop_file(home: Path, source: str) -> Path:
    """The file whose content changes when a subject is withdrawn from `source`; no file until then."""
    return home / "stop" / source


def raise_stop(home: Path, source: str, number: int) -> None:
    """Stop what runs on `source` now: the file's content becomes the number of the withdrawal."""
    write_durably(stop_file(home, source), str(number).encode("ascii"))


@contextmanager
def _locked(home: Path, how: int) -> Iterator[None]:
    with (home / "withdrawals.lock").open("w") as lock:
        fcntl.flock(lock, how)
        yield


@contextmanager
def withdrawing(home: Path) -> Iterator[None]:
    """Nothing becomes ready to be sent, and nothing is sent, while this is held."""
    with _locked(home, fcntl.LOCK_EX):
        yield


@contextmanager
def releasing(home: Path) -> Iterator[None]:
    """No withdrawal takes effect while this is held: what was checked inside is still true."""
    with _locked(home, fcntl.LOCK_SH):
        yield


def is_current(home: AgentHome, case: Case) -> bool:
    """Whether nobody was withdrawn from the case's data source since the case was opened."""
    index = open_index(home)
    try:
        return index.last_withdrawal(case.dataset.source) == case.withdrawal
    finally:
        index.close()


def check_current(home: AgentHome, case: Case) -> None:
    """Raises RunFailed RSD-2430 unless `is_current`. Call it inside `releasing`."""
    if not is_current(home, case):
        raise subject_withdrawn()


def check_finished(home: AgentHome) -> None:
    """Raises RunFailed RSD-2430 while a stored withdrawal still has traces to purge. Call it inside `releasing`."""
    index = open_index(home)
    try:
        if index.withdrawals(pending=True):
            raise subject_withdrawn()
    finally:
        index.close()


def subject_withdrawn() -> RunFailed:
    """Why an attempt or a finished update is over. Says nothing about whom, how many, or on which ground."""
    return RunFailed(
        WITHDRAWN,
        "a subject was withdrawn from the data after this attempt began",
        rule="a withdrawal holds from the next batch on; what was drawn stays charged",
        found="a withdrawal",
        limit="none since the attempt began",
        next="the run goes on without this site in this round; the next round leaves the subject out",
    )


def fresh_cache(home: AgentHome, case: Case) -> Path:
    """The study's cache folder, emptied if a subject was withdrawn from its data source since it was filled."""
    folder = home.study_folder(case.digest) / "cache"
    mark = folder / "withdrawal"
    known = int(read_bytes(mark, "the cache's mark").decode("ascii")) if mark.exists() else 0
    if known != case.withdrawal:
        purge_cache(folder)
        write_durably(mark, str(case.withdrawal).encode("ascii"))
    return folder


def purge_cache(folder: Path) -> None:
    """Remove the cache: it is patient data. A process that reads it now keeps what it has mapped.

    Raises EnvironmentFault RSD-2419 for what cannot be removed.
    """
    for _ in range(_TRIES):  # a training process may put a file there at this very moment
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
    raise EnvironmentFault(
        "RSD-2419",
        f"the cache {folder} cannot be removed",
        rule="what was derived from records is purged with a withdrawal, a retirement and the study's end",
        found="files that stay",
        limit="an empty place",
        next="check the folder's owner and the disk, then repeat the command; an agent tries again within the hour",
    )
