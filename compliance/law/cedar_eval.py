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
from compliance.law.pack import House, Pack, Requires, Rule
from compliance.law.python_eval import Verdict
from compliance.law.regions import ANY

SCHEMA = cedarpy.Schema.from_str("""
entity Region;
entity Jurisdiction in [Region];
type Leg = {
  "artifact": String, "purpose": String, "documents": Set<String>, "at_s": Long,
  "unit": String, "epsilon_milli"?: Long, "inverse_delta"?: Long, "min_sites": Long, "secure_aggregation": Bool
};
action "export" appliesTo { principal: Jurisdiction, resource: Jurisdiction, context: Leg };
""")


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
        places = {facts.from_jurisdiction: facts.from_regions, facts.to_jurisdiction: facts.to_regions}
        result = cedarpy.is_authorized(request, self._policies, _entities(tuple(places.items())), schema=SCHEMA)
        rules = frozenset(result.diagnostics.reasons)
        allow = result.decision is cedarpy.Decision.Allow and not result.diagnostics.errors and bool(rules)
        return Verdict(allow, rules)


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
    """The pack as Cedar policies in JSON form, by rule id; the expiry is a policy like the others."""
    expires_s = int(parse_time(pack.expires_on).timestamp())
    expired = _policy("forbid", {">=": {"left": _attr("at_s"), "right": {"Value": expires_s}}})
    return {f"{pack.id}.expired": expired, **{rule.id: _compile_rule(rule) for rule in pack.rules}}


def _compile_rule(rule: Rule) -> Json:
    tests = [*_place("principal", rule.from_region), *_place("resource", rule.to_region)]
    if rule.to_region_except:
        tests.append({"!": {"arg": _place("resource", rule.to_region_except)[0]}})
    if "*" not in rule.artifact:
        tests.append(_one_of(rule.artifact, _attr("artifact")))
    if "*" not in rule.purpose:
        tests.append(_one_of(rule.purpose, _attr("purpose")))
    if rule.effect == "allow":
        return _policy("permit", _all([*tests, *_documents(rule.requires), *_limits(rule.house)]))
    exception = [] if rule.unless.empty else [{"!": {"arg": _all(_documents(rule.unless))}}]
    return _policy("forbid", _all([*tests, *exception]))


def _policy(effect: str, when: Json) -> Json:
    return {
        "effect": effect,
        "principal": {"op": "All"},
        "action": {"op": "==", "entity": {"type": "Action", "id": "export"}},
        "resource": {"op": "All"},
        "conditions": [{"kind": "when", "body": when}],
    }


def _place(variable: str, regions: tuple[str, ...]) -> list[Json]:
    if ANY in regions:
        return []
    entities = [{"Value": {"__entity": {"type": "Region", "id": name}}} for name in regions]
    return [{"in": {"left": {"Var": variable}, "right": {"Set": entities}}}]


def _documents(requires: Requires) -> list[Json]:
    tests = [_holds(requires.documents)] if requires.documents else []
    if requires.any_of:
        tests.append(_chain("||", [_holds(alternative) for alternative in requires.any_of]))
    return tests


def _limits(house: House) -> list[Json]:
    tests = [_holds(house.documents)] if house.documents else []
    if house.unit:
        tests.append(_one_of(house.unit, _attr("unit")))
    for name, operator, limit in (
        ("epsilon_milli", "<=", house.epsilon_milli_at_most),
        ("inverse_delta", ">=", house.inverse_delta_at_least),
    ):
        if limit is not None:
            given = {"has": {"left": {"Var": "context"}, "attr": name}}
            tests.append(_all([given, {operator: {"left": _attr(name), "right": {"Value": limit}}}]))
    if house.min_sites_at_least is not None:
        tests.append({">=": {"left": _attr("min_sites"), "right": {"Value": house.min_sites_at_least}}})
    if house.secure_aggregation:
        tests.append(_attr("secure_aggregation"))
    return tests


def _attr(name: str) -> Json:
    return {".": {"left": {"Var": "context"}, "attr": name}}


def _set(values: tuple[str, ...]) -> Json:
    return {"Set": [{"Value": value} for value in values]}


def _holds(kinds: tuple[str, ...]) -> Json:
    return {"containsAll": {"left": _attr("documents"), "right": _set(kinds)}}


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
        "at_s": int(facts.at.timestamp()),
        "unit": given.unit,
        "min_sites": given.min_sites,
        "secure_aggregation": given.secure_aggregation,
    }
    optional = {"epsilon_milli": given.epsilon_milli, "inverse_delta": given.inverse_delta}
    return context | {name: value for name, value in optional.items() if value is not None}


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
