"""The operator's desk: reach the running server, hand a run over to it, cancel a run, follow a run to its end.

The desk only writes files; the server's keeper starts the run and keeps it going.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from compliance.canonical import Json
from compliance.clock import now, rfc3339
from compliance.errors import EnvironmentFault, InputError, Refused, ResidencyError, RunFailed, error_class
from compliance.files import absolute, read_bytes, write_durably
from compliance.law.decide import builtin_packs
from compliance.law.regions import load_regions
from compliance.log.store import LogStore
from compliance.study import Study, open_study
from compliance.trust.home import OperatorHome
from server.law import check_operator_law
from server.private_door import connected_sites, open_control
from server.run_folder import RESULT, RunFolder, active_run, study_pointer
from server.run_state import Cancel, new_state

_LOOK_S: Final = 0.1
_SERVER_LOOK_S: Final = 5.0
_SERVER_AWAY_S: Final = 120.0


# --- starting ---


def start_run(home: Path, study_file: Path, answers: Path | None, bundle: bytes) -> RunFolder:
    """Hand a run of the study to the running server; it goes on whatever becomes of this process.

    `answers` None: those that the governance service received. Raises PeerUnreachable RSD-6106, RSD-6104 without a
    server, InputError RSD-8211 without answers, Refused RSD-8300 while another run of the study goes on, RSD-8308 after
    one that closed a round, or what `check_operator_law` raises.
    """
    place = OperatorHome(home)
    anchor = place.anchor()
    check_operator_law(place)
    data = read_bytes(study_file, "study")
    study, digest = open_study(anchor, data.rstrip(b"\n"), str(study_file), now())
    given = answers if answers is not None else place.study_folder(digest) / "answers"
    _check_answers_folder(given)
    with open_control(home) as control:  # before anything is written
        control.nodes()
    with _one_start(place.study_folder(digest)):
        _check_no_other(home, digest)
        return new_run(home, study, digest, data, given, bundle)


def _check_answers_folder(answers: Path) -> None:
    if not answers.is_dir():
        raise InputError(
            "RSD-8211", f"no folder of answers at {answers}", found="no folder", limit="signed answers",
            next="wait for the sites' answers (residency study show STUDY --home FOLDER), or give a folder: --answers",
        )  # fmt: skip


@contextmanager
def _one_start(folder: Path) -> Iterator[None]:
    """Two commands that start the same study at once: one of them sees the other's run."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "starting").open("wb") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def _check_no_other(home: Path, digest: str) -> None:
    if not study_pointer(home, digest).exists():
        return
    other = active_run(home, digest)
    if other.handed_over and not other.ended:
        raise Refused(
            "RSD-8300",
            f"run {other.run} of this study has not ended",
            rule="one run of a study at a time: no round has two rosters",
            found=other.run,
            limit="no run that goes on",
            next=f"residency run watch {other.run} or residency run cancel {other.run}",
        )
    _check_no_roster(home, digest)


def _check_no_roster(home: Path, digest: str) -> None:
    """A round has one roster for ever, so a later run could get no further than the first round of an earlier one."""
    earlier = (RunFolder(p) for p in sorted((home / "runs").glob("*")))
    closed = [f.run for f in earlier if f.handed_over and f.has_roster and f.state().study == digest]
    if closed:
        raise Refused(
            "RSD-8308",
            f"rounds of this study were closed in run {closed[-1]}",
            rule="a round of a study has one roster, and its privacy is spent once",
            found="a round with a roster",
            limit="a study without a closed round",
            next="propose a new study: residency study propose",
        )


def new_run(home: Path, study: Study, digest: str, data: bytes, answers: Path, bundle: bytes) -> RunFolder:
    """The folder of a new run; its state is written last, and hands it over. Raises EnvironmentFault RSD-7001."""
    stamp = now().strftime("%Y%m%d-%H%M%S")
    runs, n = home / "runs", 1
    while (runs / f"{study.name[:24]}-{stamp}-{n}").exists():
        n += 1
    folder = RunFolder(runs / f"{study.name[:24]}-{stamp}-{n}")
    try:
        (folder.path / "answers").mkdir(parents=True)
        for file in sorted(answers.glob("*.json")):
            shutil.copyfile(file, folder.path / "answers" / file.name)
    except OSError as e:
        raise EnvironmentFault("RSD-7001", f"cannot write {folder.path}: {e.strerror}", next="free disk space") from e
    write_durably(folder.path / "study.json", data)
    for name, pack in builtin_packs().items():
        write_durably(folder.path / "packs" / f"{name}.yaml", pack.raw)
    write_durably(folder.path / "regions.yaml", load_regions().raw)
    law = OperatorHome(home).law_file
    if law.exists():  # fixed for the run: what is installed later is for later runs
        folder.write_law(study.operator.name, read_bytes(law, "the operator's law set").decode("utf-8").rstrip(), "")
    write_durably(folder.path / "bundle.zip", bundle)
    write_durably(study_pointer(home, digest), folder.run.encode("ascii"))
    folder.write_state(new_state(digest))
    return folder


