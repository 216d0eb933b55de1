"""An operator whose own server is malicious, against a real agent: nothing that it sends changes what a site does.

The server is the real one, over mutual TLS; its coordinator is exchanged for one that sends a list of messages
(tests/attacks/malicious_server). The last test shows that the honest messages in the same list were answered.
"""

from __future__ import annotations

import base64
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from client.home import AgentHome
from compliance.canonical import canonical, sha256_hex
from compliance.identity import Envelope, new_signer, parse_envelope, seal
from compliance.messages import JoinRequest, RoundRequest, encode
from server.bundle_build import build_bundle
from tests import federation
from tests.federation import OPERATOR, Live, Signed, consortium, day, logged, scratch

SITE, OTHER = "a", "b"
EVIL = Path(__file__).with_name("malicious_server")
FIELDS = ("noise_multiplier_micro", "clip_micro", "epsilon_milli", "batch", "records_public", "steps", "seed")


def _attack(name: str, kind: str, body: bytes, message_type: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "site": SITE, "kind": kind, "type": message_type, "body": base64.b64encode(body).decode(),
            **more}  # fmt: skip


def _join(name: str, study: bytes, answers: dict[str, bytes]) -> dict[str, Any]:
    texts = tuple(a.decode() for a in answers.values())
    message = JoinRequest(schema="residency.join/1", run="run-1", study=study.decode(), answers=texts)
    return _attack(name, "join", encode(message), "query")


def _round(name: str, digest: str, size: int, extra: dict[str, Any], **more: Any) -> dict[str, Any]:
    """An honest round but for `extra` in its body and `more` beside it."""
    zeros = bytes(4 * size)
    message = RoundRequest(
        schema="residency.round/1", run="run-1", study=digest, round=1, recipients=(SITE, OTHER),
        base_sha256=sha256_hex(zeros),
    )  # fmt: skip
    body = canonical({**json.loads(encode(message)), **extra})
    return _attack(name, "round", body, "train", values=size, **more)


def _study(name: str, **changes: Any) -> Signed:
    sites = [s for s in consortium().study()["sites"] if s["name"] in {SITE, OTHER}]
    return consortium().sign_study(name=name, sites=sites, controllers=[SITE, OTHER], **changes)


def _attacks(study: Signed) -> list[dict[str, Any]]:
    made, answers = study.consortium, study.answers(SITE)
    signed = parse_envelope(study.data, "study")
    unsigned = Envelope(signed.payload_type, signed.payload, ())
    stranger = new_signer("operator", OPERATOR, day(-1), day(300))
    stale = _study("stale", issued=day(-0.9), starts=day(-0.9), ends=day(-0.1))
    changed = {**study.value, "privacy": {**study.value["privacy"], "clip_micro": 9_000_000}}
    swapped = {**study.value, "software": {**study.value["software"], "bundle_sha256": "0" * 64}}
    size = 8  # refused before the array is looked at
    return [
        _join("unsigned study", unsigned.encode(), answers),
        _join("study signed by a stranger", seal(study.value, stranger).encode(), answers),
        _join("stale study", stale.data, stale.answers(SITE)),
        _join("study changed after approval", seal(changed, made.operator).encode(), answers),
        _join("bundle swapped in the study", seal(swapped, made.operator).encode(), answers),
        _round("round before any join", study.digest, size, {}),
        _join("honest join", study.data, answers),
        *(_round(f"round that sets {f}", study.digest, size, {f: 1}) for f in FIELDS),
        *(_round(f"message config that sets {f}", study.digest, size, {}, fields={f: 1}) for f in FIELDS),
        _attack("a kind of its own", "train_without_noise", b"{}", "query"),
        _attack("round as another message type", "round", b"{}", "query"),
        _attack("an oversized body", "join", b'"' + b"x" * 5_000_000 + b'"', "query"),
    ]


