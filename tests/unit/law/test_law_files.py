"""Packs, region sets, strict YAML and the Cedar border: what is wrong is refused when it is loaded, file and line."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import cedarpy
import pytest
import yaml

from compliance.clock import parse_time
from compliance.errors import InputError
from compliance.law import cedar_eval
from compliance.law.cedar_eval import CedarPack, compile_pack, load_policies
from compliance.law.countries import COUNTRIES
from compliance.law.facts import facts_of
from compliance.law.pack import Pack, builtin_packs, load_pack
from compliance.law.regions import load_regions
from compliance.law.strict_yaml import parse_yaml
from tests.unit.law.small_packs import ALPHA_TEXT, BETA_TEXT, GAMMA_TEXT, PACKS, REGIONS, REGIONS_TEXT, transfer

LEG = transfer("dp_update", "DE FR", "dpia art6_basis ethics")
_RULE = "  - id: alpha.update.within\n    effect: allow\n"
_NO_LAW = "law: [Act 6]\n    house: {documents: [ethics], unit: [patient]}"


def _refused(folder: Path, text: str, old: str, new: str, load) -> tuple[str, int]:
    """The message for `text` with one passage changed, and the line on which the change stands."""
    assert text.count(old) >= 1, old
    path = folder / "file.yaml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    line = text[: text.index(old)].count("\n") + 1
    with pytest.raises(InputError, match="RSD-3002") as e:
        load(path)
    assert "file.yaml" in e.value.message
    return e.value.message, line


@pytest.mark.parametrize(
    ("old", "new", "said", "after"),
    [
        ("title:", "colour: blue\ntitle:", "colour: unknown field", 0),
        (_RULE, f"{_RULE}    colour: blue\n", "colour: unknown field", 2),
        ("effect: deny", "effect: forbid", "effect", 0),
        ("unit: [record, patient]", "unit: [recordd]", "unit", 0),
        ("epsilon_milli_at_most: 8000", "epsilon_milli_at_most: 8.5", "epsilon_milli_at_most", 0),
        ("documents: [dpia,", "documents: [dpai,", "documents", 0),
        ("artifact: [dp_update, metric]", "artifact: [dp_updat, metric]", "artifact", 0),
        ("purpose: [scientific_research]", "purpose: [research]", "purpose", 0),
        ("to_region: [HOME, GOOD]", "to_region: [HOME, GOODD]", "to_region[1]: there is no region set GOODD", 0),
        ("keys_within: [HOME, GOOD]", "keys_within: [HOME, COVERED_PERSON]", "no region set COVERED_PERSON", 0),
        ("id: alpha.no-basis", "id: beta.no-basis", "begin with alpha.", 0),
        ("id: alpha.no-basis", "id: alpha.never-raw", "stand once", 0),
        ("id: alpha.no-basis", "id: alpha.expired", "engine's", 0),
        ("\nid: alpha", "\nid: engine", "no name for a pack", 1),
        ("[raw_record, embedding, gradient]", "[raw_record, embedding]", "must deny", None),
        ("artifact: [dp_update]", "artifact: [raw_record]", "no rule may allow", None),
        ("artifact: [dp_update]", "artifact: [support_file]", "no rule may allow", None),
        ("artifact: [dp_update]", "artifact: [plain_update]", "no rule may allow", None),
        ("artifact: [dp_update]", 'artifact: ["*"]', "one by one", None),
        (_NO_LAW.replace("6", "46"), _NO_LAW.replace("Act 6", ""), "citation is missing", None),
        ("law: [Act 44]", "law: []", "citation is missing", None),
        ('house: {note: "They hold no patient data."}', "house: {}", "citation is missing", None),
        ("expires_on: 2027-06-30", "expires_on: 2018-05-25", "verified_on must come before", 0),
        ("expires_on: 2026-12-01", "expires_on: 2027-12-01", "with its pack at the latest", 0),
        ("expires_on: 2026-12-01", "expires_on: 2026-11-31", "day is out of range", 0),
        ("confidence: medium\nverified", "confidence: high\nverified", "named reviewer", 0),
        ("confidence: medium\n    source_kind", "confidence: high\n    source_kind", "named reviewer", 0),
        ("source_kind: secondary", "source_kind: memory", "has confidence low", None),
        ("source_kind: secondary", "source_kind: hearsay", "source_kind", 0),
        ("[DE, FR]\nversion", "[DE, UK]\nversion", "ISO 3166", 0),
        ("[DE, FR]\nversion", "[DE, DE]\nversion", "twice", 0),
        ("binds: all", "binds: declared", "needs binds_note", 0),
        ("unless: {any_of: [[scc, tia], ", "unless: {any_of: [[], ", "always be met", 0),
        ("unless:", "requires:", "a deny rule has unless", None),
        ("requires:", "over: {counter: us_12_months, above: 1}\n    requires:", "over belongs to deny", None),
        ("requires:", "unless:", "an allow rule has requires", None),
        ("artifact: [dp_update]", "category: [helth]\n    artifact: [dp_update]", "category", 0),
        ("artifact: [dp_update]", "retention: [decisions]\n    artifact: [dp_update]", "retention", 0),
    ],
    ids=lambda v: re.sub(r"\W+", "-", v)[:30] if isinstance(v, str) else "",
)
def test_mistaken_pack_is_refused_with_file_and_line(old, new, said, after, tmp_path):
    """`after`: lines from the change to the mistake; None: the mistake is the rule's, and is named at its start."""
    message, line = _refused(tmp_path, ALPHA_TEXT, old, new, lambda p: load_pack(p, REGIONS))
    assert said in message
    if after is None:
        assert re.search(r"line \d+: rules", message)
    else:
        assert f"line {line + after}: " in message


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("counter: us_12_months", "counter: us_months", "counter"),
        ("above: 10000", "above: -1", "above"),
        ("above: 10000}", "above: 10000, below: 3}", "unknown field"),
    ],
)
def test_mistaken_threshold_is_refused(old, new, said, tmp_path):
    message, line = _refused(tmp_path, BETA_TEXT, old, new, lambda p: load_pack(p, REGIONS))
    assert said in message
    assert f"line {line}: " in message


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("effect: deny", "effect: allow", "one by one"),
        ("gamma.no-reviewed-pack", "gamma.nothing", "the last rule of a pack of facts"),
        ('["*"]\n    purpose', "[dp_update]\n    purpose", "the last rule of a pack of facts"),
        ("to_region: [ANY]", "to_region: [HOME]", "the last rule of a pack of facts"),
        ("to_region: [ANY]", "to_region: [ANY]\n    to_region_except: [HOME]", "the last rule of a pack of facts"),
        ("to_region: [ANY]", "to_region: [ANY]\n    category: [health]", "the last rule of a pack of facts"),
        ("to_region: [ANY]", "to_region: [ANY]\n    unless: {documents: [scc]}", "the last rule of a pack of facts"),
        ('house: {note: "Without rules nothing leaves."}', "house: {}", "the last rule of a pack of facts"),
        ("from_region: [IN]", "from_region: [US]", "leaves out ['IN']"),
    ],
)
def test_a_pack_of_facts_denies_everything(old, new, said, tmp_path):
    message, _ = _refused(tmp_path, GAMMA_TEXT, old, new, lambda p: load_pack(p, REGIONS))
    assert said in message


