"""The operator's desk: reach the running server, start a run, follow it to its end."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from compliance.canonical import Json, parse_json
from compliance.clock import now
from compliance.errors import EnvironmentFault, InputError, PeerUnreachable, RunFailed, error_class
from compliance.files import read_bytes, write_durably
from compliance.law.decide import builtin_packs
from compliance.study import Study, open_study
from compliance.trust.home import OperatorHome
from compliance.trust.root import Anchor, load_anchor
from server.control import Control
from server.launcher import read_token
from server.nodes import normal_public_key
from server.run_folder import RunFolder

READY = "flower/ready.json"
_LOOK_S = 0.1
_CONNECT_LIMIT_S = 60.0


def open_control(home: Path) -> Control:
    """A client of the running server's private door. Raises PeerUnreachable RSD-6106 when none was started."""
    file = home / READY
    if not file.exists():
        raise PeerUnreachable(
            "RSD-6106",
            "no server runs in this home",
            found=f"no {READY}",
            limit="a started server",
            next="residency server start --home FOLDER",
        )
    ready = parse_json(read_bytes(file, "the server's ports"), str(file))
    return Control(f"127.0.0.1:{int(ready['private_port'])}", home / "tls" / "ca.crt", read_token(home))


def connected_sites(home: Path, control: Control) -> dict[str, bool]:
    """Site name -> whether its agent is connected now."""
    anchor = load_anchor(OperatorHome(home).trust_file, now())
    online = {n.public_key for n in control.nodes() if n.online}
    return {s.name: normal_public_key(s.node_key.encode("ascii")) in online for s in anchor.trust.sites if s.node_key}


@dataclass(frozen=True)
class Started:
    """A run that the server has accepted."""

    folder: RunFolder
    flower_run: int
    study: Study


def start_run(home: Path, study_file: Path, answers: Path, bundle: bytes) -> Started:
    """Prepare the run's folder, wait for the study's sites to connect, and hand the run to the server.

    Sites that do not connect within a minute are late in the roster; the run starts with the rest.
    """
    anchor = load_anchor(OperatorHome(home).trust_file, now())
    data = read_bytes(study_file, "study")
    study, digest = open_study(anchor, data.rstrip(b"\n"), str(study_file), now())
    _check_answers_folder(answers)
    with open_control(home) as control:  # before anything is written
        _wait_connected(home, control, study)
        folder = _new_folder(home, study, digest, data, answers)
        folder.write_json("nodes.json", _register(anchor, control, study))
        number = control.start_run(bundle, {"study": digest})
    folder.event("started", flower_run=str(number))
    return Started(folder, number, study)


def _check_answers_folder(answers: Path) -> None:
    if not answers.is_dir():
        raise InputError(
            "RSD-8211", f"no folder of answers at {answers}", found="no folder", limit="signed answers",
            next="collect the sites' approvals and advice in one folder and give it with --answers",
        )  # fmt: skip


def _new_folder(home: Path, study: Study, digest: str, data: bytes, answers: Path) -> RunFolder:
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
    write_durably(home / "studies" / digest[:16] / "run", folder.run.encode("ascii"))
    return folder


def _register(anchor: Anchor, control: Control, study: Study) -> dict[str, Json]:
    keys = {s.name: s.node_key for s in anchor.trust.sites if s.node_key}
    # As text: a node's number has 64 bits, more than an integer in canonical JSON may have.
    return {s.name: str(control.register_node(keys[s.name].encode("ascii"))) for s in study.sites if s.name in keys}


def _wait_connected(home: Path, control: Control, study: Study) -> None:
    end = time.monotonic() + _CONNECT_LIMIT_S
    while time.monotonic() < end:
        up = connected_sites(home, control)
        if all(up.get(s.name, False) for s in study.sites):
            return
        time.sleep(_LOOK_S)


def follow(home: Path, started: Started, show: Callable[[dict[str, Json]], None]) -> dict[str, Json]:
    """Pass each event of the run to `show` until it ends; its result. Raises RunFailed RSD-8212 if it dies."""
    with open_control(home) as control:
        for event in _events(started, control):
            show(event)
    result = started.folder.result()
    if result is None:
        raise RunFailed(
            "RSD-8212",
            "the run ended without a result",
            rule="a run writes its result last",
            found="no result.json",
            limit="result.json",
            next=f"read the server's log and {started.folder.path / 'events.jsonl'}",
        )
    return result


def _events(started: Started, control: Control) -> Iterator[dict[str, Json]]:
    position, ended, last_asked = 0, False, time.monotonic()
    while True:
        fresh, position = _read_from(started.folder.path / "events.jsonl", position)
        for event in fresh:
            yield event
            ended = ended or event["event"] == "ended"
        if ended:
            return
        if time.monotonic() - last_asked > 1.0:  # asked rarely: the events tell sooner
            last_asked = time.monotonic()
            ended = control.run_status(started.flower_run).status == "finished"
        time.sleep(_LOOK_S)


def _read_from(path: Path, position: int) -> tuple[list[dict[str, Json]], int]:
    """Whole lines after `position`, and the new position."""
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


__all__ = ["Started", "connected_sites", "error_of", "follow", "open_control", "start_run"]
