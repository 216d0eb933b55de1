"""Where an outside witness is: admitted with it, signed with the rest, unknown in a trust file of an earlier day."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from compliance.clock import now
from compliance.errors import InputError, Refused
from compliance.identity import countersign, seal
from compliance.law.countries import COUNTRIES
from compliance.law.model import Party
from compliance.study import Organisation
from compliance.trust.consortium import Consortium
from compliance.trust.draft import NewWitness, draft_trust
from compliance.trust.root import Anchor, open_trust
from compliance.trust.witnesses import NOWHERE, check_outside, outside_party, placed, shown_to
from tests.desk import CONSORTIUM, OPERATOR, Office, consortium, day, make_trusted_office, ok, refused, run, signer

UNION = "patients-union"
WORLD = consortium()
KEY = signer("witness", UNION)
SITES = ("berlin", "leeds")
CONFIG = Consortium(
    schema="residency.consortium/1",
    name=CONSORTIUM,
    operator=Organisation(name=OPERATOR, jurisdiction="IE"),
    threshold=2,
    server="localhost:9092",
    governance="localhost:9093",
    enrolment="localhost:9094",
)


def drafted(previous: Anchor | None, *witnesses: NewWitness, **more: Any) -> Anchor:
    """The trust file after `previous`, or after the first one, signed by two sites."""
    before = previous or open_trust(WORLD.trust(*SITES).encode(), "trust")
    made = draft_trust(CONFIG, WORLD.operator.identity, [], before, day(700), witnesses=witnesses, **more)
    for site in SITES:
        made = countersign(made, WORLD.signatories[site])
    return open_trust(made.encode(), "trust")


def new(key: Any = KEY, **party: Any) -> NewWitness:
    return NewWitness(key.identity, Party(name=key.identity.holder, **{"jurisdiction": "DE", **party}))


def test_a_trust_file_without_a_witness_has_the_bytes_that_it_always_had() -> None:
    first = drafted(None)
    assert "witnesses" not in json.loads(first.envelope.payload)
    assert "witnesses" not in first.trust.as_json()
    assert "witnesses" in json.loads(drafted(first, new()).envelope.payload)


def test_where_a_witness_is_stays_in_the_file_until_it_is_admitted_anew_and_after_its_key_ended() -> None:
    first = drafted(None, new(access=("US",), covered_person=True))
    assert outside_party(first.trust, UNION) == Party(
        name=UNION, jurisdiction="DE", access=("US",), covered_person=True
    )
    second = drafted(first, new(signer("witness", "other"), jurisdiction="FR"))
    assert [(w.name, w.jurisdiction) for w in second.trust.witnesses] == [("other", "FR"), (UNION, "DE")]
    third = drafted(second, new(signer("witness", UNION), jurisdiction="AT"))
    assert outside_party(third.trust, UNION) == Party(name=UNION, jurisdiction="AT")
    last = drafted(third, leaving=UNION)
    assert outside_party(last.trust, UNION).jurisdiction == "AT"
    for ended in (third, last):  # a key that ended comes back by no new country
        with pytest.raises(Refused, match=r"RSD-5110 .*revoked") as revived:
            drafted(ended, new(jurisdiction="FR"))
        assert "log witness init" in revived.value.next
    with pytest.raises(Refused, match="RSD-5110"):
        check_outside(last.trust, UNION, now() + timedelta(seconds=2))


def test_a_witness_of_an_earlier_trust_file_is_in_no_country() -> None:
    record = json.loads(drafted(None, new()).envelope.payload)
    del record["witnesses"]
    old = open_trust(seal(record, *(WORLD.signatories[s] for s in SITES)).encode(), "trust")
    told = shown_to(old.trust, "berlin", UNION, now())
    assert (told.recipient.jurisdiction, NOWHERE in COUNTRIES) == (NOWHERE, False)
    denial = Refused("RSD-3100", "no", found="x", next="y")
    assert "--jurisdiction" in placed(denial, told.recipient).next
    assert placed(denial, Party(name=UNION, jurisdiction="DE")) is denial
    assert outside_party(old.trust, "leeds").jurisdiction == "GB"  # a member that runs a witness


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda r: r["witnesses"].append(r["witnesses"][0]), "listed twice"),
        (lambda r: r["witnesses"].append({"name": "nobody", "jurisdiction": "DE"}), "holds no witness key"),
        (lambda r: r["keys"].append(signer("witness", "leeds").identity.as_json())
            or r["witnesses"].append({"name": "leeds", "jurisdiction": "DE"}), "two jurisdictions"),
        (lambda r: r["keys"].append(signer("witness", "leeds").identity.as_json())
            or r["witnesses"].append({"name": "leeds", "jurisdiction": "GB", "access": ["US"]}), "stands in the study"),
        (lambda r: r["witnesses"][0].update(jurisdiction="Germany"), "jurisdiction"),
        (lambda r: r["witnesses"][0].update(place="DE"), "place"),
        (lambda r: r["witnesses"].__setitem__(0, {"name": UNION}), "jurisdiction"),
    ],
    ids=["twice", "no-key", "two-places", "member", "no-code", "unknown-field", "no-place"],
)  # fmt: skip
def test_a_trust_file_that_contradicts_itself_about_a_witness_is_refused(change: Any, why: str) -> None:
    record = json.loads(drafted(None, new()).envelope.payload)
    change(record)
    with pytest.raises(InputError, match="RSD-6001") as wrong:
        open_trust(seal(record, *(WORLD.signatories[s] for s in SITES)).encode(), "trust")
    assert why in str(wrong.value)


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Office:
    return make_trusted_office(tmp_path_factory.mktemp("office"))


def test_a_witness_is_admitted_only_with_its_country(office: Office, tmp_path: Path) -> None:
    files = [ok("log", "witness", "init", n, "--home", tmp_path / n)["public_file"] for n in (UNION, "other")]
    words = ("consortium", "admit", "--home", office.home, "--out", tmp_path / "draft.json", "--witness", files[0])
    for more in (
        (), ("--jurisdiction", "ZZ"), ("--jurisdiction", "de"), ("--jurisdiction", "DE", "--witness", files[1]),
        ("--jurisdiction", "DE", "--jurisdiction", "FR"), ("--jurisdiction", "DE", "--access", f"{UNION}:XX"),
        ("--jurisdiction", "DE", "--access", UNION), ("--jurisdiction", "DE", "--access", "nobody:US"),
        ("--jurisdiction", "DE", "--covered-person", "nobody"),
        ("--jurisdiction", "DE", "--witness", files[0], "--jurisdiction", "FR"),
    ):  # fmt: skip
        error = refused(2, "RSD-5119", *words, *more)
        assert "--jurisdiction CODE" in error["limit"], more
    assert not (tmp_path / "draft.json").exists()
    shown = ok(*words, "--jurisdiction", "DE", "--access", f"{UNION}:US", "--access", f"{UNION}:US",
               "--witness", files[1], "--jurisdiction", "FR", "--covered-person", "other")  # fmt: skip
    assert shown["trust"]["witnesses"] == [
        {"name": "other", "jurisdiction": "FR", "access": [], "covered_person": True},
        {"name": UNION, "jurisdiction": "DE", "access": ["US"], "covered_person": False},
    ]
    told = run("consortium", "sign", tmp_path / "draft.json", "--key", office.key("berlin", "signatory")).stdout
    assert [line.split() for line in told.splitlines() if line.startswith((UNION + "  DE", "other           FR"))] == [
        ["other", "FR", "covered", "person"], [UNION, "DE", "US"],
    ]  # fmt: skip
    assert run("consortium", "admit", "--install", tmp_path / "draft.json", "--jurisdiction", "DE").exit_code == 2
    assert OPERATOR not in {w["name"] for w in shown["trust"]["witnesses"]}
