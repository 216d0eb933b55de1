"""`residency law list|show|check|diff|matrix|review`, by the command line."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import yaml

from compliance.commands.law_site import every_pack
from compliance.law import check as checking
from compliance.law import timing
from compliance.law.check import Checked, load_files
from compliance.law.facts import legs_of
from compliance.law.pack import builtin_packs
from compliance.law.proofs import STATEMENTS, Proof
from compliance.law.review import lines_of, review, sendings
from compliance.study import Study
from compliance.study_file import check_file
from tests.desk import ok, refused, run

ROOT = Path(__file__).parents[3]
PACKS = builtin_packs()
AT = "2026-11-22T12:00:00Z"


@pytest.fixture(scope="module")
def files():
    return load_files(None)


@pytest.fixture
def quick(monkeypatch):
    """The proofs and the timing have tests of their own; here all is proved, and a decision takes 1 ms."""
    said = tuple(Proof(name, says, True) for name, (says, _) in STATEMENTS.items())
    monkeypatch.setattr(checking, "prove", lambda *_: said)
    monkeypatch.setattr(checking, "decision_seconds", lambda *_: [0.001])


def test_list_names_every_pack_and_that_nobody_reviewed_it():
    shown = ok("law", "list")["packs"]
    assert [p["id"] for p in shown] == list(PACKS)
    assert all(p["sha256"] == PACKS[p["id"]].digest for p in shown)
    lines = run("law", "list").output.splitlines()
    assert all("DRAFT, no counsel" in line for line in lines[1:] if PACKS[line.split()[0]].draft)


def test_show_keeps_law_and_house_apart():
    text = run("law", "show", "eu", "--rule", "eu.never-raw").output
    law, house = (next(line for line in text.splitlines() if line.split()[:1] == [word]) for word in ("law", "house"))
    assert "GDPR" in law
    assert "GDPR" not in house
    whole = run("law", "show", "us-202").output
    assert all(rule.id in whole and rule.source in whole for rule in PACKS["us-202"].rules)
    assert all(text in whole for text in PACKS["us-202"].not_covered)


def test_show_of_what_is_not_there():
    refused(3, "RSD-3071", "law", "show", "atlantis")
    refused(3, "RSD-3071", "law", "show", "eu", "--rule", "eu.nothing")


@pytest.mark.usefixtures("quick")
def test_check_has_exactly_the_fields():
    found = ok("law", "check")
    assert set(found) - {"schema", "ok", "error"} == {
        *("packs", "reviewed_rules", "rules", "primary_sourced", "cases", "cases_passed"),
        *("proofs", "decision_us_p50"),
    }
    assert found["packs"] == len(PACKS)
    assert found["cases"] == found["cases_passed"] >= 120
    assert [set(p) for p in found["proofs"]] == [{"name", "proved"}] * len(STATEMENTS)
    assert found["decision_us_p50"] == 1000


def test_decisions_are_timed_warm_and_wherever_a_full_pack_binds(files, monkeypatch):
    homes = {code for pack in PACKS.values() if pack.kind == "full" for code in pack.jurisdictions}
    decided, clock = [], iter(range(10**6))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(timing.Engine, "decide", lambda _, sent: decided.append(sent.exporter.jurisdiction))
    seconds = timing.decision_seconds(files.packs, files.cases)
    assert len(seconds) >= 2_000
    assert set(seconds) == {1}  # two readings of the clock a decision
    assert len(decided) > len(seconds)
    assert set(decided[-len(seconds) :]) == homes
    assert timing.decision_seconds(files.packs, ()) == []


def test_a_decision_takes_less_than_a_round_of_a_study_would_notice(files, monkeypatch):
    monkeypatch.setattr(timing, "SAMPLES", 60)
    assert 0 < statistics.median(timing.decision_seconds(files.packs, files.cases, files.regions)) < 0.1


@pytest.mark.usefixtures("quick")
def test_check_of_a_folder_with_a_weaker_pack_fails_and_shows_the_case(tmp_path):
    text = PACKS["eu"].raw.decode().replace("epsilon_milli_at_most: 8000", "epsilon_milli_at_most: 80000")
    (tmp_path / "eu.yaml").write_text(text, encoding="utf-8")
    found = refused(1, "RSD-3072", "law", "check", "--packs", tmp_path)
    assert "eu." in found["found"]
    refused(3, "RSD-3070", "law", "check", "--packs", tmp_path / "nothing")
    (tmp_path / "copy.yaml").write_text(text, encoding="utf-8")
    refused(3, "RSD-3070", "law", "check", "--packs", tmp_path)


def test_an_unproved_statement_fails_and_prints_its_case(monkeypatch, files):
    false = Proof("eea-basis", "nothing leaves", False, "on 2026-11-22: it leaves: {artifact: metric}")
    monkeypatch.setattr(checking, "check", lambda _: Checked(files, (), (false,), 1))
    refused(1, "RSD-3072", "law", "check")
    assert "counter-example to eea-basis: on 2026-11-22: it leaves: {artifact: metric}" in run("law", "check").output


def test_without_the_solver_check_says_what_to_install():
    program = (
        "import sys; sys.modules['z3'] = None; sys.argv = ['residency', 'law', 'check', '--json'];"
        " import residency; residency.main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 7, done.stderr
    error = json.loads(done.stdout)["error"]
    assert (error["code"], error["next"]) == ("RSD-7002", "pip install 'residency[proofs]'")


def test_a_command_of_the_group_starts_quickly():
    started = time.perf_counter()
    subprocess.run([sys.executable, "residency.py", "law", "--help"], capture_output=True, check=True, cwd=ROOT)
    heavy = "import sys, compliance.commands.law; print([m for m in ('z3', 'cedarpy', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
    assert time.perf_counter() - started < 10


def test_diff_tells_rules_cases_and_a_transfer(tmp_path):
    old = PACKS["eu"].raw.decode()
    new = tmp_path / "new.yaml"
    new.write_text(old.replace("epsilon_milli_at_most: 8000", "epsilon_milli_at_most: 9000"), encoding="utf-8")
    found = ok("law", "diff", "eu", new)
    assert {c["kind"] for c in found["changes"]} == {"changed"}
    assert all(f["field"] == "house.epsilon_milli_at_most" for c in found["changes"] for f in c["fields"])
    assert any("allow" in c["new"] and "deny" in c["old"] for c in found["cases"])
    assert "artifact" in found["allows"]
    assert found["refuses"].startswith("nothing")
    same = ok("law", "diff", "eu", "eu")
    assert (same["changes"], same["cases"]) == ([], [])
    refused(3, "RSD-3071", "law", "diff", "eu", "uk")


def test_diff_names_rules_that_are_new_or_gone(tmp_path):
    value = PACKS["in"].raw.decode()
    new = tmp_path / "new.yaml"
    new.write_text(value.replace(PACKS["in"].rules[0].id, "in.another-name"), encoding="utf-8")
    kinds = {(c["what"], c["kind"]) for c in ok("law", "diff", "in", new)["changes"]}
    assert kinds == {("in.another-name", "new"), (PACKS["in"].rules[0].id, "gone")}


def _cells(*args: object) -> dict[tuple[str, str], dict]:
    found = ok("law", "matrix", *args, "--at", AT)
    return {(c["from"], c["to"]): c for c in found["cells"]}


def test_matrix_says_what_must_be_on_file():
    cells = _cells("dp_update", "--from", "DE,IN", "--to", "FR,JP,CN,DE")
    assert cells["IN", "DE"]["state"] == "never"
    assert cells["IN", "DE"]["rules"] == ["in.no-reviewed-pack"]
    states = {to: cells["DE", to]["state"] for to in ("DE", "FR", "JP", "CN")}
    assert states == {"DE": "home", "FR": "home", "JP": "basis", "CN": "basis"}
    assert "adequacy_confirmation" not in cells["DE", "FR"]["papers"]
    assert "adequacy_confirmation" in cells["DE", "JP"]["papers"]
    assert "tia" in cells["DE", "CN"]["papers"]
    raw = _cells("raw_record", "--from", "DE,US", "--to", "DE,US")
    assert {c["state"] for c in raw.values()} == {"never"}
    (roster,) = _cells("roster", "--from", "DE", "--to", "FR").values()
    assert (roster["state"], roster["papers"], roster["limits"], roster["counted"]) == ("home", [], [], False)


def test_matrix_counts_persons_where_the_law_does():
    assert _cells("dp_update", "--from", "US", "--to", "CN")["US", "CN"]["counted"]
    assert not _cells("dp_update", "--from", "DE", "--to", "FR")["DE", "FR"]["counted"]


def test_matrix_marks_say_how_much_is_asked(tmp_path):
    asked = ("law", "matrix", "dp_update", "--from", "DE,US,CN,IN", "--to", "DE,US,CN", "--at", AT)
    text = run(*asked).output
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines()[2:6]}
    cells = {(c["from"], c["to"]): c for c in ok(*asked)["cells"]}
    letters = {"home": "H", "papers": "P", "basis": "T", "never": "X"}
    for (exporter, to), cell in cells.items():
        mark = rows[exporter][("DE", "US", "CN").index(to)]
        assert mark[0] == letters[cell["state"]]
        assert mark.endswith("#") == cell["counted"]
        assert re.search(rf"^ {mark} +\S", text, re.MULTILINE)  # the legend has it
    assert all(cells[code, code]["state"] == "home" for code in ("DE", "US", "CN"))
    assert cells["US", "DE"]["counted"]
    assert {row[0] for row in rows["IN"]} == {"X"}
    assert "# denied once too many persons are counted" in text
    assert " .  nothing is asked" in run("law", "matrix", "roster", "--from", "DE", "--to", "FR").output
    out = tmp_path / "m.svg"
    ok(*asked, "--out", out)
    drawn = [e.text for e in ET.fromstring(out.read_text(encoding="utf-8")).iter() if e.tag.endswith("}text")]  # noqa: S314
    assert all(mark in drawn for row in rows.values() for mark in row)
    grounds = re.findall(r'fill="(#[0-9a-f]{6})" stroke', out.read_text(encoding="utf-8"))
    grey = sorted({0.299 * int(g[1:3], 16) + 0.587 * int(g[3:5], 16) + 0.114 * int(g[5:], 16) for g in grounds})
    assert len(grey) == 4
    assert min(b - a for a, b in pairwise(grey)) > 15  # told apart in grey too


def test_matrix_as_a_picture_that_needs_no_colour(tmp_path):
    out = tmp_path / "m.svg"
    ok("law", "matrix", "dp_update", "--from", "DE,IN", "--to", "FR,CN", "--at", AT, "--out", out)
    text = out.read_text(encoding="utf-8")
    root = ET.fromstring(text)  # noqa: S314 - what this program wrote itself
    names = [e.tag.split("}")[1] for e in root.iter()]
    assert {"title", "desc"} <= set(names)
    assert not {"script", "style", "image", "use", "a"} & set(names)
    assert "DE to FR: on file:" in text
    assert "IN to FR: never, by in.no-reviewed-pack" in text
    assert text.count("stroke-dasharray") > 0  # states differ by border and mark, not by colour alone
    refused(3, "RSD-2009", "law", "matrix", "dp_update", "--out", out)


def test_matrix_refuses_what_is_no_country():
    refused(3, "RSD-3073", "law", "matrix", "dp_update", "--from", "Germany")


def test_matrix_under_one_sites_law_set(tmp_path):
    out = tmp_path / "set.json"
    ok("law", "init", "--site", "berlin", "--jurisdiction", "DE", "--out", out)
    cells = _cells("dp_update", "--law", out, "--to", "FR")
    assert list(cells) == [("DE", "FR")]


class _Page(HTMLParser):
    """Tags and text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&</td>"


