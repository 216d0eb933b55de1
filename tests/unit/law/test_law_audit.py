"""`residency audit explain|replay|retention` on logs made here by the real engine and the real store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from compliance.canonical import canonical
from compliance.clock import parse_time, rfc3339
from compliance.law.decide import Engine
from compliance.law.law_set import LawSet
from compliance.law.model import Document, Guarantees, Party, Transfer, Votes
from compliance.law.pack import builtin_packs, load_pack
from compliance.law.regions import load_regions
from compliance.law.retention import retention
from compliance.law.vocabulary import RECORD_CLASSES
from compliance.log.entry import new_entry
from compliance.log.evidence import build_evidence
from compliance.log.store import LogStore
from compliance.release.bodies import decision_body, read_decision
from compliance.release.replay import Source, made
from tests.desk import ok, refused, run
from tests.log_drafts import refusal_body
from tests.world import stopped_clock, world

PACKS = builtin_packs()
REGIONS = load_regions()
STUDY, AT = "ab" * 32, "2026-11-22T12:00:00Z"
DAY = "2026-11-22"
PAPERS = ("dpia", "art6_basis", "art9_basis", "ethics")


def _transfer(to: str, artifact: str = "dp_update") -> Transfer:
    return Transfer(
        artifact=artifact,
        exporter=Party(name="berlin", jurisdiction="DE"),
        recipient=Party(name="hub", jurisdiction=to),
        purpose="scientific_research",
        study=STUDY,
        documents=tuple(
            Document(kind=k, sha256="cd" * 32, expires="2028-12-31", id=f"p-{i}") for i, k in enumerate(PAPERS)
        ),
        guarantees=Guarantees(unit="patient", epsilon_milli=3000, inverse_delta=100_000, min_sites=3, min_patients=500),
        at=AT,
    )


def _engine(pack=PACKS["eu"]):
    return Engine({"eu": pack}, {"eu": pack.digest}, regions=REGIONS)


def _log(folder: Path, decisions: list) -> Path:
    path = folder / "berlin" / "log.db"
    path.parent.mkdir(parents=True)
    day = stopped_clock(parse_time(AT))
    with day, LogStore.open(path, "berlin.example/log", Ed25519PrivateKey.generate()) as store:
        store.append("refusal", refusal_body(), STUDY)
        for decision in decisions:
            store.append("decision", decision_body(decision, 1, decision.transfer.recipient.name), STUDY)
    return path


@pytest.fixture
def log(tmp_path):
    engine = _engine()
    unadopted = Engine(PACKS, {"uk": PACKS["uk"].digest}).decide(_transfer("IE"))
    return _log(tmp_path, [engine.decide(_transfer("IE")), engine.decide(_transfer("SG")), unadopted])


def _folder(path: Path, log: Path) -> Path:
    """A bundle's parts that decisions need: evidence, packs, region sets."""
    key = Ed25519PrivateKey.generate()
    store_path = path / "again.db"
    path.mkdir()
    with stopped_clock(parse_time(AT)), LogStore.open(store_path, "berlin.example/log", key) as store:
        for line in ok("audit", "replay", log)["disagreements"]:
            raise AssertionError(line)
        for entry in _entries(log):
            store.append("decision", entry, STUDY)
        evidence = build_evidence(store, range(store.size))
    store_path.unlink()
    for beside in path.glob("again.db*"):
        beside.unlink()
    (path / "evidence").mkdir()
    (path / "evidence" / "berlin.json").write_bytes(canonical(evidence.model_dump(mode="json")) + b"\n")
    (path / "packs").mkdir()
    (path / "packs" / "eu.yaml").write_bytes(PACKS["eu"].raw)
    (path / "regions.yaml").write_bytes(REGIONS.raw)
    return path


def _entries(log: Path) -> list[dict]:
    from compliance.release.replay import read_source

    return [dict(e.body) for rows in read_source(log).decisions.values() for e, _ in rows]


