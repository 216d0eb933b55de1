"""The second evaluator: the same rules compiled to Cedar and judged by its authorizer.

Cedar skips a policy that errors, so a broken `forbid` fails open without a schema. Therefore: every policy set is
validated against the schema when it is loaded, every request is judged with it, and anything but Allow without one
error is a denial. Cedar has no floats: epsilon in thousandths. https://docs.cedarpolicy.com
"""

from __future__ import annotations

import json
from functools import lru_cache

import cedarpy

from compliance.canonical import Json
from compliance.clock import parse_time
from compliance.errors import InputError
from compliance.law.facts import Facts
from compliance.law.model import MOST_KEYS
from compliance.law.pack import Pack
from compliance.law.python_eval import Verdict
from compliance.law.regions import ANY
from compliance.law.rule import Limits, Requires, Rule
from compliance.law.vocabulary import COUNTERS

# Cedar has no loop over a set of entities, so every place of a key has an attribute of its own.
_KEYS = tuple(f"key_{i}" for i in range(MOST_KEYS))
SCHEMA = cedarpy.Schema.from_str(f"""
entity Region;
entity Jurisdiction in [Region];
type Window = {{ "at_most": Long, "categories": Set<String> }};
type Leg = {{
  "artifact": String, "purpose": String, "documents": Set<String>, "categories": Set<String>, "at_s": Long,
  "unit": String, "epsilon_milli"?: Long, "inverse_delta"?: Long, "min_sites": Long, "min_patients": Long,
  "secure_aggregation": Bool, "threshold": Long, "group_sum": Bool,
  {", ".join(f'"{name}"?: Window' for name in COUNTERS)},
  {", ".join(f'"{name}"?: Jurisdiction' for name in _KEYS)}
}};
action "export" appliesTo {{ principal: Jurisdiction, resource: Jurisdiction, context: Leg }};
""")


_MOST_COMPILED = 256
_COMPILED: dict[str, CedarPack] = {}


class CedarPack:
    """A pack, compiled and validated once."""

    def __init__(self, pack: Pack) -> None:
        """Raises InputError RSD-3004 if Cedar does not accept the compiled rules."""
        self._policies = load_policies(compile_pack(pack))

    def evaluate(self, facts: Facts) -> Verdict:
        """The verdict of the pack on one leg."""
        request = {
            "principal": {"type": "Jurisdiction", "id": facts.from_jurisdiction},
            "action": {"type": "Action", "id": "export"},
            "resource": {"type": "Jurisdiction", "id": facts.to_jurisdiction},
            "context": _context(facts),
        }
        result = cedarpy.is_authorized(request, self._policies, _entities(_places(facts)), schema=SCHEMA)
        rules = frozenset(result.diagnostics.reasons)
        allow = result.decision is cedarpy.Decision.Allow and not result.diagnostics.errors and bool(rules)
        return Verdict(allow, rules)


def compiled(pack: Pack) -> CedarPack:
    """The pack compiled, once for each digest. Raises InputError RSD-3004. Only for packs that are intact."""
    found = _COMPILED.get(pack.digest)
    if found is None:
        if len(_COMPILED) >= _MOST_COMPILED:
            _COMPILED.clear()
        found = _COMPILED[pack.digest] = CedarPack(pack)
    return found


def load_policies(policies: dict[str, Json]) -> cedarpy.PolicySet:
    """Parse compiled policies and validate them against SCHEMA. Raises InputError RSD-3004 for the first mistake."""
    document = {"staticPolicies": policies, "templates": {}, "templateLinks": []}
    try:
        loaded = cedarpy.PolicySet.from_json_str(json.dumps(document))
    except ValueError as e:
        raise InputError("RSD-3004", f"Cedar cannot read the rules: {e}", rule="Cedar policy format") from e
    checked = cedarpy.validate_policies(str(loaded), SCHEMA)
    if not checked.validation_passed or len(loaded) != len(policies):
        first = str(checked.errors[0]) if checked.errors else "a policy was lost"
        raise InputError("RSD-3004", f"Cedar refuses the rules: {first}", rule="policies are validated before use")
    return loaded


