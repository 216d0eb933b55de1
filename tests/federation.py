"""A tiny consortium on real parts: keys, trust, policies, papers, a BERT of two layers, tables, a study, answers.

Sites: a (DE), b (GB), c (JP), d (FR), and e (CN) without any transfer basis; the operator is in IE. `consortium()` is
built once per test process by the library's own functions; `Consortium.copy_home` gives a test a home that it may
damage. `Live` starts the server and the agents as processes on loopback TLS.
"""

from __future__ import annotations

import atexit
import copy
import functools
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from client import enrolment, registration
from client.home import AgentHome
from client.site import Site
from client.workbench import Ready, evaluation_spec, round_spec
from compliance.answers import ADVICE, APPROVAL
from compliance.canonical import canonical, sha256_hex
from compliance.clock import now, rfc3339
from compliance.identity import Signer, load_public, new_signer, parse_envelope, save_signer, seal
from compliance.law.decide import builtin_packs
from compliance.law.law_adoption import adoption_record, draft_law_set
from compliance.law.law_set import LawSet
from compliance.law.regions import load_regions
from compliance.log.store import LogStore
from compliance.messages import EvaluateRequest, JoinRequest, LayoutEntry, RoundRequest, WitnessRequest, encode
from compliance.pki import issue_site_certificate
from compliance.roster import Roster
from compliance.software import BUNDLE_SHA256, VERSION
from compliance.study import Study
from compliance.tls import make_tls
from compliance.trust.consortium import Consortium as Config
from compliance.trust.draft import draft_trust
from compliance.trust.enrol import check_request, make_invitation, open_invitation
from compliance.trust.root import Anchor, load_anchor
from compliance.validation import load_model
from strategies.wire import Request
from tests import programs, stem

JURISDICTIONS = {"a": "DE", "b": "GB", "c": "JP", "d": "FR", "e": "CN"}
TRAINING = ("a", "b", "c", "d")
REFUSED = "e"
OPERATOR, CONSORTIUM, DATASET = "hub", "tiny", "thyroid"
SIGMA_MICRO = 1_200_000
DATA_TERMS = registration.Terms("9(2)(j)", ("scientific_research",), "2099-12-31")
LAYOUT = (LayoutEntry(name="head.weight", shape=(2, 3)), LayoutEntry(name="head.bias", shape=(2,)))
SIZE = 8
HEAD_ONLY = {
    "name": "tiny",
    "sha256": "ab" * 32,
    "pooling": "mean",
    "adapters": None,
    "features": None,
    "feature_norm_milli": 1000,
}
PAPERS = (
    {"id": "dpia", "kind": "dpia"},
    {"id": "art6", "kind": "art6_basis"},
    {"id": "art9", "kind": "art9_basis"},
    {"id": "ethics", "kind": "ethics"},
    *(
        {"id": f"adequacy-{n}", "kind": "adequacy_confirmation", "to_jurisdiction": j, "covers": n}
        for n, j in {OPERATOR: "IE", "a": "DE", "b": "GB", "c": "JP", "d": "FR"}.items()
    ),
    {"id": "basis-cn", "kind": "pipl_basis", "from_jurisdiction": "CN"},
    *(
        {"id": f"contract-cn-{n}", "kind": "pipl_contract", "from_jurisdiction": "CN", "covers": n}
        for n in (OPERATOR, "a", "b", "c", "d")
    ),
)


def day(days: float) -> str:
    """RFC 3339 that many days from now."""
    return rfc3339(now() + timedelta(days=days))