def test_without_an_entry_the_denials_are_listed(log):
    found = ok("audit", "explain", log)
    assert found["decisions"] == 3
    assert [(d["entry"], d["rule"]) for d in found["denials"]] == [(2, "eu.no-basis"), (3, "engine.pack-not-adopted")]
    assert "2 of 3 decisions deny" in run("audit", "explain", log).output


def test_a_denial_is_explained_with_rule_citation_and_what_lacks(log):
    found = ok("audit", "explain", log, "--entry", 2)
    assert found["decision"]["rule"] == "eu.no-basis"
    assert found["again"] == "same"
    text = run("audit", "explain", log, "--log", "berlin", "--entry", 2).output
    for words in (
        "entry 2 of log berlin", "before round 1", "DRAFT, no counsel", "DENY dp_update berlin (DE) -> hub (SG)",
        "law: GDPR Art 44", "python deny, cedar deny", "dpia for * until 2028-12-31 (p-0)", "scc", "epsilon_milli 3000",
        PACKS["eu"].digest[:12], REGIONS.digest[:12], "decided again from what was logged: the same",
    ):  # fmt: skip
        assert words in text, words


def test_what_was_said_before_any_rule_was_asked(log):
    found = ok("audit", "explain", log, "--entry", 3)
    assert found["again"] == "not decided"


def test_an_entry_or_log_that_is_not_there(log, tmp_path):
    refused(3, "RSD-3076", "audit", "explain", log, "--entry", 0)
    for more in ((), ("--entry", 2)):
        error = refused(3, "RSD-3076", "audit", "explain", log, "--log", "lyon", *more)
        assert (error["found"], error["limit"]) == ("lyon", "berlin")
    refused(3, "RSD-3075", "audit", "explain", _log(tmp_path / "empty", []))
    refused(3, "RSD-2005", "audit", "replay", tmp_path / "nothing")


def test_a_home_is_read_by_its_log(log):
    for command in ("explain", "replay"):
        assert ok("audit", command, log.parent) == ok("audit", command, log)


def test_replay_counts(log):
    found = ok("audit", "replay", log)
    assert {k: found[k] for k in ("decisions", "same", "otherwise", "not_decided", "cannot")} == {
        "decisions": 3,
        "same": 2,
        "otherwise": 0,
        "not_decided": 1,
        "cannot": 0,
    }


def test_replay_of_a_folder_uses_the_packs_in_it(log, tmp_path):
    folder = _folder(tmp_path / "bundle", log)
    assert ok("audit", "replay", folder)["same"] == 2
    assert ok("audit", "replay", folder / "evidence" / "berlin.json")["same"] == 2


@pytest.mark.parametrize(
    ("field", "value"),
    [("rule", "eu.never-raw"), ("plain", "Because we say so."), ("missing", []), ("draft", False)],
)
def test_a_changed_decision_does_not_follow(tmp_path, field, value):
    decision = _engine().decide(_transfer("SG"))
    update = {field: tuple(value) if isinstance(value, list) else value}
    path = _log(tmp_path, [decision.model_copy(update=update)])
    error = refused(1, "RSD-3078", "audit", "replay", path)
    assert "entry 1 of log berlin" in error["found"]
    assert f"{field}: logged" in run("audit", "replay", path).output


def _turned(rule):
    """A denial that was turned into an ALLOW of everybody, by this rule."""
    denied = _engine().decide(_transfer("SG"))
    legs = tuple(leg.model_copy(update={"effect": "allow"}) for leg in denied.legs)
    votes = Votes(python="allow", cedar="allow")
    return denied.model_copy(update={"allow": True, "effect": "allow", "evaluators": votes, "legs": legs, "rule": rule})


def test_a_denial_that_was_turned_does_not_follow(tmp_path, monkeypatch):
    path = _log(tmp_path, [_turned("eu.update.within")])
    refused(1, "RSD-3078", "audit", "replay", path)
    assert "allow: logged True" in run("audit", "replay", path).output
    path = _log(tmp_path / "engine", [_turned("engine.no-pack")])
    refused(3, "RSD-9041", "audit", "replay", path)
    monkeypatch.setattr("compliance.release.bodies._contradiction", lambda _: "")
    refused(1, "RSD-3078", "audit", "replay", path)  # whatever allows is decided again