def compile_pack(pack: Pack) -> dict[str, Json]:
    """The pack as Cedar policies in JSON form, by rule id; its first and last day are policies like the others."""
    not_yet, expired = _policy("forbid", _at("<", pack.verified_on)), _policy("forbid", _at(">=", pack.expires_on))
    rules = {rule.id: _compile_rule(rule, pack.verified_of(rule), pack.expires_of(rule)) for rule in pack.rules}
    return {f"{pack.id}.not-yet": not_yet, f"{pack.id}.expired": expired, **rules}


def _compile_rule(rule: Rule, verified_on: str, expires_on: str) -> Json:
    tests = [*_place(_var("principal"), rule.from_region), *_place(_var("resource"), rule.to_region)]
    if rule.to_region_except:
        tests.append({"!": {"arg": _place(_var("resource"), rule.to_region_except)[0]}})
    if "*" not in rule.artifact:
        tests.append(_one_of(rule.artifact, _attr("artifact")))
    if "*" not in rule.purpose:
        tests.append(_one_of(rule.purpose, _attr("purpose")))
    tests += _data(rule)
    in_time = _all([_at(">=", verified_on), _at("<", expires_on)])
    if rule.effect == "allow":
        house = [_holds(rule.house.documents)] if rule.house.documents else []
        return _policy("permit", _all([*tests, in_time, *_asked(rule.requires), *house, *_limits(rule.house)]))
    exception = [] if rule.unless.empty else [{"!": {"arg": _all([in_time, *_asked(rule.unless)])}}]
    return _policy("forbid", _all([*tests, *exception]))


def _at(operator: str, day: str) -> Json:
    """The moment of the transfer compared with the first of that day."""
    return {operator: {"left": _attr("at_s"), "right": {"Value": int(parse_time(day).timestamp())}}}


def _data(rule: Rule) -> list[Json]:
    """The categories of data and the threshold; an unknown counter is over every threshold."""
    own = {"containsAny": {"left": _attr("categories"), "right": _set(rule.category)}}
    if rule.over is None:
        if not rule.category:
            return []
        return [own] if rule.effect == "deny" else [_contains_all(_set(rule.category), _attr("categories"))]
    window = _attr(rule.over.counter)
    tests = [{">": {"left": _attr("at_most", window), "right": {"Value": rule.over.above}}}]
    if rule.category:
        held = {"containsAny": {"left": _attr("categories", window), "right": _set(rule.category)}}
        tests.append(_chain("||", [own, held]))
    return [_if_known(rule.over.counter, _all(tests), otherwise=True)]


def _policy(effect: str, when: Json) -> Json:
    return {
        "effect": effect,
        "principal": {"op": "All"},
        "action": {"op": "==", "entity": {"type": "Action", "id": "export"}},
        "resource": {"op": "All"},
        "conditions": [{"kind": "when", "body": when}],
    }


def _place(where: Json, regions: tuple[str, ...]) -> list[Json]:
    if ANY in regions:
        return []
    entities = [{"Value": {"__entity": {"type": "Region", "id": name}}} for name in regions]
    return [{"in": {"left": where, "right": {"Set": entities}}}]


def _asked(requires: Requires) -> list[Json]:
    tests = [_holds(requires.documents)] if requires.documents else []
    if requires.any_of:
        tests.append(_chain("||", [_holds(alternative) for alternative in requires.any_of]))
    return tests + _limits(requires.guarantees)


