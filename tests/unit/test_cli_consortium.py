"""`residency consortium`: from init to an installed trust file, and everything that must not get through."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from compliance.canonical import canonical, parse_canonical
from compliance.identity import load_signer, parse_envelope, seal
from tests.desk import SITES, Office, enrol, make_office, ok, refused, run, signer


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Office:
    return make_office(tmp_path_factory.mktemp("consortium"))


@pytest.fixture
def office(made: Office, tmp_path: Path) -> Office:
    shutil.copytree(made.root, tmp_path / "w")
    return Office(tmp_path / "w")


def requests(office: Office) -> list[Path]:
    return [office.root / site / "request.json" for site in SITES]


def drafted(office: Office) -> Path:
    draft = office.root / "draft.json"
    ok("consortium", "admit", *requests(office), "--home", office.home, "--out", draft)
    return draft


def signed(office: Office, *sites: str) -> Path:
    draft = drafted(office)
    for site in sites:
        ok("consortium", "sign", draft, "--key", office.key(site, "signatory"))
    return draft


def test_init_makes_the_whole_home(office: Office) -> None:
    names = {str(p.relative_to(office.home)) for p in office.home.rglob("*") if p.is_file()}
    tls = {f"tls/{n}" for n in ("ca.crt", "ca.key", "server.crt", "server.key")}
    assert {"consortium.json", "keys/operator.key", "keys/operator.pub.json", *tls} <= names
    assert json.loads((office.home / "consortium.json").read_bytes())["threshold"] == 2


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--jurisdiction", "Ireland"),
        ("--threshold", "0"),
        ("--server", "nowhere"),
        ("--operator", "A!"),
        ("--server", "h:99999"),
        ("--governance", "h:0"),
        ("--enrolment", "h:00001"),
        ("--server", "h:65535"),
        ("--governance", "h:1"),
    ],
)
def test_init_refuses_malformed_settings_and_leaves_nothing(tmp_path: Path, option: str, value: str) -> None:
    options = {"--operator": "hub", "--jurisdiction": "IE", "--threshold": "2", "--server": "h:1", option: value}
    flat = [part for pair in options.items() for part in pair]
    error = refused(3, "RSD-6019", "consortium", "init", "thyroid", *flat, "--home", tmp_path / "hub")
    assert value.removesuffix("65535") in error["message"]  # there it is the next port that is none
    assert not list(tmp_path.iterdir())


def test_a_country_that_is_none_is_refused(office: Office, tmp_path: Path) -> None:
    named = ("--operator", "hub", "--jurisdiction", "XX", "--threshold", 1, "--server", "h:1", "--home", tmp_path / "x")
    refused(3, "RSD-3073", "consortium", "init", "thyroid", *named)
    out = tmp_path / "rome.json"
    asked = ("consortium", "invite", "rome", "--jurisdiction", "ZZ", "--home", office.home, "--out", out)
    error = refused(3, "RSD-3073", *asked)
    assert error["found"] == "ZZ"
    assert not list(tmp_path.glob("*.json"))


def test_a_site_has_a_name_of_its_own(office: Office, tmp_path: Path) -> None:
    before = sorted(office.home.rglob("*"))
    operator = json.loads((office.home / "consortium.json").read_bytes())["operator"]["name"]
    asked = ("consortium", "invite", operator, "--jurisdiction", "IT", "--home", office.home)
    error = refused(3, "RSD-6021", *asked, "--out", tmp_path / "x.json")
    assert (error["found"], operator in error["limit"]) == (operator, True)
    assert sorted(office.home.rglob("*")) == before


def test_init_never_overwrites(office: Office) -> None:
    args = ("consortium", "init", "x", "--operator", "hub", "--jurisdiction", "IE", "--threshold", 1, "--server", "h:1")
    before = (office.home / "consortium.json").read_bytes()
    refused(3, "RSD-2009", *args, "--home", office.home)
    assert (office.home / "consortium.json").read_bytes() == before
    assert {p.name for p in office.root.iterdir()} == {"hub", *SITES}


def test_invite_checks_and_never_overwrites(office: Office) -> None:
    out = office.root / "new.json"
    refused(3, "RSD-6016", "consortium", "invite", "Paris", "--jurisdiction", "FR", "--home", office.home, "--out", out)
    refused(3, "RSD-2005", "consortium", "invite", "paris", "--jurisdiction", "FR", "--home", office.root, "--out", out)
    assert not out.exists()
    existing = office.root / "berlin" / "invitation.json"
    count = len(list((office.home / "invitations").iterdir()))
    refused(
        3, "RSD-2009", "consortium", "invite", "b", "--jurisdiction", "DE", "--home", office.home, "--out", existing
    )
    assert len(list((office.home / "invitations").iterdir())) == count


def test_the_whole_way(office: Office) -> None:
    draft = signed(office, "berlin")
    shown = ok("consortium", "show", draft)
    assert (shown["signed_by"], shown["threshold_met"]) == (["berlin"], False)
    error = refused(1, "RSD-6002", "consortium", "admit", "--install", draft, "--home", office.home)
    assert (error["found"], error["limit"]) == ("1 (berlin)", "2")
    assert not office.trust.exists()
    text = run("consortium", "sign", draft, "--key", office.key("leeds", "signatory")).output
    assert "signed     2 of 2 needed: berlin, leeds" in text
    installed = ok("consortium", "admit", "--install", draft, "--home", office.home)
    assert installed["threshold_met"]
    assert office.trust.read_bytes() == draft.read_bytes()
    assert ok("consortium", "admit", "--install", draft, "--home", office.home)["digest"] == installed["digest"]


def test_signing_into_another_file(office: Office) -> None:
    draft = drafted(office)
    before = draft.read_bytes()
    out = office.root / "berlin.signed.json"
    args = ("consortium", "sign", draft, "--key", office.key("berlin", "signatory"), "--out", out)
    ok(*args)
    assert draft.read_bytes() == before
    refused(3, "RSD-2009", *args)


def test_signing_needs_a_listed_signatory(office: Office) -> None:
    draft = drafted(office)
    before = draft.read_bytes()
    error = refused(4, "RSD-6008", "consortium", "sign", draft, "--key", office.key("berlin", "dpo"))
    assert (error["found"], error["limit"]) == ("dpo key of berlin", "signatory key")
    ok("key", "new", "--role", "signatory", "--holder", "berlin", "--out", office.root / "other")
    refused(4, "RSD-6018", "consortium", "sign", draft, "--key", office.root / "other" / "signatory.key")
    assert draft.read_bytes() == before


def test_a_second_version_and_its_rules(office: Office) -> None:
    ok("consortium", "admit", "--install", signed(office, "berlin", "leeds"), "--home", office.home)
    first = office.trust.read_bytes()
    ok("consortium", "invite", "lyon", "--jurisdiction", "FR", "--home", office.home, "--out",
       office.root / "lyon" / "invitation.json")  # fmt: skip
    draft = office.root / "draft2.json"
    request = enrol(office, "lyon")
    ok("consortium", "admit", request, "--home", office.home, "--out", draft)
    for site in ("lyon", "osaka"):
        ok("consortium", "sign", draft, "--key", office.key(site, "signatory"))
    error = refused(4, "RSD-6014", "consortium", "admit", "--install", draft, "--home", office.home)
    assert (error["found"], error["limit"]) == ("1", "2")
    assert office.trust.read_bytes() == first
    ok("consortium", "sign", draft, "--key", office.key("berlin", "signatory"))
    done = ok("consortium", "admit", "--install", draft, "--home", office.home)
    assert done["trust"]["version"] == 2
    assert [s["name"] for s in done["trust"]["sites"]] == ["berlin", "leeds", "lyon", "osaka"]
    office.trust.unlink()
    refused(4, "RSD-6014", "consortium", "admit", "--install", draft, "--home", office.home)


def test_requests_that_are_not_what_was_asked_for(office: Office, tmp_path: Path) -> None:
    request = office.root / "berlin" / "request.json"
    payload = parse_canonical(parse_envelope(request.read_bytes(), "x").payload, "x")
    agent = load_signer(office.root / "berlin" / "agent" / "agent.key")
    out = office.root / "draft.json"
    others = requests(office)[1:]

    def admit(record: object, by: object, exit_code: int) -> None:
        bad = tmp_path / "bad.json"
        bad.write_bytes(seal(record, by).encode() + b"\n")  # type: ignore[arg-type]
        refused(exit_code, "RSD-6009", "consortium", "admit", bad, *others, "--home", office.home, "--out", out)
        assert not out.exists()

    admit(payload, signer("agent", "berlin"), 1)
    admit({**payload, "jurisdiction": "CN"}, agent, 1)
    admit({**payload, "node_key": "x"}, agent, 1)
    admit({**payload, "invitation": "00" * 32}, agent, 3)
    admit({**payload, "extra": "x"}, agent, 3)
    flipped = request.read_bytes().replace(b'"sig":"', b'"sig":"A', 1)
    (tmp_path / "flipped.json").write_bytes(flipped)
    assert run("consortium", "admit", tmp_path / "flipped.json", "--home", office.home, "--out", out).exit_code in {
        1,
        3,
    }


def test_too_few_requests(office: Office) -> None:
    out = office.root / "draft.json"
    args = ("consortium", "admit", requests(office)[0], "--home", office.home, "--out", out)
    error = refused(4, "RSD-6017", *args)
    assert (error["found"], error["limit"]) == ("1 sites", "2 sites")
    assert not out.exists()


def test_usage(office: Office) -> None:
    for args in (["--home", office.home], [*requests(office), "--home", office.home],
                 [*requests(office), "--install", "x", "--home", office.home]):  # fmt: skip
        assert run("consortium", "admit", *args).exit_code == 2


def test_a_rebuilt_consortium_cannot_take_the_place(office: Office, tmp_path: Path) -> None:
    ok("consortium", "admit", "--install", signed(office, "berlin", "leeds"), "--home", office.home)
    rebuilt = make_office(tmp_path / "rebuilt")
    forged = signed(rebuilt, "berlin", "leeds", "osaka")
    refused(4, "RSD-6014", "consortium", "admit", "--install", forged, "--home", office.home)


def test_show_refuses_what_is_no_trust_file(office: Office, tmp_path: Path) -> None:
    refused(3, "RSD-6001", "consortium", "show", office.root / "berlin" / "request.json")
    (tmp_path / "x.json").write_bytes(canonical({"a": 1}))
    refused(3, "RSD-2002", "consortium", "show", tmp_path / "x.json")