def test_a_decision_of_another_day_does_not_follow(tmp_path):
    """In 2020 the United Kingdom still stood in the set of the EEA."""
    told = _transfer("IE").model_copy(update={"at": "2026-11-22T11:44:00Z"})
    path = _log(tmp_path, [_engine().decide(told)])
    refused(1, "RSD-3078", "audit", "replay", path)
    assert "decides for long before it was logged" in run("audit", "replay", path).output


def test_a_folder_tells_the_term_of_its_study():
    source = Source({}, {p.digest: p for p in PACKS.values()}, {REGIONS.digest: REGIONS}, (STUDY, world().study))
    ends = world().study.ends
    for at, outcome in ((ends, "same"), (f"{ends[:-2]}02T00:00:00Z", "otherwise")):
        decision = _engine().decide(_transfer("IE").model_copy(update={"at": at}))
        at_once = rfc3339(parse_time(at))
        entry = new_entry(0, at_once, "decision", decision_body(decision, 0, "hub"), STUDY)
        assert made(source, "berlin", entry, read_decision(entry, "entry 0")).outcome == outcome


def test_a_changed_input_does_not_follow(tmp_path):
    decision = _engine().decide(_transfer("SG"))
    moved = decision.transfer.model_copy(update={"recipient": Party(name="hub", jurisdiction="IE")})
    refused(1, "RSD-3078", "audit", "replay", _log(tmp_path, [decision.model_copy(update={"transfer": moved})]))


def test_packs_of_another_day_are_needed_and_taken(tmp_path):
    older = load_pack(PACKS["eu"].raw.replace(b"\nversion: ", b"\nversion: 9"))
    path = _log(tmp_path, [_engine(older).decide(_transfer("IE"))])
    assert "not at hand: pack eu" in run("audit", "replay", path).output
    refused(1, "RSD-3078", "audit", "replay", path)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "eu.yaml").write_bytes(older.raw)
    assert ok("audit", "replay", path, "--packs", tmp_path / "old")["same"] == 1


def test_the_commands_change_no_byte(log):
    before = {p: p.read_bytes() for p in log.parent.iterdir()}
    run("audit", "explain", log)
    run("audit", "replay", log)
    assert {p: p.read_bytes() for p in log.parent.iterdir()} == before


def test_retention_shows_every_class_and_its_limits():
    found = ok("audit", "retention", "--jurisdiction", "US")
    assert [c["class"] for c in found["classes"]] == list(RECORD_CLASSES)
    rows = {c["class"]: c for c in found["classes"]}
    days = [f["days"] for f in rows["transfer"]["floors"]]
    assert days == sorted(days, reverse=True)
    assert days[0] >= 3650  # 28 CFR 202.1101
    assert all(f["law"] or f["note"] for c in found["classes"] for f in c["floors"] + c["ceilings"])


def test_a_floor_above_a_ceiling_is_reported_and_not_resolved():
    row = PACKS["eu"].retention[0]
    floor = row.model_copy(update={"classes": ("decision",), "floor_days": 3650, "ceiling_days": None})
    ceiling = row.model_copy(update={"classes": ("decision",), "floor_days": None, "ceiling_days": 365})
    floor, ceiling = (row.model_copy(update={"since": None, "binds": "all", "who": ""}) for row in (floor, ceiling))
    packs = [
        PACKS["eu"].model_copy(update={"retention": (floor,)}),
        PACKS["uk"].model_copy(update={"retention": (ceiling, ceiling.model_copy(update={"ceiling_days": 4000}))}),
    ]
    (kept,) = [k for k in retention(packs, DAY, adopted=True) if k.record_class == "decision"]
    assert kept.conflict == "eu asks for at least 3650 days, uk for at most 365"
    assert [limit.days for limit in kept.ceilings] == [365, 4000]
    (fine,) = [k for k in retention(packs[:1], DAY, adopted=True) if k.record_class == "decision"]
    assert fine.conflict == ""