def _study(tmp_path: Path, **changed: object) -> Path:
    study = yaml.safe_load((ROOT / "examples" / "study.yaml").read_text(encoding="utf-8"))
    study |= changed
    for document in study["documents"]:
        document["file"] = str(ROOT / "examples" / document["file"])
        document["title"] = HOSTILE
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study), encoding="utf-8")
    return path


def test_review_is_one_page_without_script_and_everything_is_escaped(tmp_path):
    out = tmp_path / "review.html"
    study = _study(tmp_path, description=HOSTILE, controllers=[HOSTILE])
    found = ok("law", "review", study, "--out", out, "--at", AT)
    page = _Page()
    page.feed(out.read_text(encoding="utf-8"))
    assert not {"script", "img", "iframe", "link", "object", "form"} & {tag for tag, _ in page.tags}
    assert not [a for _, attrs in page.tags for a in attrs if a.startswith("on") or a in {"src", "href"}]
    text = "".join(page.text)
    assert text.count(HOSTILE) >= 3
    assert "DRAFT, no counsel" in text
    assert all(pack.not_covered[0] in text for pack in (PACKS["eu"], PACKS["uk"], PACKS["jp"]))
    assert found["sites"] == ["berlin", "lyon", "leeds", "osaka"]
    assert "@media print" in out.read_text(encoding="utf-8")
    refused(3, "RSD-2009", "law", "review", study, "--out", out)