def test_low_confidence_may_deny_but_never_allow():
    low = "confidence: low\n    source_kind: memory"
    said = "confidence: medium\n    source_kind: secondary"
    head, rule, tail = ALPHA_TEXT.partition("  - id: alpha.update.within")
    with pytest.raises(InputError, match="may deny, never allow"):
        load_pack((head + rule + tail.replace(said, low, 1)).encode(), REGIONS)
    head, rule, tail = ALPHA_TEXT.partition("  - id: alpha.no-basis")
    assert load_pack((head + rule + tail.replace(said, low, 1)).encode(), REGIONS).rules[1].confidence == "low"


_FACTS = """\
retention:
  - {classes: [transfer], floor_days: 3650, law: [Act 9], confidence: low, source_kind: memory, source: From memory.}
deadlines:
  - {event: a breach, within: 72 hours, who: controller, law: [Act 33], confidence: low, source_kind: memory, source: From memory.}
"""  # noqa: E501


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("floor_days: 3650, ", "", "either floor_days or ceiling_days"),
        ("floor_days: 3650", "floor_days: 3650, ceiling_days: 9", "either floor_days or ceiling_days"),
        ("[transfer]", "[transfers]", "classes"),
        ("floor_days: 3650", "floor_days: 3650, binds: declared", "binds declared, and only that, needs who"),
        ("floor_days: 3650", "floor_days: 3650, who: It binds some.", "binds declared, and only that, needs who"),
        ("floor_days: 3650", "floor_days: 3650, binds: declared, who: some", "who"),
        ("floor_days: 3650", 'floor_days: 3650, since: "2027-02-30"', "since"),
        ("within: 72 hours", 'within: 72 hours, since: "soon"', "since"),
        ("law: [Act 9]", "law: []", "citation is missing"),
        ("law: [Act 33]", "law: []", "citation is missing"),
        ("confidence: low", "confidence: medium", "has confidence low"),
        ("within: 72 hours, ", "", "missing"),
    ],
)
def test_mistaken_facts_are_refused(old, new, said, tmp_path):
    pack = load_pack((ALPHA_TEXT + _FACTS).encode(), REGIONS)
    assert (pack.retention[0].floor_days, pack.deadlines[0].within) == (3650, "72 hours")
    message, line = _refused(tmp_path, ALPHA_TEXT + _FACTS, old, new, lambda p: load_pack(p, REGIONS))
    assert said in message
    assert f"line {line}: " in message


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[DE, FR]", "[DE, FRA]", "FRA is no country code"),
        ("[DE, FR]", "[DE, UK]", "UK is no country code"),
        ("[DE, FR]", "[DE, DE]", "a member already"),
        ("[GB], since: 2018-05-25", "[DE], since: 2018-05-25", "a member already"),
        ("[BR], since: 2026-01-28}", "[BR, JP], since: 2030-01-01}", "JP is a member already"),
        ("until: 2021-01-01", "until: 2018-05-25", "until must come after since"),
        ("since: 2026-01-28", "since: 2026-02-30", "day is out of range"),
        ("since: 2026-01-28", "from: 2026-01-28", "unknown field"),
        ("  IN:", "  ANY:", "the engine's"),
        ("  IN:", "  COVERED_PERSON:", "the engine's"),
    ],
)
def test_mistaken_region_sets_are_refused_with_file_and_line(old, new, said, tmp_path):
    message, line = _refused(tmp_path, REGIONS_TEXT, old, new, load_regions)
    assert said in message
    assert f"line {line}: " in message