def _classes(*args: object) -> dict[str, dict]:
    return {c["class"]: c for c in ok("audit", "retention", *args)["classes"]}


def test_what_is_not_in_force_or_binds_only_some_governs_nothing():
    germany = _classes("--jurisdiction", "DE", "--at", f"{DAY}T12:00:00Z")
    assert [c for c in germany.values() if c["floors"]] == []
    may = {limit["law"][0]: limit["may_bind"] for c in germany.values() for limit in c["may_bind"]}
    assert set(may) == {"EHDS Art 73(1)(e)", "AI Act Art 18(1)", "AI Act Art 19(1)"}
    assert "2029-03-26" in may["EHDS Art 73(1)(e)"]
    assert "secure processing environment" in may["EHDS Art 73(1)(e)"]
    assert "provider of a high-risk system" in may["AI Act Art 18(1)"]
    text = run("audit", "retention", "--jurisdiction", "DE").output
    assert "The ten years start when that system is placed on the market." in text  # the note
    assert "may bind: at least 3653 days by eu" in text


def test_a_floor_governs_from_the_day_on_which_it_binds():
    before, after = (_classes("--jurisdiction", "IN", "--at", f"2027-05-{day}T00:00:00Z") for day in (12, 13))
    assert before["access"]["floors"] == []
    assert [limit["days"] for limit in before["access"]["may_bind"]] == [366]
    assert after["access"]["may_bind"] == []
    assert [limit["days"] for limit in after["access"]["floors"]] == [366]


def test_a_pack_that_binds_whom_it_declares_may_bind_until_a_signatory_adopts_it(tmp_path):
    anywhere = _classes("--jurisdiction", "US")["answer"]
    assert (anywhere["floors"], [m["pack"] for m in anywhere["may_bind"]]) == ([], ["us-hipaa"])
    assert "us-hipaa: Health plans" in run("audit", "retention", "--jurisdiction", "US").output
    path = tmp_path / "set.json"
    ok("law", "init", "--site", "boston", "--jurisdiction", "US", "--out", path)
    adopted = _classes("--law", path)["answer"]
    assert ([m["pack"] for m in adopted["floors"]], adopted["may_bind"]) == (["us-hipaa"], [])


def test_the_sites_own_schedule_below_a_floor_is_a_conflict():
    asked = ("--jurisdiction", "US", "--ceiling", "transfer=365", "--ceiling", "access=4000")
    error = refused(1, "RSD-3080", "audit", "retention", *asked)
    assert error["found"] == "transfer: us-202 asks for at least 3653 days, the site's own schedule for at most 365"
    text = run("audit", "retention", *asked).output
    assert text.count("CONFLICT") == 1
    assert "at least 3653 days, at most 365 days" in text  # both stand, neither wins
    fits = _classes("--jurisdiction", "US", "--ceiling", "transfer=3653")
    assert ([m["days"] for m in fits["transfer"]["ceilings"]], fits["transfer"]["conflict"]) == ([3653], "")
    assert _classes("--jurisdiction", "DE", "--ceiling", "access=30")["access"]["conflict"] == ""


@pytest.mark.parametrize("wrong", ["acces=30", "access", "access=0", "access=-1", "access=1.5", "access=40001", "=3"])
def test_a_ceiling_names_a_class_and_days(wrong):
    refused(2, "RSD-3081", "audit", "retention", "--jurisdiction", "DE", "--ceiling", wrong)


def test_retention_wants_one_law(tmp_path):
    refused(2, "RSD-3077", "audit", "retention")
    refused(3, "RSD-3073", "audit", "retention", "--jurisdiction", "ZZ")
    law_set = LawSet.model_validate(
        {
            "schema": "residency.law-set/1",
            "site": "berlin",
            "jurisdiction": "DE",
            "regions": REGIONS.digest,
            "packs": ({"id": "eu", "sha256": PACKS["eu"].digest},),
        }
    )
    path = tmp_path / "set.json"
    path.write_text(json.dumps(law_set.as_json()), encoding="utf-8")
    assert ok("audit", "retention", "--law", path)["packs"] == ["eu"]
