"""One round at one site: charge, train, commit, decide, log, send, in this order (invariant 3).

The finished update is on disk before it leaves. After a crash exactly those bytes are sent again, uncharged. Without
committed bytes the round may be run once more, as a new charged attempt with fresh randomness. An attempt that ended
with a failure is over: no re-draw.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import Field

from client.admission import Case
from client.books import log_head
from client.budget import record_charge
from client.data import withdrawals
from client.site import Site
from client.subjects import finish_withdrawals
from compliance.canonical import Json, canonical, parse_canonical, sha256_hex
from compliance.errors import InputError, InternalBug, Refused, ResidencyError, RunFailed
from compliance.files import read_bytes, sync_folder, write_durably
from compliance.law.model import Party
from compliance.messages import RoundReply, RoundRequest, encode
from compliance.privacy.ledger_records import Charge
from compliance.roster import EntryRef
from compliance.study import SHA256
from compliance.training_spec import Frozen
from compliance.validation import load_model
from strategies.flat import flat_bytes
from strategies.wire import Reply

Vector = npt.NDArray[np.float32]
_UPDATE_BYTES = 2**30  # what a message may carry
_ATTEMPTS_AT_MOST = 2  # the first, and one more if a crash left no committed bytes
_CRASHED = "RSD-4510"  # the worker was killed: nothing is known to be wrong with the attempt itself


class Committed(Frozen):
    """committed.json: the update that this site stands by for a round."""

    attempt: int = Field(ge=1)
    base_sha256: str = Field(pattern=SHA256)
    update_sha256: str = Field(pattern=SHA256)
    charge: EntryRef
    commit: EntryRef


def contribute(site: Site, message: RoundRequest, array: Vector | None) -> Reply:
    """This site's update of a round; `array` is the global model beside the message. Failures are logged here."""
    finish_withdrawals(site)  # what a killed command left; from here on `case` knows everybody who withdrew
    case = site.joined_case(message.study)
    base = _checked_base(case, message, array)
    onward = onward_of(site, case, message.recipients)
    folder = site.home.study_folder(case.digest) / "rounds" / f"{message.round:03d}"
    committed = _committed(site, case, message, folder, base)
    with withdrawals.releasing(site.home.path):
        withdrawals.check_finished(site.home)
        _refuse_failed(message, folder)
        update = _update_of(folder, committed)
        return _send(site, case, message, committed, update, onward)


def _checked_base(case: Case, message: RoundRequest, base: Vector | None) -> Vector:
    found = "no array" if base is None else sha256_hex(flat_bytes(base))
    if base is None or found != message.base_sha256:
        raise InputError(
            "RSD-1214",
            "the global model is not the one that the round announces",
            found=found[:12],
            limit=message.base_sha256[:12],
            next="the operator starts the round again",
        )
    if message.round > case.study.training.rounds:
        raise Refused(
            "RSD-1216",
            "the study has no such round",
            rule="study.training.rounds",
            found=message.round,
            limit=case.study.training.rounds,
            next="propose a longer study",
        )
    return base


def onward_of(site: Site, case: Case, recipients: tuple[str, ...]) -> tuple[Party, ...]:
    """Whom what is sent reaches later: the peers among `recipients`, and those for whom the release is cleared.

    Raises Refused RSD-1212 for names that the study does not list.
    """
    known = {p.name: p for p in (*case.peers(), case.party())}
    strangers = [r for r in recipients if r not in known]
    if strangers:
        raise Refused(
            "RSD-1212",
            "the round names recipients that the study does not list",
            rule="a study's sites are fixed by its signature",
            found=", ".join(strangers),
            limit=", ".join(sorted(known)),
            next="propose a study that lists them",
        )
    names = dict.fromkeys((*recipients, *site.cleared_peers(case)))
    return tuple(known[name] for name in names if name != case.terms.name)


def _committed(site: Site, case: Case, message: RoundRequest, folder: Path, base: Vector) -> Committed:
    """The committed update of this round, trained now if there is none yet."""
    _refuse_failed(message, folder)
    file = folder / "committed.json"
    if file.exists():
        found = load_model(Committed, parse_canonical(read_bytes(file, "commit"), str(file)), "RSD-1210", str(file))
        return _for_base(found, message)
    if (folder / "roster.sha256").exists():
        raise RunFailed(
            "RSD-1218", f"round {message.round} is over at this site: its roster is signed",
            rule="a round has one roster, and no update after it", found="a countersigned roster without an update",
            limit="an open round", next="propose a new study",
        )  # fmt: skip
    if _trained(folder) is None:
        _attempt(site, case, message, folder, base)
    with withdrawals.releasing(site.home.path):
        _refuse_failed(message, folder)
        return _commit_trained(site, case, message, folder)