def free_port() -> int:
    """A port of the loopback that nobody listens on now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@dataclass(frozen=True)
class Consortium:
    """Everything that the members hold, below `root`."""

    root: Path
    operator: Signer
    signatories: dict[str, Signer]
    dpos: dict[str, Signer]
    model: dict[str, Any]

    @property
    def hub(self) -> Path:
        """The operator's home."""
        return self.root / OPERATOR

    @property
    def trust(self) -> Path:
        """The trust file, as auditors hold it."""
        return self.root / "trust.json"

    @property
    def anchor(self) -> Anchor:
        """The trust file, opened."""
        return load_anchor(self.trust, now())

    def home(self, site: str) -> Path:
        """The agent's home of a site."""
        return self.root / "sites" / site

    def copy_home(self, site: str, to: Path) -> Path:
        """A copy of the site's home as it was before any run."""
        return Path(shutil.copytree(self.home(site), to / site))

    def policy_digest(self, site: str) -> str:
        """Digest of the site's signed policy."""
        return parse_envelope((self.home(site) / "policy.json").read_bytes(), "policy").digest

    def study(self, **changes: Any) -> dict[str, Any]:
        """A study, as JSON; `changes` replace fields of it."""
        return study_json(self.model, **changes)

    def sign_study(self, **changes: Any) -> Signed:
        """A study signed by the operator."""
        value = load_model(Study, self.study(**changes), "RSD-2007", "study").as_json()
        envelope = seal(value, self.operator)
        return Signed(self, value, envelope.encode(), envelope.digest)

    def sign_policy(self, site: str, **changes: Any) -> bytes:
        """A policy signed by the site's signatory."""
        return seal(policy_json(site, **changes), self.signatories[site]).encode() + b"\n"

    def sign_law(self, site: str, **changes: Any) -> tuple[bytes, bytes]:
        """The site's law set (`changes` replace fields of it): adopted by its signatory, and the advice on it."""
        law_set = law_set_of(site, **changes)
        advice = self.advice(site, law_set.digest, subject="law_set") + b"\n"
        record = adoption_record(law_set, now(), parse_envelope(advice, "advice").digest, "")
        return seal(record, self.signatories[site]).encode() + b"\n", advice

    def install_terms(self, home: AgentHome, law: dict[str, Any] | None = None, **policy: Any) -> None:
        """Law set and policy at the site of `home`, signed now; `law` and `policy` replace fields of them."""
        site, folder = home.config.site, scratch("terms")
        adoption, advice = self.sign_law(site, **(law or {}))
        named = {"law_set": law_set_of(site, **(law or {})).digest}
        for name, data in (("law", adoption), ("advice", advice), ("policy", self.sign_policy(site, **named | policy))):
            (folder / f"{name}.json").write_bytes(data)
        enrolment.install_law(home, folder / "law.json", folder / "advice.json")
        enrolment.install_policy(home, folder / "policy.json")

    def advice(self, site: str, digest: str, **changes: Any) -> bytes:
        """The DPO's signed advice on a study."""
        record = {
            "schema": ADVICE,
            "subject": "study",
            "digest": digest,
            "site": site,
            "at": day(0),
            "favourable": True,
        }
        return seal({**record, "text": "Proportionate.", **changes}, self.dpos[site]).encode()

    def approval(self, site: str, study: str, advice: bytes, **changes: Any) -> bytes:
        """The signatory's signed approval."""
        record = {
            "schema": APPROVAL,
            "subject": "study",
            "digest": study,
            "site": site,
            "at": day(0),
            "advice": parse_envelope(advice, "advice").digest,
            "against_advice_reason": "",
            "policy": self.policy_digest(site),
            "software": {"version": VERSION, "bundle_sha256": BUNDLE_SHA256},
        }
        return seal({**record, **changes}, self.signatories[site]).encode()