def _limits(limits: Limits) -> list[Json]:
    tests = [_one_of(limits.unit, _attr("unit"))] if limits.unit else []
    for name, operator, limit in (
        ("epsilon_milli", "<=", limits.epsilon_milli_at_most),
        ("inverse_delta", ">=", limits.inverse_delta_at_least),
    ):
        if limit is not None:
            kept = {operator: {"left": _attr(name), "right": {"Value": limit}}}
            tests.append(_if_known(name, kept, otherwise=False))
    for name, least in (
        ("min_sites", limits.min_sites_at_least),
        ("min_patients", limits.min_patients_at_least),
        ("threshold", limits.secure_aggregation_threshold_at_least),
    ):
        if least is not None:
            tests.append({">=": {"left": _attr(name), "right": {"Value": least}}})
    flags = (("secure_aggregation", limits.secure_aggregation), ("group_sum", limits.group_sum))
    tests += [_attr(name) for name, wanted in flags if wanted]
    return tests + (_keys_within(limits.keys_within) if limits.keys_within else [])


def _keys_within(regions: tuple[str, ...]) -> list[Json]:
    """At least one place is named, and all that are lie inside."""
    inside = {key: _all(_place(_attr(key), regions)) for key in _KEYS}
    return [_if_known(key, inside[key], otherwise=key != _KEYS[0]) for key in _KEYS]


def _if_known(name: str, then: Json, *, otherwise: bool) -> Json:
    known = {"has": {"left": _var("context"), "attr": name}}
    return {"if-then-else": {"if": known, "then": then, "else": {"Value": otherwise}}}


def _var(name: str) -> Json:
    return {"Var": name}


def _attr(name: str, of: Json | None = None) -> Json:
    return {".": {"left": of or _var("context"), "attr": name}}


def _set(values: tuple[str, ...]) -> Json:
    return {"Set": [{"Value": value} for value in values]}


def _holds(kinds: tuple[str, ...]) -> Json:
    return _contains_all(_attr("documents"), _set(kinds))


def _contains_all(outer: Json, inner: Json) -> Json:
    return {"containsAll": {"left": outer, "right": inner}}


def _one_of(values: tuple[str, ...], attribute: Json) -> Json:
    return {"contains": {"left": _set(values), "right": attribute}}


def _all(tests: list[Json]) -> Json:
    return _chain("&&", tests) if tests else {"Value": True}


def _chain(operator: str, tests: list[Json]) -> Json:
    body = tests[0]
    for test in tests[1:]:
        body = {operator: {"left": body, "right": test}}
    return body


def _context(facts: Facts) -> dict[str, Json]:
    given = facts.guarantees
    context: dict[str, Json] = {
        "artifact": facts.artifact,
        "purpose": facts.purpose,
        "documents": sorted(facts.documents),
        "categories": sorted(facts.categories),
        "at_s": int(facts.at.timestamp()),
        "unit": given.unit,
        "min_sites": given.min_sites,
        "min_patients": given.min_patients,
        "secure_aggregation": given.secure_aggregation,
        "threshold": given.secure_aggregation_threshold,
        "group_sum": given.group_sum,
    }
    for name, window in facts.counts.items():
        context[name] = {"at_most": window.at_most, "categories": sorted(window.categories)}
    for name, (code, _) in zip(_KEYS, facts.keys, strict=False):
        context[name] = {"__entity": {"type": "Jurisdiction", "id": code}}
    optional = {"epsilon_milli": given.epsilon_milli, "inverse_delta": given.inverse_delta}
    return context | {name: value for name, value in optional.items() if value is not None}


def _places(facts: Facts) -> tuple[tuple[str, frozenset[str]], ...]:
    """Every jurisdiction of the leg with its regions; the destination last, whose recipient may add one to them."""
    ends = ((facts.from_jurisdiction, facts.from_regions), (facts.to_jurisdiction, facts.to_regions))
    return tuple(dict((*facts.keys, *ends)).items())


@lru_cache(maxsize=4096)
def _entities(places: tuple[tuple[str, frozenset[str]], ...]) -> cedarpy.Entities:
    """The jurisdictions of a leg inside their regions, checked against SCHEMA."""
    rows = [
        {
            "uid": {"type": "Jurisdiction", "id": code},
            "attrs": {},
            "parents": [{"type": "Region", "id": name} for name in sorted(regions)],
        }
        for code, regions in places
    ]
    return cedarpy.Entities.from_json_str(json.dumps(rows), SCHEMA)
