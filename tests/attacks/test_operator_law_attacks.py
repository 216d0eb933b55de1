"""Somebody tries to have the operator decide under packs that it has not adopted, or that it may not leave out."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compliance.canonical import parse_json
from compliance.clock import now
from compliance.errors import CheckFailed, Refused, ResidencyError
from compliance.identity import Signer, seal
from compliance.law.decide import builtin_packs
from compliance.law.law_adoption import adoption_record, draft_law_set
from compliance.law.law_set import LawSet
from compliance.law.model import Party
from compliance.law.regions import load_regions
from compliance.log.store import LogStore
from compliance.tls import tls_files
from compliance.trust.home import OperatorHome
from compliance.validation import load_model
from server import launcher, law
from server.desk import start_run
from tests.federation import OPERATOR, consortium, day, law_set_of, main_study

PACKS = builtin_packs()


def own(**changes: Any) -> LawSet:
    made = draft_law_set(OPERATOR, "IE", PACKS, load_regions(), {}).as_json()
    return load_model(LawSet, {**made, **changes}, "RSD-3030", "law set")


def adopted(law_set: LawSet, by: Signer, **changes: Any) -> bytes:
    record = {**adoption_record(law_set, now(), "", "No officer."), **changes}
    return seal(record, by).encode() + b"\n"


def _edited() -> bytes:
    """Another declaration under the operator's signature."""
    record = parse_json(adopted(own(), consortium().operator), "law.json")
    other = adopted(own(not_binding=[{"id": "us-ca", "reason": "We feel that way."}]), consortium().operator)
    record["payload"] = parse_json(other, "x")["payload"]
    from compliance.canonical import canonical

    return canonical(record) + b"\n"


def _all_left_out() -> LawSet:
    """The pack that binds everybody where the operator is, declared as not binding."""
    british = [{"id": "uk", "sha256": PACKS["uk"].digest}]
    return own(packs=british, not_binding=[{"id": "eu", "reason": "We feel that it does not."}])


WRONG: dict[str, tuple[Callable[[], bytes], type[ResidencyError], str]] = {
    "a site's signatory": (lambda: adopted(own(), consortium().signatories["a"]), CheckFailed, "RSD-6011"),
    "a site's DPO": (lambda: adopted(own(), consortium().dpos["a"]), CheckFailed, "RSD-6011"),
    "a site's own adoption": (lambda: consortium().sign_law("a")[0], CheckFailed, "RSD-6011"),
    "a site's set, signed by the operator": (
        lambda: adopted(law_set_of("a"), consortium().operator),
        Refused,
        "RSD-3031",
    ),
    "another jurisdiction": (lambda: adopted(own(jurisdiction="FR"), consortium().operator), Refused, "RSD-3031"),
    "edited after signing": (_edited, CheckFailed, "RSD-6006"),
    "dated ahead": (lambda: adopted(own(), consortium().operator, at=day(1)), Refused, "RSD-2211"),
    "a key not valid then": (lambda: adopted(own(), consortium().operator, at=day(-30)), CheckFailed, "RSD-6011"),
    "on advice that is not there": (
        lambda: adopted(own(), consortium().operator, advice="ab" * 32),
        Refused,
        "RSD-2202",
    ),
}
NOT_IN_FORCE: dict[str, Callable[[], LawSet]] = {
    "a pack that binds all, declared as not binding": _all_left_out,
    "a pack that binds, left out": lambda: own(packs=[{"id": "uk", "sha256": PACKS["uk"].digest}]),
    "a changed pack": lambda: own(packs=[{"id": "eu", "sha256": "00" * 32}]),
    "other region sets": lambda: own(regions="00" * 32),
}


@pytest.fixture
def home(tmp_path: Path) -> OperatorHome:
    """The operator's home, in Ireland, without a law set."""
    return OperatorHome(Path(shutil.copytree(consortium().hub, tmp_path / "hub")))


def _nothing_starts(home: OperatorHome, data: bytes, kind: type[ResidencyError], code: str) -> None:
    """Neither installed nor put there by hand does it let the server or a run start."""
    given = home.root.parent / "law.json"
    given.write_bytes(data)
    study, answers = main_study().write(home.root.parent / "study")
    with pytest.raises(kind) as error:
        law.install(home, given)
    assert error.value.code == code
    assert not home.law_file.exists()
    home.law_file.write_bytes(data)
    for start in (
        lambda: launcher.prepare(launcher.ServerConfig(home=home.root, tls=tls_files(home.tls))),
        lambda: start_run(home.root, study, answers, b"bundle"),
    ):
        with pytest.raises(kind) as error:
            start()
        assert error.value.code == code


@pytest.mark.parametrize("how", WRONG)
def test_what_the_operator_did_not_adopt_for_itself_decides_nothing(home: OperatorHome, how: str) -> None:
    make, kind, code = WRONG[how]
    data = make()
    _nothing_starts(home, data, kind, code)
    hub, site = Party(name=OPERATOR, jurisdiction="IE"), Party(name="a", jurisdiction="DE")
    key = consortium().operator.private
    with LogStore.open(home.root / "other.db", f"tiny/{OPERATOR}", key) as log:
        with pytest.raises(kind) as error:
            law.Standing(home).check(log, hub, site, "answer")
        assert error.value.code == code
        assert log.size == 0


@pytest.mark.parametrize("how", NOT_IN_FORCE)
def test_a_set_that_leaves_out_what_binds_is_not_started_with_and_denies_all(home: OperatorHome, how: str) -> None:
    law_set = NOT_IN_FORCE[how]()
    _nothing_starts(home, adopted(law_set, consortium().operator), Refused, "RSD-3036")
    hub, site = Party(name=OPERATOR, jurisdiction="IE"), Party(name="a", jurisdiction="DE")
    with (
        LogStore.open(home.root / "other.db", f"tiny/{OPERATOR}", consortium().operator.private) as log,
        pytest.raises(Refused, match=r"engine\."),
    ):
        law.Standing(home).check(log, hub, site, "answer")