def test_review_names_what_lacks_and_who_could_reach_it(tmp_path):
    operator = {"name": "hub", "jurisdiction": "IE", "access": ["IN"]}
    out = tmp_path / "review.html"
    found = ok("law", "review", _study(tmp_path, operator=operator), "--out", out, "--at", AT)
    text = out.read_text(encoding="utf-8")
    assert found["denied"] > 0
    assert "hub (IN), can reach what it holds from here" in text
    assert "eu.<wbr>no-basis" in text
    assert re.search(r"<h3>Missing</h3>.*scc", text)


def _two_places(place: str) -> Study:
    _, study = check_file(ROOT / "examples" / "two-places" / f"{place}.yaml")
    assert study is not None
    return study


def test_review_decides_each_holder_alone_and_says_what_is_held():
    (berlin,) = review(_two_places("singapore"), every_pack().engine, ("berlin",), AT)
    found = {(x.artifact, x.holder.name): x for x in berlin.lines}
    assert (found["dp_update", "hub"].outcome, found["dp_update", "hub"].rules) == ("deny", ("eu.no-basis",))
    lyon = found["dp_update", "lyon"]
    assert (lyon.outcome, lyon.rules, lyon.via) == ("held", ("eu.update.within",), "onward")
    assert [p.name for p in lyon.held_by] == ["hub"]
    assert found["aggregate", "lyon"].outcome == "allow"  # the operator's own denial is another sending
    assert {x.holder.name for x in berlin.of("deny")} == {"hub"}
    assert sum(len(berlin.of(o)) for o in ("allow", "held", "deny")) == len(berlin.lines) == 18