def test_a_code_may_leave_a_set_and_come_back():
    gap = REGIONS_TEXT.replace("until: 2021-01-01}", "until: 2021-01-01}\n      - {codes: [GB], since: 2021-01-01}")
    assert "HOME" in load_regions(gap.encode()).of("GB", parse_time("2022-01-01").date())


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: 2\na: 2", 3),
        ("a: &x 1\nb: *x", 1),
        ("a: 1\nb: &x 1", 2),
        ("a:\n", 1),
        ("a: 1\nb: ~", 2),
        ("a: [", None),
        ("\xff", None),
        ("? [x]\n: 1", 1),
        ("a: b\n---\nc: d", 2),
        ("a: !!int '5'", 1),
        ("a: !!python/none x", 1),
        ("a: " + "[" * 80 + "]" * 80, 1),
        ("- " * 10_000 + "x", 1),
    ],
    ids=lambda v: re.sub(r"\W+", "-", v)[:20] if isinstance(v, str) else str(v),
)
def test_lax_yaml_is_refused(text, line):
    with pytest.raises(InputError, match="RSD-3001") as e:
        parse_yaml(text.encode("latin-1"), "file.yaml")
    assert e.value.message.startswith("file.yaml")
    assert line is None or f" line {line}: " in e.value.message


def test_yaml_keeps_norway_and_dates_as_text_and_knows_the_lines():
    file = parse_yaml(b"a: [NO, 2026-11-21, 12, 007, yes, true, '5', 1_0]\nb:\n  - c: x\n    d: y\n", "file")
    assert file.value["a"] == ["NO", "2026-11-21", 12, "007", "yes", True, "5", "1_0"]
    assert [file.lines[name] for name in ("a", "a[6]", "b", "b[0]", "b[0].c", "b[0].d")] == [1, 1, 2, 3, 3, 4]


@pytest.mark.parametrize(
    ("code", "name", "day", "inside"),
    [
        ("DE", "HOME", "2018-05-24", False),
        ("DE", "HOME", "2018-05-25", True),
        ("GB", "HOME", "2020-12-31", True),
        ("GB", "HOME", "2021-01-01", False),
        ("BR", "GOOD", "2026-01-27", False),
        ("BR", "GOOD", "2026-01-28", True),
        ("CN", "GOOD", "2026-11-21", False),
        ("XX", "ANY", "2026-11-21", True),
    ],
)
def test_regions_are_dated(code, name, day, inside):
    on = parse_time(day).date()
    assert (name in REGIONS.of(code, on)) is inside
    assert code == "XX" or (code in REGIONS.members(name, on)) is inside


