"""Packs, regions, strict YAML and the Cedar border: what is wrong is refused when it is loaded."""

from __future__ import annotations

import inspect
from pathlib import Path

import cedarpy
import pytest
import yaml

from compliance.clock import parse_time
from compliance.errors import InputError
from compliance.law import cedar_eval
from compliance.law.cedar_eval import CedarPack, compile_pack, load_policies
from compliance.law.facts import facts_of
from compliance.law.pack import Pack, builtin_packs, load_pack
from compliance.law.regions import in_region
from compliance.law.strict_yaml import parse_yaml
from tests.unit.law.law_cases import BASE, document, transfer

PACKS = builtin_packs()
EU = PACKS["eu"]._raw.decode()
RULE = EU[EU.index("  - id: eu.update.within") :].split("  - id:")[1]


def _edit(old: str, new: str) -> bytes:
    assert old in EU
    return EU.replace(old, new, 1).encode()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("title:", "colour: blue\ntitle:", "unknown field"),
        ("  - id: eu.update.within\n", "  - id: eu.update.within\n    colour: blue\n", "unknown field"),
        ("effect: deny", "effect: forbid", "effect"),
        ("unit: [record, patient]", "unit: [recordd]", "unit"),
        ("epsilon_milli_at_most: 8000", "epsilon_milli_at_most: 8.5", "epsilon_milli_at_most"),
        ("documents: [dpia,", "documents: [dpai,", "documents"),
        ("to_region: [EU_ADEQUATE]", "to_region: [EU_ADEQUAT]", "no region set"),
        ("id: eu.no-basis", "id: uk.no-basis", "begin with eu."),
        ("id: eu.no-basis", "id: eu.never-raw", "stand once"),
        ("id: eu.no-basis", "id: eu.expired", "engine's"),
        ("[raw_record, embedding, gradient]", "[raw_record, embedding]", "must deny"),
        ("[dp_update, metric]\n    purpose", "[dp_update, raw_record]\n    purpose", "no rule may allow"),
        ("[dp_update, metric]\n    purpose", '["*"]\n    purpose', "one by one"),
        ("expires_on: 2027-06-30", "expires_on: 2026-11-21", "verified_on"),
        ("confidence: medium\nverified", "confidence: high\nverified", "named reviewer"),
        ("jurisdictions: [AT,", "jurisdictions: [AUT,", "ISO 3166"),
        ("unless: {any_of: [[scc, tia], ", "unless: {any_of: [[], ", "always be met"),
        ("unless:", "requires:", "unless"),
    ],
)
def test_mistaken_pack_is_refused(old, new, said):
    with pytest.raises(InputError, match="RSD-3002") as e:
        load_pack(_edit(old, new))
    assert said in e.value.message


def test_low_confidence_may_deny_but_never_allow():
    low = RULE.replace("confidence: medium", "confidence: low")
    with pytest.raises(InputError, match="may deny, never allow"):
        load_pack(_edit(RULE, low))
    denying = EU.replace(
        "confidence: medium\n    source: GDPR Chapter V", "confidence: low\n    source: GDPR Chapter V"
    )
    assert denying != EU
    assert load_pack(denying.encode()).id == "eu"


@pytest.mark.parametrize(
    "text", ["a: 1\na: 2", "a: &x 1\nb: *x", "a: &x 1", "a:", "a: ~", "a: [", "\xff", "? [x]\n: 1", "a: b\n---\nc: d"]
)
def test_lax_yaml_is_refused(text):
    with pytest.raises(InputError, match="RSD-3001"):
        parse_yaml(text.encode("latin-1"), "file")


def test_yaml_keeps_norway_and_dates_as_text():
    value = parse_yaml(b"a: [NO, 2026-11-21, 12, 007, yes, true, '5']", "file")
    assert value == {"a": ["NO", "2026-11-21", 12, "007", "yes", True, "5"]}


