"""What the reference cases see of a slip in the code that both evaluators share: loader, region sets, facts.

Each mutant is one module of compliance/law with one thing changed, in a process forked from one that has loaded nothing
of the law yet. It is noticed if it cannot be loaded, if a law file is refused, or if a case comes out otherwise. Else
random transfers show whether it lets out anything that the true code does not.

Run as a program: `python tests/law_code_mutants.py FIRST STEP` prints a JSON line for each mutant it tries.
"""

from __future__ import annotations

import ast
import importlib.abc
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[1]
MODULES = ("pack", "rule", "regions", "facts", "strict_yaml")
PROBES = 400
_COMPARE = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
_BINARY = {ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr, ast.Sub: ast.BitOr, ast.Add: ast.Sub}
_CALLS = {"any": "all", "all": "any", "max": "min", "min": "max", "sorted": "list"}


def places() -> list[tuple[str, int]]:
    """Every change that can be made: the module, and the number of the place in it."""
    return [(m, i) for m in MODULES for i in range(sum(1 for _ in _changes(ast.parse(_text(m)))))]


def mutant(module: str, place: int) -> tuple[str, str]:
    """What was changed, and the changed source."""
    tree = ast.parse(_text(module))
    change = next(c for i, c in enumerate(_changes(tree)) if i == place)
    told = change()
    return f"{module}.py {told}", ast.unparse(ast.fix_missing_locations(tree))


def _text(module: str) -> str:
    return (ROOT / "compliance" / "law" / f"{module}.py").read_text(encoding="utf-8")


def _changes(tree: ast.Module) -> Iterator[Callable[[], str]]:
    """One for each change; called, it makes the change and says which."""
    docs = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)}
    for node in ast.walk(tree):
        made = None if id(node) in docs else _change(node)
        if made is not None:
            yield partial(made, node)
        for body in (getattr(node, field, None) for field in ("body", "orelse")):
            for statement in body if isinstance(body, list) else ():
                if isinstance(statement, ast.Raise | ast.AugAssign) or _is_yield(statement):
                    yield partial(_drop, body, statement)


def _change(node: Any) -> Callable[[Any], str] | None:
    named = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _CALLS
    for fits, made in (
        (isinstance(node, ast.Compare) and type(node.ops[0]) in _COMPARE, _compare),
        (isinstance(node, ast.BoolOp), _boolean),
        (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not), _not),
        (isinstance(node, ast.BinOp) and type(node.op) in _BINARY, _binary),
        (named, _call),
        (isinstance(node, ast.Constant) and isinstance(node.value, bool | int | str) and not _message(node), _constant),
    ):
        if fits:
            return made
    return None


def _message(node: ast.Constant) -> bool:
    """Text for people: a slip in it changes no decision."""
    return isinstance(node.value, str) and " " in node.value


def _is_yield(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Yield | ast.YieldFrom)


def _compare(node: ast.Compare) -> str:
    before = ast.unparse(node)
    node.ops[0] = _COMPARE[type(node.ops[0])]()
    return f"line {node.lineno}: {before} -> {ast.unparse(node)}"


def _boolean(node: ast.BoolOp) -> str:
    before = ast.unparse(node)
    node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    return f"line {node.lineno}: {before} -> {ast.unparse(node)}"


def _not(node: ast.UnaryOp) -> str:
    before = ast.unparse(node)
    node.operand = ast.UnaryOp(ast.Not(), node.operand)
    return f"line {node.lineno}: {before} -> {ast.unparse(node)}"


def _binary(node: ast.BinOp) -> str:
    before = ast.unparse(node)
    node.op = _BINARY[type(node.op)]()
    return f"line {node.lineno}: {before} -> {ast.unparse(node)}"


def _call(node: ast.Call) -> str:
    assert isinstance(node.func, ast.Name)
    before, node.func.id = node.func.id, _CALLS[node.func.id]
    return f"line {node.lineno}: {before}() -> {node.func.id}()"


def _constant(node: ast.Constant) -> str:
    before = node.value
    if isinstance(before, bool):
        node.value = not before
    else:
        node.value = before + 1 if isinstance(before, int) else f"{before}x"
    return f"line {node.lineno}: {before!r} -> {node.value!r}"


def _drop(body: list[ast.stmt], statement: ast.stmt) -> str:
    body[body.index(statement)] = ast.Pass()
    return f"line {statement.lineno}: without {ast.unparse(statement)[:60]}"


class _Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Serves one module from changed source."""

    def __init__(self, name: str, source: str) -> None:
        self._name, self._source = name, source

    def find_spec(self, name: str, *_: object) -> Any:
        return importlib.util.spec_from_loader(name, self) if name == self._name else None

    def exec_module(self, module: ModuleType) -> None:
        module.__file__ = str(ROOT / "compliance" / "law" / f"{self._name.split('.')[-1]}.py")
        exec(compile(self._source, self._name, "exec"), module.__dict__)  # noqa: S102 - the mutant


def judged(module: str, source: str, truth: list[bool]) -> str:
    """In a process of its own: how the mutant is noticed, or `same`, or UNNOTICED with the number of new allows."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        sys.meta_path.insert(0, _Mutated(f"compliance.law.{module}", source))
        try:
            said = _judge(truth)
        except Exception as e:  # noqa: BLE001 - whatever a mutant dies of, it was noticed
            said = f"refused: {type(e).__name__} {str(e)[:80]}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said or "refused: it died"


def _judge(truth: list[bool]) -> str:
    from compliance.law.cases import load_folder, run_cases
    from compliance.law.pack import builtin_packs
    from compliance.law.regions import load_regions

    results = run_cases(load_folder(), builtin_packs(), load_regions())
    wrong = next((r for r in results if not r.passed), None)
    if wrong is not None:
        return f"case {wrong.case.id}: {wrong.wrong}"
    now = probes()
    more = sum(new and not old for old, new in zip(truth, now, strict=True))
    return f"UNNOTICED: {more} of {len(now)} transfers are newly allowed" if more else "same or stricter"


def probes() -> list[bool]:
    """The decisions on random transfers, everything adopted."""
    from compliance.law.decide import Engine
    from compliance.law.pack import builtin_packs

    law_random = _random()
    packs = builtin_packs()
    engine = Engine(packs, {name: pack.digest for name, pack in packs.items()})
    rng = law_random.source(5)
    return [engine.decide(law_random.transfer(rng)).allow for _ in range(PROBES)]


def _random() -> Any:
    spec = importlib.util.spec_from_file_location("law_random", ROOT / "tests" / "law_random.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def truth() -> list[bool]:
    """What the true code decides, from a process of its own."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, json.dumps(probes()).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as pipe:
        found: list[bool] = json.loads(pipe.read())
    os.waitpid(child, 0)
    return found


def main(first: int, step: int) -> None:
    """Every `step`-th mutant, from the `first`."""
    import cedarpy  # noqa: F401 - loaded once, before the forks
    import pydantic  # noqa: F401
    import yaml  # noqa: F401

    import compliance.identity
    import compliance.validation  # noqa: F401 - none of compliance.law is loaded yet

    assert not [name for name in sys.modules if name.startswith("compliance.law.")]
    real = truth()
    every = places()
    for module, place in every[first::step]:
        told, source = mutant(module, place)
        row = {"mutant": told, "outcome": judged(module, source, real), "of": len(every), "allowed": sum(real)}
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main(int(sys.argv[1]), int(sys.argv[2]))