@pytest.fixture(scope="module")
def told(monkeypatch_module: pytest.MonkeyPatch) -> dict[str, Any]:
    made = consortium()
    live = Live(made)
    study = _study("tiny-evil")
    try:
        (live.made.hub / "attacks.json").write_text(json.dumps(_attacks(study)))
        honest = federation.environment()
        monkeypatch_module.setattr(federation, "environment", lambda: {**honest, "PYTHONPATH": str(EVIL)})
        live.start_server()
        monkeypatch_module.setattr(federation, "environment", lambda: honest)
        for name in (SITE, OTHER):
            live.spawn(name, "agent", "start", "--home", live.made.home(name), "--threads", "1")
        for name in (OPERATOR, SITE, OTHER):
            live.wait(lambda name=name: '"ready": true' in live.said(name), 120, name)  # type: ignore[misc]
        file, answers = study.write(scratch("evil"))
        done = live.end_run(live.begin_run(file, answers))
        assert (live.made.hub / "answers.json").exists(), (done, live.report())
        told = json.loads((live.made.hub / "answers.json").read_text())
        bundle = live.end_run(live.begin_run(file, answers, "--bundle", _without_code(scratch("swapped"))))
        counts = {kind: logged(live.made.home(SITE), kind, study.digest) for kind in ("charge", "commit", "transfer")}
        refusals = _refusals(live.made.home(SITE))
    finally:
        live.stop()
    return {"codes": {t["name"]: t["code"] for t in told}, "counts": counts, "refusals": refusals, "done": done,
            "bundle": json.loads((live.made.hub / "answers.json").read_text()), "swapped": bundle}  # fmt: skip


@pytest.fixture(scope="module")
def monkeypatch_module():  # type: ignore[no-untyped-def]
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def _without_code(folder: Path) -> Path:
    """A sound bundle with the allowed files only, one of them with other words."""
    with zipfile.ZipFile(io.BytesIO(build_bundle()[0])) as old:
        files = {name: old.read(name) for name in ("pyproject.toml", "README.md")}
    files["README.md"] += b"\nOther words.\n"
    listing = "\n".join(f"{name},{sha256_hex(data)},{8 * len(data)}" for name, data in files.items())
    out = folder / "bundle.zip"
    with zipfile.ZipFile(out, "w") as new:
        for name, data in {**files, ".info/CONTENT": listing.encode()}.items():
            new.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
    return out


def _refusals(home: Path) -> list[str]:
    opened = AgentHome(home)
    with opened.log(opened.anchor(), opened.signer()) as log:
        return [str(e.body["code"]) for e in log.entries(kind="refusal")]


def test_a_study_that_its_operator_did_not_sign_is_refused(told: dict[str, Any]) -> None:
    assert told["codes"]["unsigned study"] == "RSD-6011"
    assert told["codes"]["study signed by a stranger"] == "RSD-6011"


def test_a_study_out_of_its_term_is_refused(told: dict[str, Any]) -> None:
    assert told["codes"]["stale study"] == "RSD-2008"


def test_what_was_approved_is_what_runs(told: dict[str, Any]) -> None:
    """Another clip is another study, which nobody approved; so is one that names another bundle."""
    assert told["codes"]["study changed after approval"] == "RSD-2201"
    assert told["codes"]["bundle swapped in the study"] == "RSD-2201"


@pytest.mark.parametrize("field", FIELDS)
def test_no_message_sets_a_parameter(told: dict[str, Any], field: str) -> None:
    assert told["codes"][f"round that sets {field}"] == "RSD-1210"
    assert told["codes"][f"message config that sets {field}"] == "RSD-1110"


def test_other_forms_are_refused(told: dict[str, Any]) -> None:
    assert told["codes"]["a kind of its own"] == "RSD-1110"
    assert told["codes"]["round as another message type"] == "RSD-1112"
    assert told["codes"]["an oversized body"] == "RSD-1110"
    assert told["codes"]["round before any join"] == "RSD-1213"


def test_a_bundle_swapped_after_approval_is_refused_although_it_holds_no_code(told: dict[str, Any]) -> None:
    assert {t["code"] for t in told["bundle"]} == {"RSD-1104"}


def test_nothing_was_charged_or_sent_and_the_refusals_are_in_the_sites_log(told: dict[str, Any]) -> None:
    assert told["counts"] == {"charge": 0, "commit": 0, "transfer": 0}
    assert {"RSD-6011", "RSD-2008", "RSD-2201", "RSD-1210", "RSD-1213"} <= set(told["refusals"])


def test_the_attacks_reached_a_site_that_works(told: dict[str, Any]) -> None:
    assert told["codes"]["honest join"] == ""