@dataclass(frozen=True)
class Signed:
    """A signed study."""

    consortium: Consortium
    value: dict[str, Any]
    data: bytes
    digest: str

    def answers(self, *sites: str) -> dict[str, bytes]:
        """File name -> advice or approval, of `sites` (default: all of the study)."""
        out: dict[str, bytes] = {}
        for site in sites or [s["name"] for s in self.value["sites"]]:
            advice = self.consortium.advice(site, self.digest)
            out[f"{site}.advice.json"] = advice
            out[f"{site}.approval.json"] = self.consortium.approval(site, self.digest, advice)
        return out

    def join(self, answers: dict[str, bytes] | None = None) -> Request:
        """The message that asks a site to join."""
        given = self.answers() if answers is None else answers
        texts = tuple(data.decode() for data in given.values())
        message = JoinRequest(schema="residency.join/1", run="run-1", study=self.data.decode(), answers=texts)
        return Request("join", encode(message))

    def round(self, base: np.ndarray | None = None, **changes: Any) -> Request:
        """The message that asks for round 1 from `base`."""
        flat = np.zeros(SIZE, dtype="<f4") if base is None else base
        fields = {
            "schema": "residency.round/1",
            "run": "run-1",
            "study": self.digest,
            "round": 1,
            "recipients": TRAINING,
            "base_sha256": sha256_hex(flat.tobytes()),
        }
        return Request("round", encode(RoundRequest(**{**fields, **changes})), flat)

    def evaluate(self, model: np.ndarray | None = None, **changes: Any) -> Request:
        """The message that asks to evaluate `model`."""
        flat = np.ones(SIZE, dtype="<f4") if model is None else model
        fields = {
            "schema": "residency.evaluate/1",
            "run": "run-1",
            "study": self.digest,
            "recipients": TRAINING,
            "model_sha256": sha256_hex(flat.tobytes()),
        }
        return Request("evaluate", encode(EvaluateRequest(**{**fields, **changes})), flat)

    def last_roster(self) -> Request:
        """The message that asks to countersign the roster of the last round, in which every site was late."""
        away = {"code": "RSD-6103", "rule": "", "message": "away"}
        sites = {s["name"]: s["jurisdiction"] for s in self.value["sites"]}
        rows = [{"site": n, "jurisdiction": j, "outcome": "late", "reason": away} for n, j in sites.items()]
        fields = {
            "schema": "residency.roster/1",
            "study": self.digest,
            "run": "run-1",
            "round": self.value["training"]["rounds"],
            "unit": self.value["privacy"]["unit"],
            "adjacency": "add_remove",
            "at": day(0),
            "base_sha256": "0" * 64,
            "result_sha256": "0" * 64,
            "recipients": [],
            "rows": rows,
        }
        text = seal(load_model(Roster, fields, "RSD-1210", "roster").as_json(), self.consortium.operator).encode()
        message = WitnessRequest(
            schema="residency.witness/1", study=self.digest, roster=text.decode(), offers=(), cosigned=()
        )
        return Request("witness", encode(message))

    def write(self, folder: Path, answers: dict[str, bytes] | None = None) -> tuple[Path, Path]:
        """The study file and the folder of answers, as the operator holds them."""
        place = folder / "answers"
        place.mkdir(parents=True)
        for name, data in (self.answers() if answers is None else answers).items():
            (place / name).write_bytes(data + b"\n")
        (folder / "study.json").write_bytes(self.data + b"\n")
        return folder / "study.json", place


