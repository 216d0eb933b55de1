"""Every kind of entry has its shapes, and every writer in the code keeps to them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from compliance.canonical import canonical
from compliance.errors import InputError
from compliance.law.vocabulary import RECORD_CLASSES
from compliance.log.entry import Kind, decode
from compliance.log.kinds import KIND_OF, check_body, record_class
from compliance.log.store import Draft, LogStore
from compliance.validation import try_model
from tests.log_drafts import DIGEST, EXAMPLES, decided

ROOT = Path(__file__).parents[3]
KEY = Ed25519PrivateKey.generate()
CASES = [(kind, body) for kind, bodies in EXAMPLES.items() for body in bodies]
WORDS = st.sampled_from(["", "x", "RSD-1", 0, -1, True, None, [], {}, [1], 10**9, "2026-11-22", DIGEST[:-1], "é" * 99])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LogStore]:
    with LogStore.open(tmp_path_factory.mktemp("log") / "log.db", "residency/tiny/anna", KEY) as opened:
        yield opened


def test_no_kind_without_a_shape_a_version_and_a_class() -> None:
    assert set(KIND_OF) == set(get_args(Kind))
    for kind, spec in KIND_OF.items():
        assert (spec.kind, spec.version) == (kind, 1)
        assert spec.bodies
        assert spec.about
        assert record_class(kind) in RECORD_CLASSES


@pytest.mark.parametrize(("kind", "body"), CASES, ids=lambda v: v if isinstance(v, str) else "")
def test_every_shape_is_taken_and_comes_back(store: LogStore, kind: str, body: dict[str, Any]) -> None:
    place = store.append(kind, body).index
    entry = store.entry(place)
    assert (entry.kind, entry.v, entry.body) == (kind, 1, body)
    assert decode(entry.encode()) == entry
    assert store.leaf_hashes()[place] == entry.leaf_hash()


def test_a_decision_is_taken_as_the_engine_makes_it(store: LogStore) -> None:
    for allow in (True, False):
        body = decided("berta", allow=allow)
        assert store.entry(store.append("decision", body).index).body == body


@settings(max_examples=150, deadline=None)
@given(case=st.sampled_from(CASES), data=st.data())
def test_a_body_with_a_strange_missing_or_wrong_field_is_refused_and_nothing_is_written(
    store: LogStore, case: tuple[str, dict[str, Any]], data: st.DataObject
) -> None:
    kind, body = case
    shapes = KIND_OF[kind].bodies
    field = data.draw(st.sampled_from([*body, "patient_id"]))
    wrong = {**body, field: data.draw(WORDS)} if data.draw(st.booleans()) else {k: body[k] for k in body if k != field}
    fits = any(_fits(shape, wrong) for shape in shapes)
    size = store.size
    if fits:
        check_body(kind, canonical(wrong))
        return
    with pytest.raises(InputError, match="RSD-5020") as e:
        store.append_many([Draft(kind, body), Draft(kind, wrong)])
    assert store.size == size
    assert "é" not in str(e.value)  # what is refused is not told: nobody knows what it is


def _fits(shape: type[BaseModel], body: dict[str, Any]) -> bool:
    return try_model(shape, body)[1] is not None


# --- the writers in the code ---

_SOURCES = [p for name in ("compliance", "client", "server", "demo") for p in sorted((ROOT / name).rglob("*.py"))]
_RECORD = {"record", "record_once", "_record"}


@cache
def _calls() -> tuple[tuple[str, ast.Call, ast.AST], ...]:
    """Every call that may write an entry, and the function around it."""
    found: list[tuple[str, ast.Call, ast.AST]] = []
    for path in _SOURCES:
        text = path.read_text(encoding="utf-8")
        if not re.search(r"record|Draft|append\(\"", text):
            continue
        for function in (n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef)):
            calls = (n for n in ast.walk(function) if isinstance(n, ast.Call))
            found += [(f"{path.relative_to(ROOT)}:{call.lineno}", call, function) for call in calls]
    return tuple(found)


def _kind(call: ast.Call) -> tuple[str, int] | None:
    """The kind that a call writes, and where its body stands among the arguments."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    at = 1 if name == "_record" else 0
    if name not in _RECORD | {"append", "Draft"} or len(call.args) <= at:
        return None
    first = call.args[at]
    if not isinstance(first, ast.Constant) or not isinstance(first.value, str):
        return None
    return (first.value, at + 1) if name != "append" or len(call.args) > 1 else None


def _literal(node: ast.expr, function: ast.AST) -> set[str] | None:
    """The fields of a body that is written out, here or in the one assignment to its name; None for any other."""
    if isinstance(node, ast.Name):
        assigned = [
            n.value
            for n in ast.walk(function)
            if isinstance(n, ast.Assign | ast.AnnAssign) and n.value is not None and _target(n) == node.id
        ]
        return _literal(assigned[0], function) if len(assigned) == 1 else None
    if not isinstance(node, ast.Dict) or not all(isinstance(k, ast.Constant) for k in node.keys):
        return None
    return {str(k.value) for k in node.keys if isinstance(k, ast.Constant)}


def _target(node: ast.Assign | ast.AnnAssign) -> str:
    target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
    return target.id if isinstance(target, ast.Name) else ""


def _fields(shape: type[BaseModel]) -> tuple[set[str], set[str]]:
    fields = {f.alias or name: f.is_required() for name, f in shape.model_fields.items()}
    return {name for name, required in fields.items() if required}, set(fields)


def test_every_writer_names_a_kind_and_fills_one_of_its_shapes() -> None:
    literal, seen, wrong = 0, set(), []
    for place, call, function in _calls():
        found = _kind(call)
        if found is None:
            continue
        kind, at = found
        if kind not in KIND_OF:
            wrong.append(f"{place} writes {kind}")
            continue
        seen.add(kind)
        fields = _literal(call.args[at], function) if len(call.args) > at else None
        if fields is None:
            continue
        fields |= {"at"} if place.startswith("client/enrol_commands") else set()
        literal += 1
        if not any(least <= fields <= most for least, most in map(_fields, KIND_OF[kind].bodies)):
            wrong.append(f"{place} writes {kind} with {sorted(fields)}")
    assert not wrong
    assert literal >= 15, "the walk no longer finds the bodies"
    assert {"decision", "transfer", "refusal", "commit", "charge", "close", "study", "answer"} <= seen


def test_every_act_of_the_operator_has_a_shape() -> None:
    acts = 0
    for place, call, function in _calls():
        name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        fields = _literal(call.args[0], function) if name == "record" and call.args else None
        if fields and "act" in fields:
            acts += 1
            assert any(least <= fields <= most for least, most in map(_fields, KIND_OF["consortium"].bodies)), place
    assert acts >= 6
