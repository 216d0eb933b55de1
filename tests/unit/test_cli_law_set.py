"""`residency law init|advise|adopt`, and `agent enroll --law`: from the packs that bind to what the agent obeys."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from compliance.canonical import canonical
from compliance.identity import parse_envelope
from compliance.law.pack import builtin_packs
from tests.desk import Office, make_trusted_office, ok, refused, run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Office:
    """A trusted office; berlin has a drafted law set with the DPO's advice on it."""
    office = make_trusted_office(tmp_path_factory.mktemp("law"))
    ok("law", "init", "--site", "berlin", "--jurisdiction", "DE", "--out", office.root / "law-set.json")
    _advise(office, "advice.json", "--favourable")
    return office


@pytest.fixture
def office(made: Office, tmp_path: Path) -> Office:
    shutil.copytree(made.root, tmp_path / "w")
    return Office(tmp_path / "w")


def _advise(office: Office, out: str, how: str, site: str = "berlin") -> None:
    ok("law", "advise", office.root / "law-set.json", "--key", office.key(site, "dpo"), how, "--text", "fine",
       "--out", office.root / out)  # fmt: skip


def _adopt(office: Office, *more: object, site: str = "berlin", role: str = "signatory") -> list[object]:
    root = office.root
    key = office.key(site, role)
    return ["law", "adopt", root / "law-set.json", "--key", key, *more, "--out", root / "law.json"]


def test_init_names_what_binds_by_digest_and_says_who_reviewed_it(tmp_path: Path) -> None:
    out = tmp_path / "law-set.json"
    shown = run("law", "init", "--site", "berlin", "--jurisdiction", "DE", "--out", out).stdout
    assert "DRAFT, no counsel" in shown
    record = json.loads(out.read_text())
    assert record["packs"] == [{"id": "eu", "sha256": builtin_packs()["eu"].digest}]
    refused(3, "RSD-2009", "law", "init", "--site", "berlin", "--jurisdiction", "DE", "--out", out)


def test_init_refuses_what_cannot_be_a_set(tmp_path: Path) -> None:
    out = ("--out", tmp_path / "x.json")
    refused(3, "RSD-2105", "law", "init", "--site", "berlin", "--jurisdiction", "XX", *out)
    refused(3, "RSD-3030", "law", "init", "--site", "b: c", "--jurisdiction", "DE", *out)
    error = refused(
        4, "RSD-3035", "law", "init", "--site", "b", "--jurisdiction", "DE", "--not-binding", "eu=It is not.", *out
    )
    assert error["found"] == "it binds everybody in this jurisdiction"
    wrong = run("law", "init", "--site", "b", "--jurisdiction", "DE", "--not-binding", "eu", *out)
    assert wrong.exit_code == 2
    assert not (tmp_path / "x.json").exists()


def test_adopted_on_advice_it_is_what_a_policy_names(office: Office) -> None:
    done = ok(*_adopt(office, "--advice", office.root / "advice.json", "--trust", office.trust))
    record = json.loads(parse_envelope(Path(done["file"]).read_bytes(), "law").payload)
    assert (record["digest"], record["reason"]) == (done["digest"], "")
    assert record["law_set"] == json.loads((office.root / "law-set.json").read_text())
    policy = ok("policy", "init", "--law", office.root / "law.json", "--out", office.root / "policy.yaml")
    assert policy["law_set"] == done["digest"]
    text = (office.root / "policy.yaml").read_text()
    assert "site: berlin\njurisdiction: DE\n" in text


def test_adopting_needs_advice_or_a_reason(office: Office) -> None:
    root = office.root
    refused(4, "RSD-2202", *_adopt(office))
    _advise(office, "no.json", "--unfavourable")
    refused(4, "RSD-2203", *_adopt(office, "--advice", root / "no.json"))
    assert not (root / "law.json").exists()
    done = ok(*_adopt(office, "--advice", root / "no.json", "--against-advice", "The regulator asks for it."))
    record = json.loads(parse_envelope(Path(done["file"]).read_bytes(), "law").payload)
    assert record["reason"] == "The regulator asks for it."
    (root / "law.json").unlink()
    ok(*_adopt(office, "--without-advice", "The office is vacant."))