def _refuse_failed(message: RoundRequest, folder: Path) -> None:
    """A failure ends the round at this site, and a withdrawal ends a finished update too. Raises RSD-1218, RSD-2430."""
    file = folder / "failed.json"
    if not file.exists():
        if not _given_up(folder):
            return
        raise _failed_before(message.round, "its failure could not be stored")
    code = str(parse_canonical(read_bytes(file, "failure"), str(file))["code"])
    if code == withdrawals.WITHDRAWN:
        raise withdrawals.subject_withdrawn()
    raise _failed_before(message.round, code)


def _failed_before(round_: int, found: str) -> RunFailed:
    return RunFailed(
        "RSD-1218",
        f"round {round_} has failed at this site before ({found})",
        rule="no re-draw after a failure",
        found=found,
        limit="one outcome a round",
        next="the run goes on without this site in this round",
    )


def _open_file(folder: Path, attempt: int) -> Path:
    """There from before the charge of an attempt until it fails. A kill leaves it; to remove it needs no disk space."""
    return folder / f"open-{attempt}"


def _given_up(folder: Path) -> bool:
    begun = (int(f.name.removeprefix("base-").removesuffix(".sha256")) for f in folder.glob("base-*.sha256"))
    return any(not _open_file(folder, attempt).exists() for attempt in begun)


def _attempt(site: Site, case: Case, message: RoundRequest, folder: Path, base: Vector) -> None:
    """Charge and train; the finished update is on disk when this returns."""
    site.check_ledger()
    charges = [c for c in site.ledger.charges(case.digest) if c.round == message.round]
    for paid in charges:  # a crash may have come between a charge and its entry: an auditor sees every charge
        _record_charge(site, paid, folder, 0)
    attempt = max((c.attempt for c in charges), default=0) + 1
    if attempt > _ATTEMPTS_AT_MOST:
        raise RunFailed(
            "RSD-1219",
            f"round {message.round} was attempted {attempt - 1} times without a committed update",
            rule="one more attempt after a crash, not more",
            found=attempt,
            limit=_ATTEMPTS_AT_MOST,
            next="find out why the worker dies (memory, disk) before the next run",
        )
    write_durably(_open_file(folder, attempt), b"")  # before the next: an attempt without it has failed
    write_durably(_base_file(folder, attempt), message.base_sha256.encode("ascii"))
    found = log_head(site.log)
    paid = site.ledger.charge(case.dataset.source, case.digest, message.round, attempt, case.event(1), found)
    _record_charge(site, paid, folder, found.size)
    try:
        cache = withdrawals.fresh_cache(site.home, case)
        update, conformance = site.workbench.train(case, cache, message.round, attempt, base)
        with withdrawals.releasing(site.home.path):
            withdrawals.check_current(site.home, case)
            write_durably(folder / f"conformance-{attempt}.json", canonical(conformance))
            write_durably(folder / f"update-{attempt}.f32", flat_bytes(update), private=True)
    except Exception as e:
        error = e if isinstance(e, ResidencyError) else _unexpected(e)
        _fail(site, case, folder, {**error.as_json(), "round": message.round, "attempt": attempt})
        raise error from e


def _fail(site: Site, case: Case, folder: Path, body: dict[str, Json]) -> None:
    if body["code"] != _CRASHED:  # first: neither a full disk nor a full log must allow a re-draw
        _open_file(folder, int(str(body["attempt"]))).unlink(missing_ok=True)
        sync_folder(folder)
        write_durably(folder / "failed.json", canonical(body))
    site.record("failure", body, case.digest)
    if not withdrawals.is_current(site.home, case):
        withdrawals.purge_cache(site.home.study_folder(case.digest) / "cache")  # what was put there meanwhile


def _unexpected(error: Exception) -> RunFailed:
    """By type only: an error's text could hold data."""
    return RunFailed(
        "RSD-1229",
        "the attempt ended on an unexpected error",
        rule="a failed attempt is not drawn again",
        found=type(error).__name__,
        limit="a finished attempt",
        next="report it; the run goes on without this site in this round",
    )