@pytest.mark.parametrize("access", [(), ("IN",), ("US", "CN")], ids=["none", "india", "two"])
@pytest.mark.parametrize("place", ["ireland", "singapore"])
def test_review_denies_a_holder_exactly_where_the_engine_denies_the_whole(place, access):
    engine, study = every_pack().engine, _two_places(place)
    operator = study.operator.model_copy(update={"access": access})
    study = study.model_copy(update={"operator": operator})
    for terms in study.sites:
        for sent in sendings(study, terms, AT):
            lines, whole = list(lines_of(sent, engine)), engine.decide(sent)
            assert [(x.holder.name, x.holder.jurisdiction, x.via) for x in lines] == [
                (party.name, party.jurisdiction, via) for party, via in legs_of(sent)
            ]
            assert all(x.decision.allow for x in lines) == whole.allow
            for line, leg in zip(lines, whole.legs, strict=False):  # the engine stops at its first denial
                assert (line.decision.effect, line.rules) == (leg.effect, leg.rules)


def test_the_page_groups_what_is_equal_and_says_each_rule_once(tmp_path):
    out = tmp_path / "r.html"
    ok("law", "review", ROOT / "examples" / "two-places" / "singapore.yaml", "--out", out, "--at", AT)
    text = out.read_text(encoding="utf-8")
    rules = {rule.id: rule for rule in PACKS["eu"].rules}
    for name in ("eu.no-basis", "eu.update.within", "eu.administration"):
        assert text.count(escape(rules[name].plain, quote=True)) == 1
    rows = re.findall(r"<tr class='(allow|held|deny)'>(.*?)</tr>", text)
    assert [kind for kind, _ in rows] == ["deny", "held", "allow", "allow"] * 2
    assert "the site&#x27;s noised update" in rows[0][1]
    assert "(dp_update)" in rows[0][1]
    assert "HELD" in rows[1][1]
    assert "while denied: hub (SG)" in rows[1][1]
    missing = re.findall(r"<h3>Missing</h3>(.*?)</table>", text)
    assert len(missing) == 2
    assert not any("for lyon" in part or "for berlin" in part for part in missing)
    head, rest = text.split("<h2>How long records are kept</h2>")
    assert "<b>May bind:</b> at least 3653 days by eu" in rest
    assert all(escape(one.event, quote=True) in head.split("<h2>Deadlines</h2>")[1] for one in PACKS["eu"].deadlines)


