"""`residency study` and `residency policy` from the operator's desk to the signatory's."""

from __future__ import annotations

import json
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from compliance import cli
from compliance.files import read_bytes
from compliance.identity import load_signer, parse_envelope, seal
from compliance.log.store import LogStore
from compliance.policy_file import check_policy_file
from compliance.study_file import check_file
from residency import cli as top
from tests.desk import Office, day, make_trusted_office, ok, policy_raw, refused, run, sealed, study_raw, write_yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Office:
    """A trusted office with a signed policy, a signed study and the DPO's advice on both."""
    office = make_trusted_office(tmp_path_factory.mktemp("study"))
    root = office.root
    write_yaml(root / "study.yaml", study_raw())
    ok("study", "sign", root / "study.yaml", "--key", office.operator_key, "--out", root / "study.json")
    write_yaml(root / "policy.yaml", policy_raw(issued=day(0)))
    ok("policy", "advise", root / "policy.yaml", "--key", office.key("berlin", "dpo"), "--favourable", "--text", "fine",
       "--out", root / "policy.advice.json")  # fmt: skip
    ok("policy", "sign", root / "policy.yaml", "--key", office.key("berlin", "signatory"), "--trust", office.trust,
       "--advice", root / "policy.advice.json", "--out", root / "policy.json")  # fmt: skip
    advise(office, root / "advice.json")
    return office


@pytest.fixture
def office(made: Office, tmp_path: Path) -> Office:
    shutil.copytree(made.root, tmp_path / "w")
    return Office(tmp_path / "w")


def advise(office: Office, out: Path, *more: object, study: str = "study.json") -> None:
    favourable = more or ("--favourable",)
    ok("study", "advise", office.root / study, "--key", office.key("berlin", "dpo"), *favourable, "--text", "fine",
       "--out", out)  # fmt: skip


def approve(office: Office, *more: object, **files: object) -> list[object]:
    root = office.root
    given = {"study": root / "study.json", "key": office.key("berlin", "signatory"), "advice": root / "advice.json",
             "policy": root / "policy.json", "trust": office.trust, "out": root / "approval.json", **files}  # fmt: skip
    options = [part for name in ("key", "advice", "policy", "trust", "out") for part in (f"--{name}", given[name])]
    return ["study", "approve", given["study"], *options, *more]


def resigned(office: Office, name: str, **changes: Any) -> Path:
    """The signed study with changes, signed again by the operator."""
    payload = json.loads(parse_envelope(read_bytes(office.root / "study.json", "x"), "x").payload)
    path = office.root / name
    path.write_bytes(seal({**payload, **changes}, load_signer(office.operator_key)).encode() + b"\n")
    return path


def test_init_passes_its_own_check_and_is_the_example(tmp_path: Path) -> None:
    ok("study", "init", "--out", tmp_path / "study.yaml")
    assert ok("study", "check", tmp_path / "study.yaml")["mistakes"] == []
    refused(3, "RSD-2009", "study", "init", "--out", tmp_path / "study.yaml")
    for path in tmp_path.rglob("*.*"):
        assert path.read_bytes() == (ROOT / "examples" / path.relative_to(tmp_path)).read_bytes()
    (tmp_path / "papers" / "dpia.txt").unlink()
    error = refused(3, "RSD-2007", "study", "check", tmp_path / "study.yaml")
    assert "documents[0].file" in error["message"]


def test_check_lists_every_mistake_with_its_line(tmp_path: Path) -> None:
    raw = study_raw(extra=1, purpose="sport")
    path = write_yaml(tmp_path / "study.yaml", raw)
    result = run("study", "check", path)
    kinds = "'scientific_research', 'public_health' or 'quality_improvement'"
    assert result.exit_code == 3
    assert result.stdout.splitlines() == [
        f"line 4: purpose: Input should be {kinds} (found 'sport')",
        f"line {len(raw)}: extra: unknown field",
    ]
    assert result.stderr.startswith(f"error RSD-2007: {path}: 2 mistakes, first line 4: purpose")
    record = json.loads(run("study", "check", path, "--json").stdout)
    assert [(m["field"], m["line"]) for m in record["mistakes"]] == [("purpose", 4), ("extra", len(raw))]


def test_sign_fills_in_and_shows(office: Office) -> None:
    shown = ok("study", "show", office.root / "study.json")["study"]
    assert shown["issued"] <= day(0)
    assert shown["software"]["bundle_sha256"]
    assert {s["noise_multiplier_micro"] for s in shown["sites"]} != {0}
    assert "berlin" in run("study", "show", office.root / "study.json").output


