"""Somebody tries to have a site decide under packs or region sets that its own signatory has not adopted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client import admission, enrolment, session
from client.home import AgentHome
from client.site import Site
from compliance.canonical import canonical, parse_json
from compliance.clock import now
from compliance.errors import CheckFailed, InputError, Refused, ResidencyError
from compliance.identity import Signer, seal
from compliance.law.decide import builtin_packs
from compliance.law.law_adoption import adoption_record
from compliance.law.law_set import LawSet
from compliance.messages import JoinReply, decode
from server import adoptions
from tests.federation import Consortium, consortium, day, entries, law_set_of, main_study, open_home

Files = tuple[bytes, bytes]


@pytest.fixture
def home(tmp_path: Path) -> AgentHome:
    """Site a, in Germany, with its law set and policy installed."""
    return AgentHome(consortium().copy_home("a", tmp_path))


def adopted(law_set: LawSet, by: Signer, **changes: Any) -> bytes:
    record = {**adoption_record(law_set, now(), "", "The office is vacant."), **changes}
    return seal(record, by).encode() + b"\n"


def install(home: AgentHome, files: Files) -> None:
    folder = home.path.parent / "given"
    folder.mkdir(exist_ok=True)
    (folder / "law.json").write_bytes(files[0])
    (folder / "advice.json").write_bytes(files[1])
    enrolment.install_law(home, folder / "law.json", folder / "advice.json" if files[1] else None)


def state(home: AgentHome) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in home.path.glob("*.json")}


def edited(data: bytes) -> bytes:
    """Another set under the same signature."""
    record = parse_json(data, "law.json")
    other = adoption_record(law_set_of("a", packs=[p.model_dump() for p in law_set_of("b").packs]), now(), "", "x")
    record["payload"] = parse_json(seal(other, consortium().signatories["b"]).encode(), "x")["payload"]
    return canonical(record) + b"\n"


def wrong(made: Consortium) -> dict[str, tuple[Files, type[ResidencyError], str]]:
    own, mine = law_set_of("a"), made.signatories["a"]
    law, advice = made.sign_law("a")
    abroad = own.model_copy(update={"jurisdiction": "GB"})
    return {
        "the DPO's key": ((adopted(own, made.dpos["a"]), b""), CheckFailed, "RSD-6011"),
        "the operator's key": ((adopted(own, made.operator), b""), CheckFailed, "RSD-6011"),
        "another site's signatory": ((adopted(own, made.signatories["b"]), b""), CheckFailed, "RSD-6011"),
        "another site's set": (made.sign_law("b"), CheckFailed, "RSD-6011"),
        "another site's set, signed here": ((adopted(law_set_of("b"), mine), b""), Refused, "RSD-3031"),
        "another jurisdiction": ((adopted(abroad, mine), b""), Refused, "RSD-3031"),
        "swapped after signing": ((edited(law), advice), CheckFailed, "RSD-6006"),
        "a digest that is not the set's": ((adopted(own, mine, digest="00" * 32), b""), InputError, "RSD-3030"),
        "dated ahead": ((adopted(own, mine, at=day(1)), b""), Refused, "RSD-2211"),
        "a key not valid then": ((adopted(own, mine, at=day(-30)), b""), CheckFailed, "RSD-6011"),
        "without its advice": ((law, b""), Refused, "RSD-2202"),
        "with another site's advice": ((law, made.sign_law("b")[1]), Refused, "RSD-2202"),
        "advice on a study": ((law, made.advice("a", own.digest)), Refused, "RSD-2205"),
    }


WRONG = (
    "the DPO's key",
    "the operator's key",
    "another site's signatory",
    "another site's set",
    "another site's set, signed here",
    "another jurisdiction",
    "swapped after signing",
    "a digest that is not the set's",
    "dated ahead",
    "a key not valid then",
    "without its advice",
    "with another site's advice",
    "advice on a study",
)


@pytest.mark.parametrize("how", WRONG)
def test_what_the_sites_signatory_did_not_adopt_is_not_installed(home: AgentHome, how: str) -> None:
    files, kind, code = wrong(consortium())[how]
    before = state(home)
    with pytest.raises(kind) as error:
        install(home, files)
    assert error.value.code == code
    assert state(home) == before


@pytest.mark.parametrize("how", WRONG)
def test_put_into_the_home_by_hand_it_stops_the_site(home: AgentHome, how: str) -> None:
    files, kind, code = wrong(consortium())[how]
    (home.path / "law.json").write_bytes(files[0])
    (home.path / "law.advice.json").write_bytes(files[1])
    _refuses(home.path, kind, code)


def _refuses(home: Path, kind: type[ResidencyError], code: str) -> Refused | ResidencyError:
    """The site joins nothing, trains nothing and sends nothing."""
    with open_home(home) as site:
        with pytest.raises(kind) as error:
            session.answer(site, main_study().join())
        assert error.value.code == code, error.value
        assert not entries(site, "join", "reservation", "charge", "transfer")
        return error.value


def test_a_set_that_the_policy_does_not_name_stops_the_site(home: AgentHome) -> None:
    """The signatory adopted it, but no policy, and so no approval, is for it."""
    packs = [p.model_dump() for p in law_set_of("b").packs]
    install(home, consortium().sign_law("a", packs=packs))
    _refuses(home.path, Refused, "RSD-3033")


def test_a_policy_that_names_another_set_is_not_installed(home: AgentHome, tmp_path: Path) -> None:
    file = tmp_path / "policy.json"
    file.write_bytes(consortium().sign_policy("a", law_set=law_set_of("b").digest))
    with pytest.raises(Refused) as error:
        enrolment.install_policy(home, file)
    assert error.value.code == "RSD-3033"
    (home.path / "law.json").unlink()
    with pytest.raises(InputError) as missing:
        enrolment.install_policy(home, file)
    assert missing.value.code == "RSD-3034"
    _refuses(home.path, InputError, "RSD-3034")


def _terms(home: AgentHome, **law: Any) -> Any:
    """The refusal of a site whose signatory adopted this, with a policy and an approval for it."""
    made = consortium()
    made.install_terms(home, law)
    study = main_study()
    advice = made.advice("a", study.digest)
    approval = made.approval("a", study.digest, advice, policy=home.policy(made.anchor).digest)
    with open_home(home.path) as site:
        with pytest.raises(Refused) as error:
            session.answer(site, study.join({"x": advice, "y": approval}))
        assert not entries(site, "join", "reservation", "charge", "transfer")
    return error.value


@pytest.mark.parametrize(
    ("law", "rule"),
    [
        ({"regions": "00" * 32}, "engine.regions-changed"),
        ({"packs": [{"id": "eu", "sha256": "00" * 32}]}, "engine.pack-changed"),
        ({"packs": [{"id": "gone", "sha256": "00" * 32}]}, "engine.pack-missing"),
        ({"packs": [{"id": "uk", "sha256": builtin_packs()["uk"].digest}]}, "engine.pack-not-adopted"),
        (
            {
                "packs": [{"id": "uk", "sha256": builtin_packs()["uk"].digest}],
                "not_binding": [{"id": "eu", "reason": "We feel that it does not."}],
            },
            "engine.pack-not-adopted",
        ),
    ],
    ids=["other region sets", "changed pack", "pack that is gone", "binding pack left out", "declared as not binding"],
)
def test_a_set_that_is_not_in_force_denies_everything(home: AgentHome, law: dict[str, Any], rule: str) -> None:
    error = _terms(home, **law)
    assert (error.code, error.rule.split(":")[0]) == ("RSD-3100", rule)


def test_an_adopted_pack_that_expires_before_the_study_ends(home: AgentHome, monkeypatch: pytest.MonkeyPatch) -> None:
    eu = builtin_packs()["eu"].model_copy(update={"expires_on": day(20)[:10]})
    monkeypatch.setattr(admission, "packs", lambda: {"eu": eu})
    _refuses(home.path, Refused, "RSD-1215")


# --- at the operator ------------------------------------------------------------------------------------------------


@pytest.fixture
def joined(home: AgentHome) -> Iterator[tuple[Site, JoinReply]]:
    with open_home(home.path) as site:
        yield site, decode(JoinReply, session.answer(site, main_study().join()).body, "reply")


def test_the_join_says_under_which_law_set(joined: tuple[Site, JoinReply]) -> None:
    site, reply = joined
    adoptions.check(consortium().anchor, reply)
    assert entries(site, "join")[-1].body["law_set"] == law_set_of("a").digest


@pytest.mark.parametrize("how", WRONG)
def test_the_operator_takes_no_other_adoption(joined: tuple[Site, JoinReply], how: str) -> None:
    files, kind, code = wrong(consortium())[how]
    given = {"adoption": files[0].decode().rstrip("\n"), "law_advice": files[1].decode().rstrip("\n")}
    with pytest.raises(kind) as error:
        adoptions.check(consortium().anchor, joined[1].model_copy(update=given))
    assert error.value.code == code


def test_the_run_keeps_what_it_was_shown(joined: tuple[Site, JoinReply], tmp_path: Path) -> None:
    from server.run_folder import RunFolder

    reply = joined[1]
    (body,) = adoptions.keep(RunFolder(tmp_path / "run"), [reply])
    assert (body["site"], body["law_set"]) == ("a", law_set_of("a").digest)
    kept = {p.name: p.read_text() for p in (tmp_path / "run" / "law").iterdir()}
    assert kept == {"a.adoption.json": reply.adoption + "\n", "a.advice.json": reply.law_advice + "\n"}
    adoptions.keep(RunFolder(tmp_path / "run"), [reply.model_copy(update={"law_advice": ""})])
    assert [p.name for p in (tmp_path / "run" / "law").iterdir()] == ["a.adoption.json"]
