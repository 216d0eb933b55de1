"""The evaluation at one site: charge, count with noise, sign, decide, log, send, in this order (invariants 3 and 4).

A site is charged for one evaluation of a study and draws its noise once. The signed histogram is on disk before it
leaves; asked again, after a crash or not, exactly those bytes are sent again, uncharged. A charge that left no
histogram is lost: there is no second draw. How it is counted stands in the signed study; a request names the model,
and nothing else.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from client.admission import Case
from client.books import log_head
from client.budget import record_charge
from client.contribution import onward_of
from client.data import withdrawals
from client.denial import denied
from client.site import Site
from client.subjects import finish_withdrawals
from client.witnessing import roster_file
from compliance.canonical import Json, canonical, parse_canonical, sha256_hex
from compliance.clock import now, rfc3339
from compliance.errors import InputError, Refused, ResidencyError, RunFailed
from compliance.evaluation.histogram import Histogram, scale_of, shape_of
from compliance.files import read_bytes, write_durably
from compliance.identity import parse_envelope, seal
from compliance.law.model import Party
from compliance.messages import EvaluateReply, EvaluateRequest, encode
from compliance.privacy.ledger_records import Charge
from compliance.roster import EntryRef
from compliance.study import SHA256
from compliance.study_event import EVALUATION_ROUND, also_done
from compliance.training_spec import Frozen
from compliance.validation import load_model
from strategies.flat import flat_bytes
from strategies.wire import Reply

Vector = npt.NDArray[np.float32]
_ATTEMPT: Final = 1
_SIGNED_BYTES: Final = 2**20


class CommittedHistogram(Frozen):
    """committed.json: the histogram that this site stands by, and the entries that cover it."""

    model_sha256: str = Field(pattern=SHA256)
    histogram_sha256: str = Field(pattern=SHA256)
    charge: EntryRef
    evaluation: EntryRef


def evaluate(site: Site, message: EvaluateRequest, array: Vector | None) -> Reply:
    """This site's signed histogram of the model beside the message. Failures are logged here.

    Raises Refused RSD-1260 (the study has no evaluation), RSD-1267 (its rounds are not over), RSD-1262 (another model
    was evaluated), RSD-3100, InputError RSD-1261 (not the announced model), RunFailed RSD-1263 (charged before, and no
    histogram), RSD-2430, and what charging and counting raise.
    """
    finish_withdrawals(site)  # from here on `case` knows everybody who withdrew
    case = site.joined_case(message.study)
    _check_asked(site, case)
    onward = onward_of(site, case, message.recipients)
    folder = site.home.study_folder(case.digest) / "rounds" / f"{EVALUATION_ROUND:03d}"
    _refuse_failed(folder)
    if not _signed_file(folder).exists():
        _draw(site, case, message, array, onward, folder)
    with withdrawals.releasing(site.home.path):
        withdrawals.check_finished(site.home)
        _refuse_failed(folder)
        committed = _commit(site, case, message, folder)
        return _send(site, case, committed, folder, onward)


def _check_asked(site: Site, case: Case) -> None:
    """The study has an evaluation, and this site countersigned its last round: an early request would spend the one."""
    if case.study.evaluation is None:
        raise Refused(
            "RSD-1260", "the study has no evaluation", rule="study.evaluation", found="a request to evaluate",
            limit="what the signed study asks for", next="propose a study with an evaluation",
        )  # fmt: skip
    last = case.study.training.rounds
    if not roster_file(site, case, last).exists():
        raise Refused(
            "RSD-1267", "the rounds of the study are not over at this site", rule="the final model is evaluated, once",
            found="a request to evaluate", limit=f"after the countersigned roster of round {last}",
            next="nothing was charged; the operator asks after the last round",
        )  # fmt: skip


def _refuse_failed(folder: Path) -> None:
    """A failure ends the evaluation at this site, and so does a withdrawal before it was sent. RSD-1263, RSD-2430."""
    file = folder / "failed.json"
    if file.exists():
        code = str(parse_canonical(read_bytes(file, "failure"), str(file))["code"])
        raise withdrawals.subject_withdrawn() if code == withdrawals.WITHDRAWN else _lost(code)


def _lost(found: str) -> RunFailed:
    return RunFailed(
        "RSD-1263",
        f"the evaluation was charged at this site before, and left no histogram ({found})",
        rule="one charge, one draw of the noise",
        found=found,
        limit="a first attempt",
        next="the evaluation goes on without this site",
    )


def _signed_file(folder: Path) -> Path:
    return folder / f"histogram-{_ATTEMPT}.json"


def _model_file(folder: Path) -> Path:
    """Where the digest of the model stands that was charged for."""
    return folder / f"base-{_ATTEMPT}.sha256"


def _conformance_file(folder: Path) -> Path:
    """Which checks of the noise passed; there before the histogram."""
    return folder / f"conformance-{_ATTEMPT}.json"


def _draw(
    site: Site, case: Case, message: EvaluateRequest, array: Vector | None, onward: tuple[Party, ...], folder: Path
) -> None:
    """Charge and count; the signed histogram is on disk when this returns."""
    site.check_ledger()
    for paid in (c for c in site.ledger.charges(case.digest) if c.round == EVALUATION_ROUND):
        _log_charge(site, paid, folder, 0)  # a crash may have come before its entry: an auditor sees every charge
        raise _lost("no histogram after a crash")
    decision, _ = site.decide(case, "metric", case.operator(), onward, EVALUATION_ROUND)
    if not decision.allow:  # before the charge: what may not leave is not counted
        raise denied(decision)
    cache = withdrawals.fresh_cache(site.home, case)
    ready = site.workbench.prepare(case, cache)  # before the charge: what cannot be loaded costs nothing
    model = _checked_model(message, array, sum(prod(e.shape) for e in ready.layout))
    write_durably(_model_file(folder), message.model_sha256.encode("ascii"))
    found, (event,) = log_head(site.log), also_done(case.study)
    paid = site.ledger.charge(case.dataset.source, case.digest, EVALUATION_ROUND, _ATTEMPT, event, found)
    _log_charge(site, paid, folder, found.size)
    try:
        cells, conformance = site.workbench.evaluate(case, cache, model)
        with withdrawals.releasing(site.home.path):
            withdrawals.check_current(site.home, case)
            write_durably(_conformance_file(folder), canonical(conformance))
            write_durably(_signed_file(folder), _signed(site, case, message.model_sha256, cells), private=True)
    except Exception as e:
        error = e if isinstance(e, ResidencyError) else _unexpected(e)
        body: dict[str, Json] = {**error.as_json(), "round": EVALUATION_ROUND, "attempt": _ATTEMPT}
        write_durably(folder / "failed.json", canonical(body))
        site.record("failure", body, case.digest)
        raise error from e


def _unexpected(error: Exception) -> RunFailed:
    """By type only: an error's text could hold data."""
    return RunFailed(
        "RSD-1264", "the evaluation ended on an unexpected error", rule="a failed evaluation is not drawn again",
        found=type(error).__name__, limit="a histogram", next="report it; the evaluation goes on without this site",
    )  # fmt: skip