def test_no_word_of_the_page_is_broken_but_digests(tmp_path):
    out = tmp_path / "r.html"
    ok("law", "review", ROOT / "examples" / "two-places" / "singapore.yaml", "--out", out, "--at", AT)
    text = out.read_text(encoding="utf-8")
    assert re.findall(r"([^{}\n]*)\{overflow-wrap:anywhere\}", text) == [".digest"]
    assert "word-break" not in text
    assert "thead{display:table-header-group}" in text
    assert "size:" not in re.findall(r"@page\{[^}]*", text)[0].replace("font-size:", "")  # A4 and Letter
    tables = re.findall(r"<table>(.*?)</table>", text)
    assert all("<thead>" in one for one in tables[1:])
    assert all("<colgroup>" in one for one in tables)
    for digest in re.findall(r"[0-9a-f]{64}", text):
        assert re.search(rf"<span class='[a-z ]*digest'>[^<]*{digest}", text)


def test_review_for_one_site(tmp_path):
    law, out = tmp_path / "set.json", tmp_path / "review.html"
    ok("law", "init", "--site", "lyon", "--jurisdiction", "FR", "--out", law)
    found = ok("law", "review", _study(tmp_path), "--law", law, "--out", out, "--at", AT)
    assert found["sites"] == ["lyon"]
    ok("law", "init", "--site", "stranger", "--jurisdiction", "FR", "--out", tmp_path / "other.json")
    refused(3, "RSD-3074", "law", "review", _study(tmp_path), "--law", tmp_path / "other.json", "--out", tmp_path / "x")


def test_review_of_a_study_with_mistakes(tmp_path):
    refused(3, "RSD-2007", "law", "review", _study(tmp_path, purpose="profit"), "--out", tmp_path / "x.html")


def test_a_checked_state_fails_on_either(files):
    good = Checked(files, (), (Proof("a", "b", True),), 1)
    assert good.passed
    assert not replace(good, proofs=(Proof("a", "b", False),)).passed