# --- one run ---


def find_run(home: Path, run: str) -> RunFolder:
    """The run that is meant by a folder, or by a name below `home`. Raises InputError RSD-8305, RSD-8213."""
    for path in (Path(run), home / "runs" / run):
        if (path / "study.json").is_file() or (path / RESULT).is_file():
            return RunFolder(path)
    if Path(run).is_dir():
        raise InputError("RSD-8213", f"{run} holds no run", found="no study.json", limit="a run's folder")
    known = ", ".join(sorted(p.name for p in (home / "runs").glob("*"))[-5:]) or "no run"
    raise InputError(
        "RSD-8305", f"there is no run {run}", found=run, limit=known, next="give a run's folder, or --home and its name"
    )


def cancel_run(home: Path, folder: RunFolder, reason: str) -> Cancel:
    """Make the run end, durably: the operator's log first, then the run. Asked twice, the first reason stands.

    Raises Refused RSD-8307 for a run that has ended, InputError RSD-8305 for a folder of another home.
    """
    if absolute(folder.path, "the run").parent != absolute(home / "runs", "the home"):
        raise InputError(
            "RSD-8305", f"{folder.path} is no run of this home", found=str(folder.path), limit=str(home / "runs"),
            next="give the operator's home with --home",
        )  # fmt: skip
    if folder.ended:
        raise Refused(
            "RSD-8307",
            f"run {folder.run} has ended",
            rule="a run ends once",
            found="a result",
            limit="a run that goes on",
        )
    known = folder.cancel()
    if known is not None:
        return known
    cancel = Cancel(schema="residency.cancel/1", run=folder.run, reason=reason, at=rfc3339(now()))
    place, study = OperatorHome(home), folder.state().study
    trust, signer = place.anchor().trust, place.signer()
    with LogStore.open(place.log_file, trust.log_origin(trust.operator.name), signer.private) as log:
        log.append("cancel", {"run": cancel.run, "reason": cancel.reason}, study)
    folder.write_json("cancel.json", cancel.model_dump(mode="json", by_alias=True))
    folder.event("cancelled", reason=reason)
    return cancel


def follow(home: Path, folder: RunFolder, show: Callable[[dict[str, Json]], None]) -> dict[str, Json]:
    """Pass each event of the run to `show` until it ends; its result.

    Raises PeerUnreachable RSD-6104 or RSD-6106 when the server is away for two minutes: the run goes on when it is
    back.
    """
    position, answered, looked = 0, time.monotonic(), time.monotonic()
    while True:
        result = folder.result()  # before the events: what was told before the end is shown
        fresh, position = _read_from(folder.path / "events.jsonl", position)
        for event in fresh:
            show(event)
        if result is not None:
            return result
        if time.monotonic() - looked > _SERVER_LOOK_S:
            looked = time.monotonic()
            answered = _asked_server(home, answered)
        time.sleep(_LOOK_S)


def _asked_server(home: Path, answered: float) -> float:
    """When the server answered last. Raises what keeps it from answering once that is too long ago."""
    try:
        with open_control(home) as control:
            control.nodes()
    except ResidencyError:
        if time.monotonic() - answered > _SERVER_AWAY_S:
            raise
        return answered
    return time.monotonic()


def _read_from(path: Path, position: int) -> tuple[list[dict[str, Json]], int]:
    """Whole lines after `position`, and the new position."""
    if not path.exists():
        return [], position
    with path.open("rb") as f:
        f.seek(position)
        data = f.read()
    end = data.rfind(b"\n") + 1
    return [json.loads(line) for line in data[:end].splitlines()], position + end


def error_of(result: dict[str, Json]) -> RunFailed | None:
    """The error of a run that did not finish, as the command ends with it (exit 8)."""
    error = result["error"]
    if error is None:
        return None
    cause = error_class(int(error["exit"])).__name__
    return RunFailed(
        error["code"], error["message"], rule=error["rule"], found=error["found"], limit=error["limit"],
        next=error["next"] or f"the cause was {cause}",
    )  # fmt: skip


__all__ = ["cancel_run", "connected_sites", "error_of", "find_run", "follow", "new_run", "open_control", "start_run"]