def study_json(base_model: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Two rounds of two steps at every site; epsilon 8 is claimed, less is spent."""
    documents = [
        {"title": f"Invented {p['id']}", "sha256": sha256_hex(p["id"].encode()), "expires": day(200), **p}
        for p in PAPERS
    ]
    sites = [
        {
            "name": name,
            "jurisdiction": jurisdiction,
            "records_public": 200,
            "batch": 20,
            "weight": 1 + i,
            "epsilon_milli": 8000,
            "noise_multiplier_micro": SIGMA_MICRO,
        }
        for i, (name, jurisdiction) in enumerate(JURISDICTIONS.items())
    ]
    value = {
        "schema": "residency.study/1",
        "name": "tiny-one",
        "consortium": CONSORTIUM,
        "purpose": "scientific_research",
        "description": "An invented study.",
        "operator": {"name": OPERATOR, "jurisdiction": "IE"},
        "controllers": list(JURISDICTIONS),
        "documents": documents,
        "issued": day(0),
        "starts": day(-1),
        "ends": day(30),
        "dataset": DATASET,
        "task": {
            "kind": "sequence_classification",
            "labels": ["no", "yes"],
            "label_column": "target",
            "label_values": {"-": "no"},
            "label_other": "yes",
            "template": "[TSH {TSH}.][ age {age}]",
            "max_tokens": 12,
        },
        "model": base_model,
        "training": {
            "rounds": 2,
            "steps": 2,
            "head_rate_milli": 1000,
            "adapter_rate_milli": 500,
            "physical_batch": 16,
        },
        "privacy": {"unit": "record", "inverse_delta": 100_000, "clip_micro": 1_000_000, "spare_rounds": 1},
        "aggregation": {"rule": "fedavg"},
        "sites": sites,
        "quorum": {"sites": 2},
        "round_deadline_s": 60,
        "software": {"version": VERSION, "bundle_sha256": BUNDLE_SHA256},
    }
    return {**copy.deepcopy(value), **changes}


def law_set_of(site: str, **changes: Any) -> LawSet:
    """All built-in packs that bind the site; `changes` replace fields of the set."""
    made = draft_law_set(site, JURISDICTIONS[site], builtin_packs(), load_regions(), {})
    return load_model(LawSet, {**made.as_json(), **changes}, "RSD-3030", "law set") if changes else made


def policy_json(site: str, **changes: Any) -> dict[str, Any]:
    """A policy that the tiny study lies within."""
    return {
        "schema": "residency.policy/1",
        "site": site,
        "jurisdiction": JURISDICTIONS[site],
        "issued": day(0),
        "expires": day(200),
        "purposes": ["scientific_research"],
        "tasks": ["sequence_classification"],
        "units": ["record"],
        "epsilon_milli_at_most": 8000,
        "inverse_delta_at_least": 100_000,
        "rounds_at_most": 60,
        "sites_at_least": 2,
        "operators": [OPERATOR],
        "required_documents": ["dpia", "art6_basis", "art9_basis", "ethics"],
        "models": [],
        "ledger": {"epsilon_milli": 8000, "inverse_delta": 100_000},
        "law_set": law_set_of(site).digest,
        **changes,
    }


def scratch(prefix: str) -> Path:
    """A folder that goes when the test process ends."""
    folder = Path(tempfile.mkdtemp(prefix=f"residency-{prefix}-"))
    pid = os.getpid()

    def gone() -> None:
        if os.getpid() == pid:  # a forked child must not clean up after its parent
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(gone)
    return folder


@functools.cache
def consortium() -> Consortium:
    """The consortium of this test process, built once; treat it as read-only."""
    from tests.tiny_bert import save_tiny_bert, tiny_model, write_table

    root = scratch("federation")
    folder = save_tiny_bert(root / "model")
    made = _people(root, tiny_model(folder).model_dump(mode="json"))
    for i, site in enumerate(JURISDICTIONS):
        home = AgentHome(made.home(site))
        enrolment.install_trust(home, made.trust)
        made.install_terms(home)
        table = write_table(root / f"{site}.csv", 200 + 30 * i)
        registration.add_dataset(home, DATASET, table, f"{site}-clinic", ["patient_id"], DATA_TERMS)
        registration.add_model(home, folder, "tiny")
    return made


def _people(root: Path, model: dict[str, Any]) -> Consortium:
    """Keys, invitations, requests, and the trust file that every signatory signed."""
    hub = root / OPERATOR
    config = Config(
        schema="residency.consortium/1",
        name=CONSORTIUM,
        operator={"name": OPERATOR, "jurisdiction": "IE"},
        threshold=3,
        server=f"127.0.0.1:{free_port()}",
        governance=f"127.0.0.1:{free_port()}",
        enrolment=f"127.0.0.1:{free_port()}",
    )
    operator = new_signer("operator", OPERATOR, day(-1), day(300))
    save_signer(operator, hub / "keys")
    tls = make_tls(hub / "tls", config.hosts)
    (hub / "invitations").mkdir()
    (hub / "consortium.json").write_bytes(canonical(config.as_json()) + b"\n")
    people: dict[str, dict[str, Signer]] = {"signatory": {}, "dpo": {}}
    requests = []
    for site, jurisdiction in JURISDICTIONS.items():
        invitation = make_invitation(config, operator, site, jurisdiction, tls.ca.read_text())
        file = root / f"{site}.invitation.json"
        file.write_bytes(invitation.encode() + b"\n")
        publics = []
        for role, held in people.items():
            held[site] = new_signer(role, site, day(-1), day(300))  # type: ignore[arg-type]
            publics.append(load_public(save_signer(held[site], root / f"{site}-office")[1]))
        home = root / "sites" / site
        data = enrolment.enrol(home, file, publics[0], publics[1], day(300))
        requests.append(check_request(data, open_invitation(invitation.encode())))
        csr = requests[-1].csr.encode("ascii")
        enrolment.install_certificate(AgentHome(home), issue_site_certificate(hub / "tls", csr, site, CONSORTIUM, 300))
    draft = draft_trust(config, operator.identity, requests, None, day(300))
    signed = seal(json.loads(draft.payload), *people["signatory"].values())
    for place in (root / "trust.json", hub / "trust.json"):
        place.write_bytes(signed.encode() + b"\n")
    LogStore.open(hub / "log.db", f"residency/{CONSORTIUM}/{OPERATOR}", operator.private).close()
    return Consortium(root, operator, people["signatory"], people["dpo"], model)


# --- one site in this process -------------------------------------------------------------------------------------


class StandIn:
    """In the place of the workbench: an update without a training process. Everything around it is real."""

    def __init__(self) -> None:
        self.specs: list[Any] = []
        self.error: Exception | None = None

    def prepare(self, case: Any, cache: Path) -> Ready:
        """A layout of eight numbers."""
        del case, cache
        return Ready(LAYOUT, "cpu")

    def train(self, case: Any, cache: Path, round_: int, attempt: int, base: np.ndarray) -> tuple[np.ndarray, Any]:
        """Fresh random numbers, so that a second attempt shows."""
        del cache, base
        self.specs.append(round_spec(case, round_, attempt))
        if self.error is not None:
            raise self.error
        return np.frombuffer(os.urandom(SIZE), dtype=np.uint8).astype("<f4"), {"noise": True}

    def evaluate(self, case: Any, cache: Path, flat: np.ndarray) -> tuple[tuple[int, ...], dict[str, bool]]:
        """Fresh random counts, so that a second draw shows: most records where they belong, whatever the model."""
        del cache, flat
        spec = evaluation_spec(case)
        self.specs.append(spec)
        if self.error is not None:
            raise self.error
        cells = np.frombuffer(os.urandom(spec.rows * spec.columns), dtype=np.uint8).astype(np.int64)
        table = cells.reshape(spec.rows, spec.columns)
        table[0, : spec.columns // 2] += 200
        table[-1, spec.columns // 2 :] += 200
        return tuple(int(c) * spec.scale for c in cells), {"noise_variance": True}

    def close(self) -> None:
        """Nothing to end."""


@contextmanager
def open_home(home: Path) -> Iterator[Site]:
    """The site at `home` with a stand-in for its workbench."""
    site = Site(AgentHome(home))
    site.workbench = StandIn()  # type: ignore[assignment]
    try:
        yield site
    finally:
        site.close()


def entries(site: Site, *kinds: str, study: str | None = None) -> list[Any]:
    """The entries of the site's log, of these kinds, in order."""
    return [e for e in site.log.entries(0, site.log.size) if e.kind in kinds and study in (None, e.study)]


def in_child(action: Callable[[], object]) -> int:
    """Run `action` in a forked process; its exit status, or minus the signal that ended it. 0: it returned."""
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            action()
            status = 0
        finally:
            os._exit(status)
    _, waited = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(waited)


def die() -> None:
    """kill -9 of this process, by itself."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_after(owner: Any, name: str, when: Callable[..., object]) -> None:
    """Make this process die right after the first call of `owner.name` for whose arguments `when` is true."""
    real = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        out = real(*args, **kwargs)
        if when(*args):
            die()
        return out

    setattr(owner, name, wrapped)


@functools.cache
def main_study() -> Signed:
    """The ordinary study, signed once."""
    return consortium().sign_study()


@functools.cache
def _joined() -> dict[str, Path]:
    return {}


def joined_home(site: str, to: Path) -> Path:
    """A copy of the home of `site` as it is after joining `main_study`."""
    from client import session

    if site not in _joined():
        home = consortium().copy_home(site, scratch("joined"))
        with open_home(home) as opened:
            session.answer(opened, main_study().join())
        _joined()[site] = home
    return Path(shutil.copytree(_joined()[site], to / site))


# --- the server and the agents as processes ------------------------------------------------------------------------


def environment() -> dict[str, str]:
    """What the processes get: offline, quiet, one thread."""
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **quiet, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True)
class Done:
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Its one object on stdout."""
        found: dict[str, Any] = json.loads(self.out)
        return found


def residency(*args: object, module: str = "residency", limit_s: float = 240, forked: bool = True) -> Done:
    """Run `residency ARGS` as a process, to its end; of another `module`, or unless `forked`, from nothing."""
    words = [sys.executable, "-m", module, *map(str, args)]
    if forked and module == "residency":
        programs.start()
        done = programs.run(words, limit_s, env=environment())
    else:
        done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=limit_s, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


class Live:
    """A running federation below `root`, a copy of the consortium with its own log and ledgers."""

    start_program: type[subprocess.Popen[Any]] = programs.Forked

    def __init__(self, made: Consortium) -> None:
        stem.start()
        programs.start()
        root = Path(shutil.copytree(made.root, scratch("live") / "world"))
        self.made = replace(made, root=root)  # what runs here must not show in the homes that other tests copy
        self.output = root / "output"
        self.output.mkdir()
        self._services: dict[str, subprocess.Popen[bytes]] = {}
        self._runs: list[subprocess.Popen[str]] = []

    def start(self, sites: tuple[str, ...] = tuple(JURISDICTIONS)) -> Live:
        """Start the server and the agents of `sites`, and wait until each is ready."""
        self.start_server()
        for site in sites:
            self.spawn(site, "agent", "start", "--home", self.made.home(site), "--threads", "1")
        for name in (OPERATOR, *sites):
            self.wait(lambda name=name: '"ready": true' in self.said(name), 120, f"{name} ready")  # type: ignore[misc]
        return self

    def start_server(self) -> None:
        """Start the server, once more or for the first time."""
        self.spawn(OPERATOR, "server", "start", "--home", self.made.hub, "--host", "127.0.0.1")

    def program(self, name: str) -> tuple[str, ...]:
        """What runs a service: the command itself; of an agent, with a warm process that has not far to go."""
        if name == OPERATOR:
            return (sys.executable, "-m", "residency")
        return (sys.executable, str(Path(__file__).with_name("agent_main.py")))

    def spawn(self, name: str, *args: object) -> subprocess.Popen[bytes]:
        """Start `residency ARGS` in its own process group; its output goes to a file."""
        with (self.output / f"{name}.log").open("ab") as out:
            process = self.start_program(
                [*self.program(name), *map(str, args)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment(), start_new_session=True,
            )  # fmt: skip
        self._services[name] = process
        return process

    def said(self, name: str) -> str:
        """What a service has printed."""
        return (self.output / f"{name}.log").read_text(errors="replace")

    def wait(self, done: Callable[[], object], limit_s: float, what: str) -> None:
        """Return once `done()` is true."""
        end = time.monotonic() + limit_s
        while not done():
            assert time.monotonic() < end, f"{what}: not within {limit_s} s\n{self.report()}"
            ended = [run.communicate() for run in self._runs if run.poll() not in (None, 0)]
            assert not ended, f"{what}: the run ended\n{ended}\n{self.report()}"
            time.sleep(0.05)

    def report(self) -> str:
        """The last lines of every service and run: what a failed wait shows."""
        files = [*self.output.glob("*.log"), *self.made.hub.glob("runs/*/events.jsonl")]
        return "\n".join(
            f"{f.name}: {line}" for f in files for line in f.read_text("utf-8", "replace").splitlines()[-6:]
        )

    def pid(self, name: str) -> int:
        """The process of a service."""
        return self._services[name].pid

    def kill(self, name: str) -> None:
        """kill -9 of one service, alone."""
        self._services[name].kill()
        self._services[name].wait()

    def begin_run(self, study: Path, answers: Path, *more: object) -> subprocess.Popen[str]:
        """Start `residency run start` and return at once."""
        words = ["run", "start", study, "--home", self.made.hub, "--answers", answers, "--json", *more]
        process = self.start_program(
            [sys.executable, "-m", "residency", *map(str, words)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
        )  # fmt: skip
        self._runs.append(process)
        return process

    def end_run(self, process: subprocess.Popen[str], limit_s: float = 240) -> Done:
        """Wait for the end of a run."""
        out, err = process.communicate(timeout=limit_s)
        return Done(process.returncode, out, err)

    def stop(self) -> None:
        """End the agents, then the server, and whatever they left."""
        for run in self._runs:
            if run.poll() is None:
                run.kill()
                run.communicate()
        server = [p for name, p in self._services.items() if name == OPERATOR]
        for ending in ([p for p in self._services.values() if p not in server], server):  # who leaves tells the server
            for process in ending:
                process.terminate()
            for process in ending:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(15)
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()


def logged(home: Path, kind: str, study: str, **body: object) -> int:
    """How many entries of the log at `home`, written by another process, are of `kind` and hold `body`."""
    file = home / "log.db"
    if not file.exists():
        return 0
    connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=5)
    try:
        query = "SELECT data FROM entries WHERE instr(data, ?) AND instr(data, ?)"
        rows = [json.loads(row[0]) for row in connection.execute(query, (kind.encode(), study.encode()))]
    finally:
        connection.close()
    found = [r for r in rows if (r["kind"], r["study"]) == (kind, study)]
    return sum(all(r["body"].get(k) == v for k, v in body.items()) for r in found)


def workers(agent: int) -> list[int]:
    """The warm process of an agent and its tasks."""
    found, warm = [], stem.forks(agent)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            ours = b"stem.py\0serve" in (stat.parent / "cmdline").read_bytes()  # a zombie has none
            if ours and {int(stat.parent.name), parent} & {*warm}:
                found.append(int(stat.parent.name))
    return found


def serverapps(hub: Path) -> list[int]:
    """The processes that coordinate runs of the server at `hub`."""
    return programs.running("flwr-serverapp", "RESIDENCY_SERVER_HOME", str(hub.resolve()))