def test_unknown_region_is_an_error_not_a_no():
    with pytest.raises(InputError, match="RSD-3003"):
        REGIONS.members("HOMEE", parse_time("2026-11-21").date())
    assert REGIONS.members("ANY", parse_time("2026-11-21").date()) == COUNTRIES


def test_builtin_packs_load_against_the_builtin_regions_and_compile():
    packs = builtin_packs()
    assert {"eu", "uk", "jp", "cn"} <= set(packs)
    for pack in packs.values():
        assert pack.is_intact()
        assert pack.not_covered
        assert CedarPack(pack)
        assert "compliant" not in pack.raw.decode().lower()
    assert load_regions() is load_regions(None)


def test_cedar_policies_that_do_not_fit_the_schema_are_refused():
    policies = compile_pack(PACKS["alpha"])
    load_policies(policies)
    broken = yaml.safe_load(yaml.safe_dump(policies).replace("attr: artifact", "attr: artefact"))
    with pytest.raises(InputError, match="RSD-3004"):
        load_policies(broken)
    with pytest.raises(InputError, match="RSD-3004"):
        load_policies({"alpha.x": {"effect": "forbid"}})


def test_cedar_reads_no_optional_value_that_was_not_tested_first():
    """Cedar skips a forbid that errors, so a count that may be absent must be guarded, or validation refuses it."""
    window = {".": {"left": {"Var": "context"}, "attr": "us_12_months"}}
    above = {">": {"left": {".": {"left": window, "attr": "at_most"}}, "right": {"Value": 1}}}
    with pytest.raises(InputError, match="RSD-3004"):
        load_policies({"x.y": cedar_eval._policy("forbid", above)})


def test_cedar_is_never_called_without_its_schema(monkeypatch):
    calls = []
    real = cedarpy.is_authorized

    def spy(*args, **kwargs):
        calls.append(kwargs)
        return real(*args, **kwargs)

    monkeypatch.setattr(cedarpy, "is_authorized", spy)
    assert CedarPack(PACKS["alpha"]).evaluate(facts_of(LEG, LEG.recipient, REGIONS)).allow
    assert [call["schema"] for call in calls] == [cedar_eval.SCHEMA]
    assert "schema" not in inspect.signature(CedarPack.__init__).parameters
    source = Path(cedar_eval.__file__).parent.rglob("*.py")
    assert sum(p.read_text().count("is_authorized(") for p in source) == 1


@pytest.mark.parametrize("wrong", [{"min_sites": "many"}, {"colour": "blue"}, {"us_12_months": {"at_most": 3}}])
def test_a_request_that_the_schema_refuses_is_a_denial(wrong, monkeypatch):
    real = cedar_eval._context
    monkeypatch.setattr(cedar_eval, "_context", lambda facts: real(facts) | wrong)
    assert not CedarPack(PACKS["alpha"]).evaluate(facts_of(LEG, LEG.recipient, REGIONS)).allow


def test_every_code_is_explained():
    codes = yaml.safe_load((Path(cedar_eval.__file__).parents[1] / "codes/law.yaml").read_text())
    assert {"RSD-3001", "RSD-3002", "RSD-3003", "RSD-3004", "RSD-3050", "RSD-3051"} <= set(codes)
    assert all(set(entry) == {"title", "meaning", "next"} for entry in codes.values())


def test_a_pack_made_in_memory_is_not_intact():
    bare = Pack.model_validate(PACKS["gamma"].model_dump(by_alias=True))
    assert not bare.is_intact()
    assert bare.digest == ""
    assert PACKS["gamma"].is_intact()


@pytest.mark.parametrize(
    ("decision", "reasons", "errors", "allow"),
    [
        ("Allow", ["alpha.update.within"], [], True),
        ("Allow", ["alpha.update.within"], ["a forbid was skipped"], False),
        ("Allow", [], [], False),
        ("Deny", ["alpha.no-basis"], [], False),
        ("NoDecision", [], ["no request"], False),
    ],
)
def test_only_allow_by_a_rule_without_an_error_is_an_allow(decision, reasons, errors, allow, monkeypatch):
    answer = cedarpy.AuthzResult({"decision": decision, "diagnostics": {"reason": reasons, "errors": errors}})
    monkeypatch.setattr(cedarpy, "is_authorized", lambda *_, **__: answer)
    assert CedarPack(PACKS["alpha"]).evaluate(facts_of(LEG, LEG.recipient, REGIONS)).allow is allow