def _base_file(folder: Path, attempt: int) -> Path:
    """Where the digest of the global model stands that an attempt trains from."""
    return folder / f"base-{attempt}.sha256"


def _record_charge(site: Site, paid: Charge, folder: Path, since: int) -> None:
    """Log a charge of the ledger, once, and keep the entry's place beside the attempt; it cannot be before `since`."""
    base = read_bytes(_base_file(folder, paid.attempt), "the attempt's base").decode("ascii")
    entry = record_charge(site, paid, base, since)
    write_durably(folder / f"attempt-{paid.attempt}.json", canonical(entry.model_dump(mode="json")))


def _trained(folder: Path) -> int | None:
    """The attempt whose update is on disk; None if there is none."""
    done = (a for a in range(_ATTEMPTS_AT_MOST, 0, -1) if (folder / f"update-{a}.f32").exists())
    return next(done, None)


def _commit_trained(site: Site, case: Case, message: RoundRequest, folder: Path) -> Committed:
    """Commit the update on disk, now or after a crash: its bytes are whole, so they are the commit."""
    attempt = _trained(folder)
    if attempt is None:
        raise InternalBug("RSD-2490", "an attempt ended without an update and without an error")
    base = read_bytes(_base_file(folder, attempt), "the attempt's base").decode("ascii")
    return _for_base(_commit(site, case, message.round, folder, attempt, base), message)


def _for_base(committed: Committed, message: RoundRequest) -> Committed:
    """The commit, if it was trained from the global model that the round announces. Raises Refused RSD-1217."""
    if committed.base_sha256 != message.base_sha256:
        raise Refused(
            "RSD-1217",
            "this round was trained from another global model",
            rule="one update for one round: the same bytes or none",
            found=message.base_sha256[:12],
            limit=committed.base_sha256[:12],
            next="resume the run from the snapshot of the round before",
        )
    return committed


def _commit(site: Site, case: Case, round_: int, folder: Path, attempt: int, base: str) -> Committed:
    digest = sha256_hex(read_bytes(folder / f"update-{attempt}.f32", "update", _UPDATE_BYTES))
    file = folder / f"conformance-{attempt}.json"
    conformance = parse_canonical(read_bytes(file, "conformance"), str(file))
    body = {"round": round_, "attempt": attempt, "update_sha256": digest, "conformance": conformance}
    file = folder / f"attempt-{attempt}.json"
    charge = load_model(EntryRef, parse_canonical(read_bytes(file, "charge"), str(file)), "RSD-1210", str(file))
    commit = site.record_once("commit", body, case.digest, charge.index)
    committed = Committed(attempt=attempt, base_sha256=base, update_sha256=digest, charge=charge, commit=commit)
    write_durably(folder / "committed.json", canonical(committed.model_dump(mode="json")))
    return committed


def _update_of(folder: Path, committed: Committed) -> Vector:
    data = read_bytes(folder / f"update-{committed.attempt}.f32", "committed update", _UPDATE_BYTES)
    if sha256_hex(data) != committed.update_sha256:
        raise RunFailed(
            "RSD-1220",
            "the committed update on disk has changed",
            rule="exactly the committed bytes are sent",
            found=sha256_hex(data)[:12],
            limit=committed.update_sha256[:12],
            next="check the disk; this round is lost at this site",
        )
    return np.frombuffer(data, dtype="<f4")


def _send(
    site: Site,
    case: Case,
    message: RoundRequest,
    committed: Committed,
    update: Vector,
    onward: tuple[Party, ...],
) -> Reply:
    """Decide, log the transfer, and only then hand the bytes to the transport."""
    entry = site.let_out(case, "dp_update", case.operator(), onward, message.round)
    body = {
        "artifact": "dp_update",
        "recipient": case.operator().name,
        "round": message.round,
        "attempt": committed.attempt,
        "sha256": committed.update_sha256,
        "decision": entry.index,
    }
    transfer = site.record("transfer", body, case.digest)
    reply = RoundReply(
        schema="residency.contribution/1",
        site=site.name,
        attempt=committed.attempt,
        update_sha256=committed.update_sha256,
        charge=committed.charge,
        commit=committed.commit,
        decision=entry,
        transfer=transfer,
        offer=site.offer(),
    )
    return Reply(encode(reply), update)
