"""The folder of one run at the operator: the truth about the run, each file whole or absent.

A run goes on from these files alone. What a release is built from lies here as well.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from compliance.canonical import Json, canonical, parse_canonical, sha256_hex
from compliance.clock import now, rfc3339
from compliance.errors import CheckFailed, EnvironmentFault
from compliance.evaluation.record import FILE as EVALUATION
from compliance.evaluation.record import FOLDER as HISTOGRAMS
from compliance.evaluation.record import EvaluationRecord
from compliance.files import read_bytes, write_durably
from compliance.identity import Envelope, parse_envelope
from compliance.messages import LayoutEntry
from compliance.release.model_files import LayoutFile
from compliance.roster import Roster
from compliance.study import Study
from compliance.validation import load_model
from server.run_state import Cancel, State
from strategies.flat import flat_bytes

Vector = npt.NDArray[np.float32]
Arrays = Mapping[str, npt.NDArray[np.generic]]

RESULT: Final = "result.json"
_MODEL_BYTES: Final = 2**32
_LOCK_LIMIT_S: Final = 30.0
_LOOK_S: Final = 0.05


@dataclass(frozen=True)
class RunFolder:
    """Paths, readers and writers below one run's folder."""

    path: Path

    @property
    def run(self) -> str:
        """The run's name."""
        return self.path.name

    # --- what the run was started with ---

    def study(self) -> bytes:
        """The signed study."""
        return read_bytes(self.path / "study.json", "study")

    def _unverified_study(self) -> Study:
        """Whoever works on the run checks the study's signature."""
        payload = parse_envelope(self.study().rstrip(b"\n"), "study.json").payload
        return load_model(Study, parse_canonical(payload, "study.json"), "RSD-2007", "study.json")

    def sites(self) -> tuple[tuple[str, str], ...]:
        """Name and jurisdiction of the study's sites."""
        return tuple((s.name, s.jurisdiction) for s in self._unverified_study().sites)

    def quorum(self) -> int:
        """How many sites the study asks for."""
        return self._unverified_study().quorum.sites

    def witness_quorum(self) -> int:
        """How many neutral witnesses of each log the study asks for."""
        return self._unverified_study().quorum.witnesses

    def answers(self) -> tuple[str, ...]:
        """All signed answers, as text, in the order of their file names."""
        return tuple(p.read_text(encoding="utf-8").rstrip("\n") for p in sorted((self.path / "answers").glob("*.json")))

    def bundle(self) -> bytes:
        """The app bundle with which every process of this run is started."""
        return read_bytes(self.path / "bundle.zip", "the run's bundle")

    def nodes(self) -> dict[str, int]:
        """Site name -> node number, as the server that runs now knows them."""
        found: dict[str, str] = parse_canonical(read_bytes(self.path / "nodes.json", "nodes"), "nodes.json")
        return {name: int(number) for name, number in found.items()}

    # --- where it stands ---

    @property
    def handed_over(self) -> bool:
        """Whether the run was given to the server: its state is the last file that `run start` writes."""
        return (self.path / "state.json").exists()

    @property
    def ended(self) -> bool:
        """Whether the run has its result."""
        return (self.path / RESULT).exists()

    def state(self) -> State:
        """The last step on disk. Raises InputError RSD-8213 for one that has not its form."""
        return load_model(State, parse_canonical(read_bytes(self.path / "state.json", "state"), "state.json"),
                          "RSD-8213", "state.json")  # fmt: skip

    def write_state(self, state: State) -> None:
        """One step further; on disk when it returns."""
        self.write_json("state.json", state.as_json())

    def cancel(self) -> Cancel | None:
        """Why the operator wants the run to end; None if nobody does."""
        file = self.path / "cancel.json"
        if not file.exists():
            return None
        return load_model(Cancel, parse_canonical(read_bytes(file, "cancel"), "cancel.json"), "RSD-8213", "cancel.json")

    def result(self) -> dict[str, Json] | None:
        """result.json, None while the run goes on."""
        if not self.ended:
            return None
        value: dict[str, Json] = parse_canonical(read_bytes(self.path / RESULT, "result"), RESULT)
        return value

    def write_json(self, name: str, value: Json) -> None:
        """Write one canonical JSON file below the folder."""
        write_durably(self.path / name, canonical(value))

    # --- models and rosters ---

    def write_layout(self, layout: tuple[LayoutEntry, ...]) -> None:
        """What the flat array holds."""
        entries = [e.model_dump(mode="json", exclude_none=True) for e in layout]
        self.write_json("layout.json", {"schema": "residency.layout/1", "entries": entries})

    def model_size(self) -> int:
        """The number of parameters of the layout."""
        value = parse_canonical(read_bytes(self.path / "layout.json", "layout"), "layout.json")
        return load_model(LayoutFile, value, "RSD-8213", "layout.json").size

    def write_snapshot(self, round_: int, flat: Vector) -> None:
        """The global model after `round_` (0: before the first)."""
        write_durably(self._snapshot(round_), flat_bytes(flat))

    def snapshot(self, round_: int, digest: str) -> Vector:
        """The global model after `round_`, which has this digest. Raises CheckFailed RSD-8306."""
        data = read_bytes(self._snapshot(round_), "snapshot", _MODEL_BYTES)
        if sha256_hex(data) != digest:
            raise damaged(f"the snapshot of round {round_}", sha256_hex(data)[:12], digest[:12])
        return np.frombuffer(data, dtype="<f4")

    def _snapshot(self, round_: int) -> Path:
        return self.path / "snapshots" / f"round-{round_:03d}.f32"

    def write_rule(self, round_: int, arrays: Arrays) -> None:
        """The server rule's own state after `round_`: raw arrays, then the list of their digests."""
        listed: dict[str, Json] = {}
        for name, array in sorted(arrays.items()):
            data = array.astype("<f8").tobytes()
            write_durably(self.path / "rule" / f"round-{round_:03d}.{name}.f64", data)
            listed[name] = sha256_hex(data)
        self.write_json(f"rule/round-{round_:03d}.json", listed)

    def rule(self, round_: int) -> dict[str, npt.NDArray[np.generic]]:
        """What `write_rule` wrote for `round_`. Raises CheckFailed RSD-8306 for other bytes."""
        name = f"rule/round-{round_:03d}.json"
        listed: dict[str, str] = parse_canonical(read_bytes(self.path / name, "the server rule's state"), name)
        arrays: dict[str, npt.NDArray[np.generic]] = {}
        for key, digest in listed.items():
            data = read_bytes(self.path / "rule" / f"round-{round_:03d}.{key}.f64", "rule state", _MODEL_BYTES)
            if sha256_hex(data) != digest:
                raise damaged(f"the server rule's {key} of round {round_}", sha256_hex(data)[:12], digest[:12])
            arrays[key] = np.frombuffer(data, dtype="<f8")
        return arrays

    def forget_rule(self, round_: int) -> None:
        """Remove the rule's state of a round that nobody goes back to."""
        for file in (self.path / "rule").glob(f"round-{round_:03d}.*"):
            file.unlink(missing_ok=True)

    def write_roster(self, round_: int, envelope: bytes) -> None:
        """A round's roster with all signatures so far."""
        write_durably(self._roster(round_), envelope + b"\n")

    def roster(self, round_: int) -> tuple[Roster, Envelope] | None:
        """The roster of `round_`; None while there is none."""
        file = self._roster(round_)
        if not file.exists():
            return None
        envelope = parse_envelope(read_bytes(file, "roster").rstrip(b"\n"), str(file))
        return load_model(Roster, parse_canonical(envelope.payload, str(file)), "RSD-8213", str(file)), envelope

    @property
    def has_roster(self) -> bool:
        """Whether a round of this run was closed: its roster may be countersigned, and no other one of it ever is."""
        return any((self.path / "rosters").glob("round-*.json"))

    @property
    def after_failure(self) -> str:
        """What the operator can do about a run that ended below quorum."""
        return f"remove the reasons, then {'propose a new study' if self.has_roster else 'start a new run'}"

    def _roster(self, round_: int) -> Path:
        return self.path / "rosters" / f"round-{round_:03d}.json"

    def write_law(self, site: str, adoption: str, advice: str) -> None:
        """The signed adoption under which a site joined, and the advice on it if there was any."""
        for kind, text in (("adoption", adoption), ("advice", advice)):
            file = self.path / "law" / f"{site}.{kind}.json"
            if text:
                write_durably(file, text.encode("utf-8") + b"\n")
            else:
                file.unlink(missing_ok=True)

    def adoption(self, member: str) -> bytes:
        """The signed adoption of a member; empty if there is none."""
        file = self.path / "law" / f"{member}.adoption.json"
        return read_bytes(file, f"the adoption of {member}") if file.exists() else b""

    def write_histogram(self, site: str, signed: bytes) -> None:
        """A site's signed counts."""
        write_durably(self.path / HISTOGRAMS / f"{site}.json", signed + b"\n")

    def write_evaluation(self, envelope: bytes) -> None:
        """The signed record of the evaluation."""
        write_durably(self.path / EVALUATION, envelope + b"\n")

    def evaluation(self) -> tuple[EvaluationRecord, Envelope] | None:
        """The record of the evaluation; None while there is none. Raises InputError RSD-8213."""
        file = self.path / EVALUATION
        if not file.exists():
            return None
        envelope = parse_envelope(read_bytes(file, "evaluation").rstrip(b"\n"), str(file))
        value = parse_canonical(envelope.payload, str(file))
        return load_model(EvaluationRecord, value, "RSD-8213", str(file)), envelope

    def write_evidence(self, member: str, text: str) -> None:
        """The evidence of one member's log."""
        write_durably(self.path / "evidence" / f"{member}.json", text.encode("utf-8"))

    def evidence_files(self) -> list[Path]:
        """The evidence that was collected, a file for each member."""
        return sorted((self.path / "evidence").glob("*.json"))

    # --- for whoever watches ---

    def event(self, name: str, **fields: Json) -> None:
        """Append one line to events.jsonl. After a crash a step that is done again may stand there twice."""
        line = json.dumps({"event": name, "at": rfc3339(now()), **fields}, ensure_ascii=False) + "\n"
        fd = os.open(self.path / "events.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(fd, line.encode("utf-8"))
        finally:
            os.close(fd)

    def finish(self, outcome: str, rounds: int, error: Json) -> None:
        """Write result.json, the last thing of a run; a run that has one keeps it."""
        if self.ended:
            return
        study = self.state().study
        result = {"schema": "residency.run/1", "run": self.run, "study": study, "outcome": outcome, "rounds": rounds}
        self.write_json(RESULT, {**result, "error": error})
        self.event("ended", outcome=outcome)

    # --- one coordinator at a time ---

    @contextmanager
    def coordinating(self) -> Iterator[None]:
        """Hold the run: no two processes coordinate it. The system lets go of it when the process dies.

        Raises EnvironmentFault RSD-8304 if another process still holds it after 30 s.
        """
        fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            end = time.monotonic() + _LOCK_LIMIT_S
            while not _locked(fd):
                if time.monotonic() > end:
                    raise _held(self.run)
                time.sleep(_LOOK_S)
            yield
        finally:
            os.close(fd)

    @property
    def held(self) -> bool:
        """Whether a process coordinates this run now."""
        try:
            fd = os.open(self.path / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            return not _locked(fd)
        finally:
            os.close(fd)


def _locked(fd: int) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _held(run: str) -> EnvironmentFault:
    return EnvironmentFault(
        "RSD-8304",
        f"another process coordinates run {run}",
        rule="one coordinator a run",
        found="a held lock",
        limit="a free lock",
        next="stop the other server of this home",
    )


def damaged(what: str, found: object, limit: object) -> CheckFailed:
    """RSD-8306: a file of the run is not the one that the run wrote."""
    return CheckFailed(
        "RSD-8306",
        f"{what} is not what the run wrote",
        rule="a run goes on only from its own files",
        found=found,
        limit=limit,
        next="check the disk; restore the run's folder from a backup",
    )


def study_pointer(home: Path, study: str) -> Path:
    """Where the name of the study's newest run stands."""
    return home / "studies" / study[:16] / "run"


def active_run(home: Path, study: str) -> RunFolder:
    """The run that was started last for a study."""
    name = read_bytes(study_pointer(home, study), "the study's run").decode("ascii").strip()
    return RunFolder(home / "runs" / name)


def open_runs(home: Path) -> list[RunFolder]:
    """The runs that were handed over and have not ended, by name."""
    folders = [RunFolder(p) for p in sorted((home / "runs").glob("*")) if p.is_dir()]
    return [f for f in folders if f.handed_over and not f.ended]