def _checked_model(message: EvaluateRequest, array: Vector | None, size: int) -> Vector:
    found = "no array" if array is None else sha256_hex(flat_bytes(array))
    if array is None or found != message.model_sha256 or array.shape != (size,) or not np.isfinite(array).all():
        shape = "" if array is None else f", {array.size} values"
        raise InputError(
            "RSD-1261", "the model beside the request is not the announced one, or not one of this study",
            rule="a finite float32 vector in the study's layout", found=found[:12] + shape,
            limit=f"{message.model_sha256[:12]}, {size} values", next="the operator starts the evaluation again",
        )  # fmt: skip
    return array


def _signed(site: Site, case: Case, model_sha256: str, cells: tuple[int, ...]) -> bytes:
    """The statement that leaves, signed once: asked again, the same bytes are sent."""
    rows, columns = shape_of(case.study)
    noise = also_done(case.study)[0].noise_multiplier_micro
    histogram = Histogram(
        schema="residency.histogram/1",
        study=case.digest,
        site=site.name,
        at=rfc3339(now()),
        model_sha256=model_sha256,
        noise_multiplier_micro=noise,
        scale=scale_of(noise),
        rows=rows,
        columns=columns,
        cells=cells,
    )
    return seal(histogram.as_json(), site.signer).encode()