@pytest.mark.parametrize(
    ("code", "name", "day", "expected"),
    [
        ("DE", "EEA", "2026-11-21", True),
        ("NO", "EEA", "2026-11-21", True),
        ("NO", "EEA", "2018-06-01", False),
        ("CH", "EEA", "2026-11-21", False),
        ("GB", "EEA", "2020-12-31", True),
        ("GB", "EEA", "2021-01-01", False),
        ("GB", "EU_ADEQUATE", "2021-06-27", False),
        ("GB", "EU_ADEQUATE", "2021-06-28", True),
        ("BR", "EU_ADEQUATE", "2026-01-27", False),
        ("BR", "EU_ADEQUATE", "2026-11-21", True),
        ("CN", "EU_ADEQUATE", "2026-11-21", False),
        ("IE", "UK_APPROVED", "2026-11-21", True),
        ("HK", "CN", "2026-11-21", False),
        ("XX", "ANY", "2026-11-21", True),
    ],
)
def test_regions_are_dated(code, name, day, expected):
    assert in_region(code, name, parse_time(day)) is expected


def test_unknown_region_is_an_error_not_a_no():
    with pytest.raises(InputError, match="RSD-3003"):
        in_region("DE", "EEAA", parse_time("2026-11-21"))


def test_packs_are_honest_drafts():
    for pack in PACKS.values():
        assert pack.draft
        assert pack.expires_on == "2027-06-30"
        assert pack.not_covered
        assert "compliant" not in pack._raw.decode().lower()
        for rule in pack.rules:
            assert rule.law or rule.house.note
            if rule.effect == "allow":
                assert rule.confidence == "medium"
                assert "November 2026, unreviewed" in rule.source


def test_cedar_policies_that_do_not_fit_the_schema_are_refused():
    policies = compile_pack(PACKS["eu"])
    load_policies(policies)
    broken = yaml.safe_load(yaml.safe_dump(policies).replace("attr: artifact", "attr: artefact"))
    with pytest.raises(InputError, match="RSD-3004"):
        load_policies(broken)
    with pytest.raises(InputError, match="RSD-3004"):
        load_policies({"eu.x": {"effect": "forbid"}})


def test_cedar_is_never_called_without_its_schema(monkeypatch):
    calls = []
    real = cedarpy.is_authorized

    def spy(*args, **kwargs):
        calls.append(kwargs)
        return real(*args, **kwargs)

    monkeypatch.setattr(cedarpy, "is_authorized", spy)
    leg = transfer("dp_update", "DE", "IE", [document(kind) for kind in BASE.split()])
    assert CedarPack(PACKS["eu"]).evaluate(facts_of(leg, leg.recipient)).allow
    assert [call["schema"] for call in calls] == [cedar_eval.SCHEMA]
    assert "schema" not in inspect.signature(CedarPack.__init__).parameters
    source = Path(cedar_eval.__file__).parent.rglob("*.py")
    assert sum(p.read_text().count("is_authorized(") for p in source) == 1


def test_a_request_that_the_schema_refuses_is_a_denial(monkeypatch):
    real = cedar_eval._context
    monkeypatch.setattr(cedar_eval, "_context", lambda facts: real(facts) | {"min_sites": "many"})
    leg = transfer("dp_update", "DE", "IE", [document(kind) for kind in BASE.split()])
    assert not CedarPack(PACKS["eu"]).evaluate(facts_of(leg, leg.recipient)).allow


def test_every_code_is_explained():
    codes = yaml.safe_load((Path(cedar_eval.__file__).parents[1] / "codes/law.yaml").read_text())
    assert set(codes) == {"RSD-3001", "RSD-3002", "RSD-3003", "RSD-3004"}
    assert all(set(entry) == {"title", "meaning", "next"} for entry in codes.values())


def test_a_pack_made_in_memory_is_not_intact():
    bare = Pack.model_validate(PACKS["jp"].model_dump(by_alias=True))
    assert not bare.is_intact()
    assert PACKS["jp"].is_intact()


@pytest.mark.parametrize(
    ("decision", "reasons", "errors", "allow"),
    [
        ("Allow", ["eu.update.within"], [], True),
        ("Allow", ["eu.update.within"], ["a forbid was skipped"], False),
        ("Allow", [], [], False),
        ("Deny", ["eu.no-basis"], [], False),
        ("NoDecision", [], ["no request"], False),
    ],
)
def test_only_allow_by_a_rule_without_an_error_is_an_allow(decision, reasons, errors, allow, monkeypatch):
    answer = cedarpy.AuthzResult({"decision": decision, "diagnostics": {"reason": reasons, "errors": errors}})
    monkeypatch.setattr(cedarpy, "is_authorized", lambda *_, **__: answer)
    leg = transfer("dp_update", "DE", "IE", [])
    assert CedarPack(PACKS["eu"]).evaluate(facts_of(leg, leg.recipient)).allow is allow
