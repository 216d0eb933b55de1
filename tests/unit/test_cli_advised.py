"""What advise, adopt, sign and approve refuse together: options that contradict each other, or the trust file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.desk import OPERATOR, Office, day, make_trusted_office, ok, policy_raw, refused, run, write_yaml

TEXT = ("--text", "read")


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Office:
    """Berlin, in Germany, has a draft of a law set and of a policy, each with favourable advice on it."""
    made = make_trusted_office(tmp_path_factory.mktemp("advised"))
    ok("law", "init", "--site", "berlin", "--jurisdiction", "DE", "--out", made.root / "law_set.json")
    write_yaml(made.root / "policy.yaml", policy_raw(issued=day(0)))
    for file, group in ((made.root / "law_set.json", "law"), (made.root / "policy.yaml", "policy")):
        ok(group, "advise", file, "--key", made.key("berlin", "dpo"), "--favourable", *TEXT,
           "--out", made.root / f"{group}.advice.json")  # fmt: skip
    return made


DECIDED = {"law": ("law", "adopt", "law_set.json"), "policy": ("policy", "sign", "policy.yaml")}


def _decide(office: Office, group: str, out: Path, *more: object, advised: bool = True) -> list[object]:
    *words, file = DECIDED[group]
    advice = ("--advice", office.root / f"{group}.advice.json") if advised else ()
    key = office.key("berlin", "signatory")
    return [*words, office.root / file, "--key", key, *advice, *more, "--out", out]


@pytest.mark.parametrize("both", [("--favourable", "--unfavourable"), ("--unfavourable", "--favourable"), ()])
@pytest.mark.parametrize("group", ["study", "law", "policy"])
def test_advice_goes_one_way(office: Office, tmp_path: Path, group: str, both: tuple[str, ...]) -> None:
    file = {"law": "law_set.json"}.get(group, "policy.yaml")
    out = tmp_path / "advice.json"
    done = run(group, "advise", office.root / file, "--key", office.key("berlin", "dpo"), *both, *TEXT, "--out", out)
    assert (done.exit_code, out.exists()) == (2, False)
    assert f"found {'both' if both else 'neither'}" in done.stderr


@pytest.mark.parametrize("group", DECIDED)
def test_a_reason_against_favourable_advice_is_refused(office: Office, tmp_path: Path, group: str) -> None:
    out = tmp_path / "signed.json"
    for more in ((), ("--trust", office.trust)):
        refused(4, "RSD-2213", *_decide(office, group, out, "--against-advice", "No.", *more))
    assert list(tmp_path.iterdir()) == []
    ok(*_decide(office, group, out))


@pytest.mark.parametrize("group", DECIDED)
def test_grounds_that_exclude_each_other_are_a_wrong_usage(office: Office, tmp_path: Path, group: str) -> None:
    out = tmp_path / "signed.json"
    for args, words in (
        (_decide(office, group, out, "--without-advice", "None."), "not both"),
        (_decide(office, group, out, "--without-advice", "None.", "--against-advice", "No.", advised=False), "with"),
    ):
        done = run(*args)
        assert done.exit_code == 2
        assert words in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_the_trust_file_places_elsewhere_is_not_signed(office: Office, tmp_path: Path) -> None:
    abroad, law, policy = (tmp_path / name for name in ("abroad.json", "law.json", "policy.json"))
    signatory, reason = office.key("berlin", "signatory"), ("--without-advice", "The office is vacant.")
    ok("law", "init", "--site", "berlin", "--jurisdiction", "FR", "--out", abroad)
    adopt = ("law", "adopt", abroad, "--key", signatory, *reason, "--out", law)
    error = refused(4, "RSD-3031", *adopt, "--trust", office.trust)
    assert (error["found"], error["limit"]) == ("FR", "DE")
    write_yaml(tmp_path / "policy.yaml", policy_raw(jurisdiction="FR", issued=day(0)))
    sign = ("policy", "sign", tmp_path / "policy.yaml", "--key", signatory, *reason, "--out", policy)
    error = refused(4, "RSD-2204", *sign, "--trust", office.trust)
    assert (error["found"], error["limit"]) == ("berlin (FR)", "berlin (DE)")
    assert not law.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["abroad.json", "policy.yaml"]
    ok(*adopt)  # without a trust file nobody knows where the site is
    ok(*sign)


def test_the_operators_law_set_is_for_where_the_trust_file_places_it(office: Office, tmp_path: Path) -> None:
    drafted, out = tmp_path / "set.json", tmp_path / "law.json"
    ok("law", "init", "--site", OPERATOR, "--jurisdiction", "FR", "--out", drafted)
    error = refused(4, "RSD-3031", "law", "adopt", drafted, "--key", office.operator_key, "--trust", office.trust,
                    "--without-advice", "The operator has no officer.", "--out", out)  # fmt: skip
    assert (error["found"], error["limit"], out.exists()) == ("FR", "IE", False)