def _log_charge(site: Site, paid: Charge, folder: Path, since: int) -> EntryRef:
    return record_charge(site, paid, read_bytes(_model_file(folder), "the evaluated model").decode("ascii"), since)


def _commit(site: Site, case: Case, message: EvaluateRequest, folder: Path) -> CommittedHistogram:
    """What stands in committed.json, written now or after a crash: the signed bytes are whole, so they are it."""
    file = folder / "committed.json"
    if file.exists():
        found = load_model(CommittedHistogram, parse_canonical(read_bytes(file, "commit"), str(file)), "RSD-1210", "")
    else:
        digest = parse_envelope(read_bytes(_signed_file(folder), "histogram", _SIGNED_BYTES), "histogram").digest
        model = read_bytes(_model_file(folder), "the evaluated model").decode("ascii")
        (paid,) = (c for c in site.ledger.charges(case.digest) if c.round == EVALUATION_ROUND)
        charge = _log_charge(site, paid, folder, 0)
        checks = parse_canonical(read_bytes(_conformance_file(folder), "conformance"), "conformance")
        body: dict[str, Json] = {"digest": digest, "model_sha256": model, "conformance": checks}
        entry = site.record_once("evaluation", body, case.digest, charge.index)
        found = CommittedHistogram(model_sha256=model, histogram_sha256=digest, charge=charge, evaluation=entry)
        write_durably(file, canonical(found.model_dump(mode="json")))
    if found.model_sha256 != message.model_sha256:
        raise Refused(
            "RSD-1262", "this site has evaluated another model of the study",
            rule="one evaluation of a study: the same bytes or none", found=message.model_sha256[:12],
            limit=found.model_sha256[:12], next="propose a new study to evaluate another model",
        )  # fmt: skip
    return found


def _send(site: Site, case: Case, committed: CommittedHistogram, folder: Path, onward: tuple[Party, ...]) -> Reply:
    """Decide, log the transfer, and only then hand the bytes to the transport. Raises RunFailed RSD-1220, RSD-3100."""
    data = read_bytes(_signed_file(folder), "histogram", _SIGNED_BYTES)
    found = parse_envelope(data, "histogram").digest
    if found != committed.histogram_sha256:
        raise RunFailed(
            "RSD-1220", "the committed histogram on disk has changed", rule="exactly the committed bytes are sent",
            found=found[:12], limit=committed.histogram_sha256[:12],
            next="check the disk; the evaluation goes on without this site",
        )  # fmt: skip
    entry = site.let_out(case, "metric", case.operator(), onward, EVALUATION_ROUND)
    body: dict[str, Json] = {
        "artifact": "metric",
        "recipient": case.operator().name,
        "round": EVALUATION_ROUND,
        "attempt": _ATTEMPT,
        "sha256": committed.histogram_sha256,
        "decision": entry.index,
    }
    transfer = site.record("transfer", body, case.digest)
    reply = EvaluateReply(
        schema="residency.evaluated/1",
        site=site.name,
        histogram=data.decode("utf-8"),
        charge=committed.charge,
        evaluation=committed.evaluation,
        decision=entry,
        transfer=transfer,
        offer=site.offer(),
    )
    return Reply(encode(reply))
