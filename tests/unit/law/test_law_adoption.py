"""A law set is drafted from what binds, adopted by the site's own signatory, on advice on just this set or a reason."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from compliance.answers import ADVICE
from compliance.clock import now, parse_time
from compliance.errors import CheckFailed, InputError, Refused
from compliance.identity import Signer, seal
from compliance.law.law_adoption import (
    OpenAdoption,
    adoption_record,
    check_advised,
    check_in_force,
    check_jurisdiction,
    check_named,
    draft_law_set,
    open_adoption,
    read_adoption,
    read_law_set,
)
from compliance.law.law_set import LawSet
from compliance.law.pack import Pack, builtin_packs, load_pack
from compliance.law.regions import load_regions
from tests.desk import consortium, day

WORLD = consortium()
ANCHOR = WORLD.anchor()
PACKS, REGIONS = builtin_packs(), load_regions()
DECLARED = PACKS["uk"].model_copy(update={"id": "clinics", "binds": "declared", "binds_note": "Clinics."})
WITH_DECLARED: dict[str, Pack] = {**PACKS, "clinics": DECLARED}
REASON = "We are a university, no clinic."


def law_set(site: str = "berlin", jurisdiction: str = "DE", **left_out: str) -> LawSet:
    return draft_law_set(site, jurisdiction, WITH_DECLARED, REGIONS, left_out)


def sealed(
    made: LawSet, by: Signer | None = None, advice: str = "", reason: str = "No officer.", **changes: Any
) -> bytes:
    record = {**adoption_record(made, now(), advice, reason), **changes}
    return seal(record, by or WORLD.signatories[made.site]).encode() + b"\n"


def opened(data: bytes, site: str = "berlin") -> OpenAdoption:
    return open_adoption(ANCHOR, data, "law.json", site, now())


def advice(made: LawSet, by: str = "berlin", **changes: Any) -> bytes:
    record = {"schema": ADVICE, "subject": "law_set", "digest": made.digest, "site": by, "at": day(0)}
    return seal({**record, "favourable": True, "text": "complete", **changes}, WORLD.dpos[by]).encode()


def digest_of(data: bytes) -> str:
    from compliance.identity import parse_envelope

    return parse_envelope(data, "advice").digest


# --- the set --------------------------------------------------------------------------------------------------------


def test_the_draft_holds_what_binds_and_nothing_else() -> None:
    made = law_set()
    assert made.adopted == {"eu": PACKS["eu"].digest}
    assert (made.regions, made.site, made.jurisdiction, made.not_binding) == (REGIONS.digest, "berlin", "DE", ())


def test_a_pack_that_names_whom_it_binds_is_in_unless_a_reason_is_given() -> None:
    assert set(law_set("leeds", "GB").adopted) == {"uk", "clinics"}
    left_out = law_set("leeds", "GB", clinics=REASON)
    assert (set(left_out.adopted), left_out.not_binding[0].reason) == ({"uk"}, REASON)


@pytest.mark.parametrize("name", ["uk", "eu", "nothing"])
def test_a_pack_that_binds_everybody_or_nobody_cannot_be_left_out(name: str) -> None:
    with pytest.raises(Refused) as e:
        law_set("leeds", "GB", **{name: REASON})
    assert (e.value.code, e.value.limit) == ("RSD-3035", "clinics")


@pytest.mark.parametrize(
    ("site", "jurisdiction", "code"),
    [("berlin", "XX", "RSD-2105"), ("b: c", "DE", "RSD-3030"), ("berlin", "de", "RSD-3030")],
)
def test_a_draft_for_nowhere_or_nobody(site: str, jurisdiction: str, code: str) -> None:
    with pytest.raises(InputError) as e:
        law_set(site, jurisdiction)
    assert e.value.code == code


def test_a_reason_of_a_word_is_none() -> None:
    with pytest.raises(InputError) as e:
        law_set("leeds", "GB", clinics="no")
    assert e.value.code == "RSD-3030"


@pytest.mark.parametrize("data", [b"{}", b'{"schema":"residency.law-set/1"}', b"[]"])
def test_a_malformed_set(data: bytes) -> None:
    with pytest.raises(InputError) as e:
        read_law_set(data, "law-set.json")
    assert e.value.code == "RSD-3030"


# --- in force -------------------------------------------------------------------------------------------------------


def problem(made: LawSet, packs: dict[str, Pack] | None = None, later: timedelta = timedelta()) -> str:
    with pytest.raises(Refused) as e:
        check_in_force(made, packs if packs is not None else WITH_DECLARED, REGIONS, now() + later)
    assert e.value.code == "RSD-3036"
    return e.value.message


def test_a_fresh_draft_is_in_force() -> None:
    check_in_force(law_set(), WITH_DECLARED, REGIONS, now())
    check_in_force(law_set("leeds", "GB", clinics=REASON), WITH_DECLARED, REGIONS, now())


def test_what_is_not_in_force_is_named() -> None:
    made, other = law_set(), {**PACKS, "eu": load_pack(PACKS["eu"].raw + b"# changed\n")}
    assert "pack eu is installed in other bytes" in problem(made, other)
    assert "pack eu is not installed" in problem(made, {})
    assert "pack eu expired on" in problem(made, later=timedelta(days=5000))
    assert "other region sets are installed" in problem(made.model_copy(update={"regions": "00" * 32}))
    more = {**PACKS, "new": PACKS["eu"].model_copy(update={"id": "new"})}
    assert "pack new binds DE and is not adopted" in problem(made, more)


def test_a_declaration_about_a_pack_that_binds_everybody_leaves_it_unadopted() -> None:
    """Written by hand: `law init` refuses it, the signatory's command too, and the engine denies."""
    made = law_set("leeds", "GB", clinics=REASON)
    about_uk = (made.not_binding[0].model_copy(update={"id": "uk"}),)
    swapped = made.model_copy(update={"packs": law_set().packs, "not_binding": about_uk})
    assert "pack uk binds GB and is not adopted" in problem(swapped)