def test_advice_on_something_else_counts_for_nothing(office: Office) -> None:
    root = office.root
    ok("law", "init", "--site", "berlin", "--jurisdiction", "FR", "--out", root / "other.json")
    ok("law", "advise", root / "other.json", "--key", office.key("berlin", "dpo"), "--favourable", "--text", "fine",
       "--out", root / "other.advice.json")  # fmt: skip
    refused(4, "RSD-2202", *_adopt(office, "--advice", root / "other.advice.json"))
    refused(4, "RSD-2202", *_adopt(office, "--advice", root / "other.advice.json", "--trust", office.trust))


def test_only_the_sites_own_people_answer(office: Office) -> None:
    root = office.root
    reason = ("--without-advice", "The office is vacant.")
    refused(4, "RSD-6008", *_adopt(office, *reason, role="dpo"))
    refused(4, "RSD-3031", *_adopt(office, *reason, site="leeds"))
    advise = ["law", "advise", root / "law-set.json", "--favourable", "--text", "x", "--out", root / "x.json", "--key"]
    refused(4, "RSD-6008", *advise, office.key("berlin", "signatory"))
    refused(4, "RSD-3031", *advise, office.key("leeds", "dpo"))
    assert run(*[word for word in advise if word != "--favourable"], office.key("berlin", "dpo")).exit_code == 2
    assert not (root / "x.json").exists()
    assert not (root / "law.json").exists()


def test_what_is_not_in_force_is_not_adopted(office: Office) -> None:
    file = office.root / "law-set.json"
    record = json.loads(file.read_text())
    reason = ("--without-advice", "The office is vacant.")
    for change, words in (
        ({"packs": [{"id": "eu", "sha256": "00" * 32}]}, "pack eu is installed in other bytes"),
        ({"packs": [{"id": "gone", "sha256": "00" * 32}]}, "pack gone is not installed"),
        ({"regions": "00" * 32}, "other region sets are installed"),
        ({"jurisdiction": "GB"}, "pack uk binds GB and is not adopted"),
    ):
        file.write_bytes(canonical({**record, **change}))
        assert words in refused(4, "RSD-3036", *_adopt(office, *reason))["message"]
    file.write_bytes(b"{}")
    refused(3, "RSD-3030", *_adopt(office, *reason))
    file.write_bytes(b"")
    assert run(*_adopt(office, *reason)).exit_code == 3
    assert not (office.root / "law.json").exists()


def test_the_agent_installs_all_three_and_shows_them(tmp_path: Path) -> None:
    from client.home import AgentHome
    from tests.federation import consortium, law_set_of

    made = consortium()
    home, law = made.copy_home("a", tmp_path), tmp_path / "law.json"
    for name, data in zip(("law.json", "advice.json"), made.sign_law("a"), strict=True):
        (tmp_path / name).write_bytes(data)
    (tmp_path / "policy.json").write_bytes(made.sign_policy("a"))
    for file in ("law.json", "law.advice.json", "policy.json"):
        (home / file).unlink()
    base = ("agent", "enroll", "--home", home)
    refused(3, "RSD-3034", *base, "--policy", tmp_path / "policy.json")
    refused(4, "RSD-2202", *base, "--law", law)
    ok(*base, "--law", law, "--law-advice", tmp_path / "advice.json", "--policy", tmp_path / "policy.json")
    status = ok("agent", "status", "--home", home)
    assert (status["law_set"], status["not_binding"]) == (law_set_of("a").digest, [])
    assert [p["id"] for p in status["law_packs"]] == ["eu"]
    opened = AgentHome(home)
    with opened.log(opened.anchor(), opened.signer()) as log:
        assert [e.body["law_set"] for e in log.entries(kind="law")] == [status["law_set"]]
        assert len(log.entries(kind="policy")) == 1