def test_sign_refuses_other_keys_files_and_mistakes(office: Office) -> None:
    root, out = office.root, office.root / "x.json"
    error = refused(
        4, "RSD-6008", "study", "sign", root / "study.yaml", "--key", office.key("berlin", "dpo"), "--out", out
    )
    assert (error["found"], error["limit"]) == ("dpo key of berlin", "operator key")
    write_yaml(root / "other.yaml", study_raw(operator={"name": "other", "jurisdiction": "IE"}))
    refused(4, "RSD-6008", "study", "sign", root / "other.yaml", "--key", office.operator_key, "--out", out)
    write_yaml(root / "bad.yaml", study_raw(purpose="sport"))
    refused(3, "RSD-2007", "study", "sign", root / "bad.yaml", "--key", office.operator_key, "--out", out)
    write_yaml(root / "old.yaml", study_raw(issued="2020-01-01"))
    refused(4, "RSD-6020", "study", "sign", root / "old.yaml", "--key", office.operator_key, "--out", out)
    assert not out.exists()
    before = (root / "study.json").read_bytes()
    key = ("--key", office.operator_key)
    refused(3, "RSD-2009", "study", "sign", root / "study.yaml", *key, "--out", root / "study.json")
    assert (root / "study.json").read_bytes() == before


def test_check_under_policy_and_trust(office: Office) -> None:
    root = office.root
    done = ok("study", "check", root / "study.json", "--policy", root / "policy.json", "--trust", office.trust)
    assert done["inside_policy_of"] == "berlin"
    refused(5, "RSD-6015", "study", "check", root / "study.json", "--policy", root / "policy.json")
    wide = resigned(office, "wide.json", training={**study_raw()["training"], "rounds": 60})
    mistake = refused(3, "RSD-2007", "study", "check", wide)
    assert "above epsilon_milli" in mistake["message"] or "mistakes" in mistake["message"]
    few = resigned(office, "few.json", purpose="public_health")
    error = refused(4, "RSD-2101", "study", "check", few, "--policy", root / "policy.json", "--trust", office.trust)
    assert (error["found"], error["limit"]) == ("public_health", "scientific_research")


def test_propose_logs_once(office: Office) -> None:
    done = ok("study", "propose", office.root / "study.json", "--home", office.home)
    assert Path(done["file"]).read_bytes() == (office.root / "study.json").read_bytes()
    refused(3, "RSD-2009", "study", "propose", office.root / "study.json", "--home", office.home)
    Path(done["file"]).unlink()  # a crash between log and file: the repeated command completes it
    ok("study", "propose", office.root / "study.json", "--home", office.home)
    with LogStore.open(
        office.home / "log.db", "residency/thyroid/hub", load_signer(office.operator_key).private
    ) as log:
        (entry,) = log.entries(kind="study")
        assert (entry.kind, entry.study, entry.body) == ("study", done["digest"], {"name": "thyroid-one"})


def test_propose_refuses(office: Office) -> None:
    sites = json.loads(parse_envelope((office.root / "study.json").read_bytes(), "x").payload)["sites"]
    home = ("--home", office.home)
    elsewhere = resigned(office, "a.json", sites=[{**s, "jurisdiction": "CN"} for s in sites])
    refused(4, "RSD-2104", "study", "propose", elsewhere, *home)
    stranger = resigned(office, "b.json", sites=[*sites[:2], {**sites[2], "name": "paris"}])
    refused(3, "RSD-6010", "study", "propose", stranger, *home)
    over = resigned(office, "c.json", starts="2020-01-01", ends="2020-02-01")
    refused(4, "RSD-2008", "study", "propose", over, *home)
    payload = json.loads(parse_envelope((office.root / "study.json").read_bytes(), "x").payload)
    unsigned = sealed(office.root / "d.json", payload, load_signer(office.key("berlin", "signatory")))
    refused(1, "RSD-6011", "study", "propose", unsigned, *home)
    refused(3, "RSD-2005", "study", "propose", office.root / "study.json", "--home", office.root)
    assert not (office.home / "studies").exists()
    with LogStore.open(
        office.home / "log.db", "residency/thyroid/hub", load_signer(office.operator_key).private
    ) as log:
        assert log.entries(kind="study") == []