# --- whose adoption it is -------------------------------------------------------------------------------------------


def test_the_sites_own_signatory_adopts() -> None:
    made = law_set()
    found = opened(sealed(made))
    assert (found.law_set, found.adoption.reason) == (made, "No officer.")
    check_jurisdiction(found.law_set, "DE")
    check_named(found.law_set, made.digest)


@pytest.mark.parametrize("who", ["dpo", "agent", "operator", "signatory of another site"])
def test_nobody_else_does(who: str) -> None:
    by = {
        "dpo": WORLD.dpos["berlin"],
        "agent": WORLD.agents["berlin"],
        "operator": WORLD.operator,
        "signatory of another site": WORLD.signatories["leeds"],
    }[who]
    with pytest.raises(CheckFailed) as e:
        opened(sealed(law_set(), by))
    assert e.value.code == "RSD-6011"


def test_another_sites_adoption_is_not_this_sites() -> None:
    data = sealed(law_set("leeds", "GB"))
    with pytest.raises(CheckFailed):
        opened(data)
    with pytest.raises(Refused) as e:  # a signatory who signs for another site
        opened(sealed(law_set("leeds", "GB"), WORLD.signatories["berlin"]))
    assert e.value.code == "RSD-3031"
    with pytest.raises(Refused) as f:
        check_jurisdiction(law_set(), "GB")
    assert f.value.code == "RSD-3031"


def test_the_digest_is_that_of_the_set_and_a_policy_names_it() -> None:
    made, other = law_set(), law_set("leeds", "GB")
    with pytest.raises(InputError) as e:
        opened(sealed(made, digest=other.digest))
    assert e.value.code == "RSD-3030"
    with pytest.raises(InputError):
        opened(sealed(made, law_set=other.as_json()))
    with pytest.raises(Refused) as f:
        check_named(made, other.digest)
    assert f.value.code == "RSD-3033"


def test_a_set_is_no_adoption() -> None:
    with pytest.raises(InputError) as e:
        read_adoption(seal(law_set().as_json(), WORLD.signatories["berlin"]).encode(), "law.json")
    assert e.value.code == "RSD-3030"


# --- on which advice ------------------------------------------------------------------------------------------------


def advised(data: bytes, given: bytes) -> str:
    found = check_advised(ANCHOR, opened(data), given, "advice.json", now())
    return found.digest if found else ""


def test_on_advice_or_with_a_reason() -> None:
    made = law_set()
    fine, unfavourable = advice(made), advice(made, favourable=False)
    assert advised(sealed(made), b"") == ""
    assert advised(sealed(made, advice=digest_of(fine), reason=""), fine) == digest_of(fine)
    assert advised(sealed(made, advice=digest_of(unfavourable), reason="Asked by law."), unfavourable)
    with pytest.raises(Refused) as e:
        advised(sealed(made, advice=digest_of(unfavourable), reason=""), unfavourable)
    assert e.value.code == "RSD-2203"
    with pytest.raises(InputError):
        adoption_record(made, now(), "", "")


@pytest.mark.parametrize("how", ["none", "not named", "another", "of another set", "of another site", "later"])
def test_the_advice_is_the_one_that_was_before_the_signatory(how: str) -> None:
    made = law_set()
    fine = advice(made)
    named = sealed(made, advice=digest_of(fine), reason="")
    cases: dict[str, tuple[bytes, bytes]] = {
        "none": (named, b""),
        "not named": (sealed(made), fine),
        "another": (named, advice(made, text="other words")),
        "of another set": _both(made, advice(law_set("berlin", "FR"))),
        "of another site": _both(made, advice(made, "leeds")),
        "later": (sealed(made, advice=digest_of(fine), reason="", at=day(-1)), fine),
    }
    with pytest.raises(Refused) as e:
        advised(*cases[how])
    assert e.value.code == "RSD-2202"


def _both(made: LawSet, given: bytes) -> tuple[bytes, bytes]:
    return sealed(made, advice=digest_of(given), reason=""), given


def test_the_advice_is_the_dpos() -> None:
    made = law_set()
    record = {"schema": ADVICE, "subject": "law_set", "digest": made.digest, "site": "berlin", "at": day(0)}
    forged = seal({**record, "favourable": True, "text": "x"}, WORLD.signatories["berlin"]).encode()
    with pytest.raises(CheckFailed):
        advised(*_both(made, forged))
    on_a_study = advice(made, subject="study")
    with pytest.raises(Refused) as e:
        advised(*_both(made, on_a_study))
    assert e.value.code == "RSD-2205"


def test_the_time_of_an_adoption_is_a_time() -> None:
    with pytest.raises(InputError):
        opened(sealed(law_set(), at="yesterday"))
    assert parse_time(opened(sealed(law_set())).adoption.at) <= now()
