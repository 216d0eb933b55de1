"""A key that has ended cannot backdate: who acts on a statement judges its key now as well."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from compliance.answers import ADVICE, APPROVAL, REFUSAL, open_advice, open_approval, open_refusal
from compliance.clock import now, parse_time, rfc3339
from compliance.errors import CheckFailed, InputError, Refused
from compliance.identity import Signer, save_signer, seal
from compliance.law.law_adoption import adoption_record, open_adoption
from compliance.law.law_set import LawSet
from compliance.study import open_study
from compliance.trust.root import Anchor, open_trust
from tests.desk import consortium, day, full_study, ok, policy_raw, refused, signer

WORLD = consortium()
STUDY = open_study(WORLD.anchor(), seal(full_study(), WORLD.operator).encode(), "study")[1]
LEEDS = WORLD.signatories["leeds"]


def anchor(*, without: Signer | None = None, new: Signer | None = None, first: bool = False) -> Anchor:
    """The trust file after the key of `without` was revoked yesterday, and `new` came, listed `first` or last."""
    record = WORLD.trust_record()
    for key in record["keys"]:
        if without and key["public"] == without.identity.public:
            key["revoked_at"] = day(-1)
    if new:
        record["keys"].insert(0 if first else len(record["keys"]), new.identity.as_json())
    record["issued"] = day(-2)
    return open_trust(seal(record, LEEDS, WORLD.signatories["osaka"]).encode(), "trust")


def answer(schema: str, at: str) -> dict[str, Any]:
    record = {"schema": schema, "subject": "study", "digest": STUDY, "site": "berlin", "at": at}
    more: dict[str, dict[str, Any]] = {
        ADVICE: {"favourable": True, "text": "fine"},
        APPROVAL: {"advice": "0" * 64, "policy": "0" * 64, "software": {"version": "0", "bundle_sha256": "ef" * 32}},
        REFUSAL: {"reason": "no"},
    }
    return {**record, **more[schema]}


LAW_SET = LawSet.model_validate(
    {
        "schema": "residency.law-set/1",
        "site": "berlin",
        "jurisdiction": "DE",
        "regions": "34" * 32,
        "packs": ({"id": "eu", "sha256": "12" * 32},),
    }
)
Opener = Callable[..., Any]
CASES: dict[str, tuple[Signer, Callable[[str], dict[str, Any]], Opener]] = {
    "study": (WORLD.operator, lambda at: full_study(issued=at), open_study),
    "advice": (
        WORLD.dpos["berlin"],
        lambda at: answer(ADVICE, at),
        lambda a, d, w, seen_at=None: open_advice(a, d, w, "study", seen_at),
    ),
    "approval": (WORLD.signatories["berlin"], lambda at: answer(APPROVAL, at), open_approval),
    "adoption": (
        WORLD.signatories["berlin"],
        lambda at: adoption_record(LAW_SET, parse_time(at), "", "The office is vacant."),
        lambda a, d, w, seen_at=None: open_adoption(a, d, w, "berlin", seen_at),
    ),
    "refusal": (WORLD.signatories["berlin"], lambda at: answer(REFUSAL, at), open_refusal),
}


@pytest.mark.parametrize("name", CASES)
def test_a_revoked_key_cannot_backdate(name: str) -> None:
    key, record, opened = CASES[name]
    data = seal(record(day(-5)), key).encode()
    opened(anchor(), data, name, now())
    opened(anchor(without=key), data, name)  # the offline check of a record from before the revocation
    opened(anchor(without=key), data, name, now() - timedelta(days=3))
    with pytest.raises(CheckFailed) as e:
        opened(anchor(without=key), data, name, now())
    assert e.value.code == "RSD-6011"
    assert " and " in e.value.rule


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_dated_in_the_future(name: str) -> None:
    key, record, opened = CASES[name]
    later = day(3)
    data = seal(record(later), key).encode()
    opened(anchor(), data, name)
    seen = now()
    with pytest.raises(Refused) as e:
        opened(anchor(), data, name, seen)
    assert (e.value.code, e.value.found, e.value.limit) == ("RSD-2211", later, rfc3339(seen))
    opened(anchor(), data, name, parse_time(later) - timedelta(minutes=4))
    with pytest.raises(Refused):
        opened(anchor(), data, name, parse_time(later) - timedelta(minutes=6))


@pytest.mark.parametrize("name", CASES)
def test_a_key_that_has_expired_by_now_does_not_count(name: str) -> None:
    key, record, opened = CASES[name]
    data = seal(record(day(0)), key).encode()
    opened(anchor(), data, name, parse_time(day(299)))
    with pytest.raises(CheckFailed, match="nobody entitled"):
        opened(anchor(), data, name, parse_time(day(301)))


def test_the_log_key_is_the_valid_one_and_the_newest() -> None:
    old, new = WORLD.agents["berlin"], signer("agent", "berlin", start=-1)
    for first in (True, False):  # the order of the keys in the file says nothing
        after = anchor(without=old, new=new, first=first).trust
        assert after.log_key("berlin").keyid == new.identity.keyid
        assert after.log_key("berlin", parse_time(day(-5))).keyid == old.identity.keyid
        assert anchor(new=new, first=first).trust.log_key("berlin").keyid == new.identity.keyid
    assert anchor().trust.log_key("hub").keyid == WORLD.operator.identity.keyid


def test_a_member_without_a_valid_key_has_no_log_key() -> None:
    trust = anchor(without=WORLD.agents["berlin"]).trust
    with pytest.raises(InputError) as e:
        trust.log_key("berlin")
    assert e.value.code == "RSD-6010"
    assert "1 agent keys of berlin" in e.value.found
    with pytest.raises(InputError):
        anchor().trust.log_key("leeds", parse_time(day(-11)))


def test_the_commands_judge_now(tmp_path: Path) -> None:
    """A study backdated with a revoked key is shown to nobody as signed by the operator, and approved by nobody."""
    mine, dpo = WORLD.signatories["berlin"], WORLD.dpos["berlin"]
    proposed = seal(full_study(issued=day(-5)), WORLD.operator)
    advice = {**answer(ADVICE, day(-5)), "digest": proposed.digest}
    for name, data in {
        "study": proposed,
        "policy": seal(policy_raw(issued=day(-5)), mine),
        "advice": seal(advice, dpo),
        "good": anchor().envelope,
        "no-operator": anchor(without=WORLD.operator).envelope,
        "no-dpo": anchor(without=dpo).envelope,
        "no-signatory": anchor(without=mine).envelope,
    }.items():
        (tmp_path / f"{name}.json").write_bytes(data.encode())
    save_signer(mine, tmp_path)
    study, key = tmp_path / "study.json", ("--key", tmp_path / "signatory.key")
    ok("study", "check", study, "--trust", tmp_path / "good.json")
    refused(1, "RSD-6011", "study", "check", study, "--trust", tmp_path / "no-operator.json")
    papers = ("--advice", tmp_path / "advice.json", "--policy", tmp_path / "policy.json")
    approve = ("study", "approve", study, *key, *papers)
    for name, what in (("no-operator", "study.json"), ("no-dpo", "advice.json"), ("no-signatory", "policy.json")):
        error = refused(1, "RSD-6011", *approve, "--trust", tmp_path / f"{name}.json", "--out", tmp_path / "out")
        assert error["message"] == f"nobody entitled signed {tmp_path / what}"
        assert not (tmp_path / "out").exists()
    ok(*approve, "--trust", tmp_path / "good.json", "--out", tmp_path / "out")