def test_approve(office: Office) -> None:
    done = ok(*approve(office))
    statement = json.loads(parse_envelope((office.root / "approval.json").read_bytes(), "x").payload)
    assert (statement["site"], statement["digest"]) == ("berlin", done["study"])
    refused(3, "RSD-2009", *approve(office))


def test_a_study_outside_the_policy_is_refused_at_the_signatorys_desk(office: Office) -> None:
    root = office.root
    sites = [{**s, "epsilon_milli": 50_000} for s in study_raw()["sites"]]
    write_yaml(root / "greedy.yaml", study_raw(sites=sites))
    ok("study", "sign", root / "greedy.yaml", "--key", office.operator_key, "--out", root / "greedy.json")
    advise(office, root / "greedy.advice.json", study="greedy.json")
    args = approve(office, study=root / "greedy.json", advice=root / "greedy.advice.json")
    error = refused(4, "RSD-2101", *args)
    assert (error["rule"], error["found"], error["limit"]) == ("policy.epsilon_milli_at_most", "50000", "8000")
    assert not (root / "approval.json").exists()


def test_approve_refuses(office: Office) -> None:
    root = office.root
    changed = resigned(office, "changed.json", description="Another.")
    refused(4, "RSD-2202", *approve(office, study=changed))
    refused(4, "RSD-6008", *approve(office, key=office.key("berlin", "dpo")))
    refused(4, "RSD-2008", *approve(office, study=resigned(office, "o.json", starts="2020-01-01", ends="2020-02-01")))
    refused(1, "RSD-6011", *approve(office, key=office.key("leeds", "signatory")))  # berlin's policy is not hers
    sites = json.loads(parse_envelope((root / "study.json").read_bytes(), "x").payload)["sites"]
    weak = resigned(
        office,
        "weak.json",
        sites=[{**s, "noise_multiplier_micro": s["noise_multiplier_micro"] * 97 // 100} for s in sites],
    )
    refused(4, "RSD-4005", *approve(office, study=weak))
    ok("key", "new", "--role", "signatory", "--holder", "berlin", "--out", root / "new")
    refused(1, "RSD-6011", *approve(office, key=root / "new" / "signatory.key"))
    assert not (root / "approval.json").exists()


def test_every_flipped_byte_of_what_the_signatory_reads_is_refused(office: Office) -> None:
    for name in ("study", "advice", "policy"):
        data = (office.root / f"{name}.json").read_bytes()
        flipped = office.root / f"flipped.{name}.json"
        for i in range(0, len(data) - 1, max(1, len(data) // 25)):
            flipped.write_bytes(data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :])
            result = run(*approve(office, **{name: flipped}))
            assert result.exit_code in {1, 3, 4}, result.output
    assert not (office.root / "approval.json").exists()


def test_against_advice(office: Office) -> None:
    advise(office, office.root / "no.json", "--unfavourable")
    error = refused(4, "RSD-2203", *approve(office, advice=office.root / "no.json"))
    assert error["limit"] == "a reason"
    ok(*approve(office, "--against-advice", "The benefit prevails.", advice=office.root / "no.json"))


def test_a_reason_against_favourable_advice_approves_nothing(office: Office) -> None:
    refused(4, "RSD-2213", *approve(office, "--against-advice", "The benefit prevails."))
    assert not (office.root / "approval.json").exists()


def test_advise_and_refuse(office: Office) -> None:
    root = office.root
    study, out = root / "study.json", root / "answer.json"
    refused(4, "RSD-6008", "study", "advise", study, "--key", office.key("berlin", "signatory"), "--favourable",
            "--text", "t", "--out", out)  # fmt: skip
    assert (
        run("study", "advise", study, "--key", office.key("berlin", "dpo"), "--text", "t", "--out", out).exit_code == 2
    )
    refused(
        4, "RSD-6008", "study", "refuse", study, "--key", office.key("berlin", "dpo"), "--reason", "r", "--out", out
    )
    ok("key", "new", "--role", "signatory", "--holder", "paris", "--out", root / "paris")
    refused(
        4,
        "RSD-2102",
        "study",
        "refuse",
        study,
        "--key",
        root / "paris" / "signatory.key",
        "--reason",
        "r",
        "--out",
        out,
    )
    signatory = ("--key", office.key("berlin", "signatory"))
    refused(3, "RSD-2007", "study", "refuse", root / "policy.json", *signatory, "--reason", "r", "--out", out)
    assert not out.exists()
    ok(
        "study",
        "refuse",
        study,
        "--key",
        office.key("berlin", "signatory"),
        "--reason",
        "No ethics opinion.",
        "--out",
        out,
    )


def test_the_operator_sees_who_answered_what_and_why(office: Office) -> None:
    study = office.root / "study.json"
    done = ok("study", "propose", study, "--home", office.home)
    waiting = ok("study", "show", study, "--home", office.home)["answers"]
    assert {(a["site"], a["kind"]) for a in waiting} >= {("berlin", "waits")}
    back = office.root / "withdrawal.json"
    signatory = ("--key", office.key("berlin", "signatory"))
    ok("study", "withdraw", study, *signatory, "--reason", "Incident.", "--out", back)
    folder = office.home / "studies" / done["digest"][:16] / "answers"
    folder.mkdir()
    (folder / "berlin.withdrawal.json").write_bytes(back.read_bytes())
    (folder / "noise.json").write_bytes(b"{}")
    shown = ok("study", "show", study, "--home", office.home)["answers"]
    assert ("berlin", "withdrawal", "Incident.") in {(a["site"], a["kind"], a["reason"]) for a in shown}
    assert ("berlin", "waits") not in {(a["site"], a["kind"]) for a in shown}
    assert [a["reason"][:8] for a in shown if a["kind"] == "does not hold"] == ["RSD-2002"]


def test_dry_run_needs_a_signed_study(office: Office) -> None:
    refused(2, "RSD-2011", "study", "check", office.root / "study.yaml", "--home", office.root / "agent")


def agents_answer(home: Path, file: Path) -> cli.Result:
    """Stands for the agent's dry run."""
    return cli.Result({"home": str(home)}, [f"the agent would join {file.name}"])


def test_dry_run_asks_the_agent_that_the_top_command_names(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = types.ModuleType("an_agent")
    stand_in.agents_answer = agents_answer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "an_agent", stand_in)
    args = ["study", "check", str(office.root / "study.json"), "--home", "agent"]
    done = CliRunner().invoke(top, args, obj={"dry_run": "an_agent:agents_answer"})
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "the agent would join study.json")
    for missing in ("no_such_module:x", "an_agent:nothing", ""):
        absent = CliRunner().invoke(top, args, obj={"dry_run": missing})
        assert absent.exit_code == 7
        assert absent.stderr.startswith("error RSD-7002")


def test_policy_init_and_example(office: Office, tmp_path: Path) -> None:
    law_set, law = tmp_path / "law-set.json", tmp_path / "law.json"
    made = ok("law", "init", "--site", "berlin", "--jurisdiction", "DE", "--out", law_set)
    signatory = office.key("berlin", "signatory")
    ok("law", "adopt", law_set, "--key", signatory, "--without-advice", "none there", "--out", law)
    done = ok("policy", "init", "--law", law, "--out", tmp_path / "policy.yaml")
    assert done["law_set"] == made["digest"]
    assert ok("policy", "check", tmp_path / "policy.yaml")["mistakes"] == []
    refused(3, "RSD-2009", "policy", "init", "--law", law, "--out", tmp_path / "policy.yaml")
    refused(3, "RSD-3030", "policy", "init", "--law", office.root / "policy.json", "--out", tmp_path / "x.yaml")
    assert not (tmp_path / "x.yaml").exists()
    mistakes, example = check_policy_file(ROOT / "examples" / "policy.yaml")
    assert example is not None, mistakes
    assert example.law_set == made["digest"]
    assert json.loads(read_bytes(ROOT / "examples" / "law-set.json", "example")) == made["law_set"]
    _, study = check_file(ROOT / "examples" / "study.yaml")
    assert study is not None
    from compliance.policy import check_study

    check_study(example, study)


def test_policy_mistakes(tmp_path: Path) -> None:
    path = write_yaml(tmp_path / "policy.yaml", policy_raw(epsilon_milli_at_most=0))
    error = refused(3, "RSD-2007", "policy", "check", path)
    assert "line 9: epsilon_milli_at_most" in error["message"]
    assert "found 0" in error["message"]


def test_policy_sign_needs_advice_or_a_reason(office: Office) -> None:
    root, out = office.root, office.root / "p2.json"
    base = ("policy", "sign", root / "policy.yaml", "--key", office.key("berlin", "signatory"), "--out", out)
    refused(4, "RSD-2202", *base)
    refused(4, "RSD-2202", *base, "--advice", root / "advice.json")  # advice on the study
    refused(4, "RSD-2205", *base, "--advice", root / "advice.json", "--trust", office.trust)
    refused(4, "RSD-6008", "policy", "sign", root / "policy.yaml", "--key", office.key("berlin", "dpo"), "--out", out)
    refused(
        4, "RSD-2204", "policy", "sign", root / "policy.yaml", "--key", office.key("leeds", "signatory"), "--out", out
    )
    write_yaml(root / "early.yaml", policy_raw(issued=day(-1)))
    refused(4, "RSD-6020", "policy", "sign", root / "early.yaml", *base[3:], "--without-advice", "x")
    assert not out.exists()
    done = ok(*base, "--without-advice", "The office is vacant.")
    reasons = json.loads(parse_envelope(Path(done["decision_file"]).read_bytes(), "x").payload)
    assert (reasons["reason"], reasons["advice"], reasons["policy"]) == ("The office is vacant.", "", done["digest"])


def test_policy_against_advice(office: Office) -> None:
    root, out = office.root, office.root / "p2.json"
    ok("policy", "advise", root / "policy.yaml", "--key", office.key("berlin", "dpo"), "--unfavourable", "--text", "no",
       "--out", root / "no.json")  # fmt: skip
    signatory = ("--key", office.key("berlin", "signatory"))
    base = ("policy", "sign", root / "policy.yaml", *signatory, "--advice", root / "no.json", "--out", out)
    refused(4, "RSD-2203", *base)
    ok(*base, "--against-advice", "Needed for public health.")
    assert ok("policy", "show", out)["policy"]["site"] == "berlin"


def test_an_unjudged_signature_is_said_to_be_unjudged(office: Office) -> None:
    root, trust = office.root, ("--trust", office.trust)
    study = root / "study.json"
    for words in (("check", study), ("show", study)):
        assert ok("study", *words)["signature"] == "not judged"
        assert "signature  not judged" in run("study", *words).stdout
    assert ok("study", "check", study, *trust)["signature"] == "holds"
    assert "not judged" not in run("study", "check", study, *trust).stdout
    assert ok("study", "check", root / "study.yaml")["signature"] == "none"


def test_nobody_answers_a_study_that_the_operator_did_not_sign(office: Office) -> None:
    root, out = office.root, office.root / "answer.json"
    payload = json.loads(parse_envelope(read_bytes(root / "study.json", "x"), "x").payload)
    forged = sealed(root / "forged.json", payload, load_signer(office.key("leeds", "signatory")))
    bare = root / "bare.json"
    bare.write_bytes(seal(payload).encode() + b"\n")
    dpo, signatory = ("--key", office.key("berlin", "dpo")), ("--key", office.key("berlin", "signatory"))
    commands = (
        ("advise", *dpo, "--favourable", "--text", "t"),
        ("refuse", *signatory, "--reason", "r"),
        ("withdraw", *signatory, "--reason", "r"),
    )
    for name, *options in commands:
        error = refused(1, "RSD-6011", "study", name, bare, *options, "--out", out)
        assert (error["found"], error["limit"]) == ("no signature", "the operator's signature")
        refused(1, "RSD-6011", "study", name, forged, *options, "--trust", office.trust, "--out", out)
        assert not out.exists()
        unjudged = ok("study", name, root / "study.json", *options, "--out", root / f"{name}.1.json")
        judged = ok(
            "study", name, root / "study.json", *options, "--trust", office.trust, "--out", root / f"{name}.2.json"
        )
        assert (unjudged["signature"], judged["signature"]) == ("not judged", "holds")
        said = run("study", name, root / "study.json", *options, "--out", root / f"{name}.3.json").stdout
        assert "signature  not judged" in said


def test_advice_on_another_study_shows_both_studies(office: Office) -> None:
    changed = resigned(office, "changed.json", description="Another.")
    advised, asked = (parse_envelope(read_bytes(p, "x"), "x").digest for p in (office.root / "study.json", changed))
    error = refused(4, "RSD-2202", *approve(office, study=changed))
    assert (error["found"], error["limit"]) == (f"study {advised[:12]}", f"study {asked[:12]}")


def test_a_study_that_is_over_is_not_signed(office: Office) -> None:
    path = write_yaml(office.root / "over.yaml", study_raw(starts="2020-01-01", ends="2020-02-01"))
    out = office.root / "over.json"
    refused(4, "RSD-2008", "study", "sign", path, "--key", office.operator_key, "--out", out)
    assert not out.exists()
