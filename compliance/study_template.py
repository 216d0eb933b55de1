"""The commented study that `study init` writes: one file for all, and the parts in which a kind of task differs."""

from __future__ import annotations

import re
from importlib import resources

_USUAL = "sequence_classification"
_SECTION = re.compile(r"^(?=[a-z_]+:)", re.MULTILINE)


def kinds() -> tuple[str, ...]:
    """The kinds of tasks that have a template; the usual one first."""
    folder = resources.files("compliance") / "templates" / "tasks"
    return (_USUAL, *sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml")))


def template(kind: str = _USUAL) -> bytes:
    """The study for this kind, YAML with comments; it passes `study check`. KeyError for a kind without one."""
    folder = resources.files("compliance") / "templates"
    text = (folder / "study.yaml").read_text("utf-8")
    if kind != _USUAL:
        if kind not in kinds():
            raise KeyError(kind)
        text = _replaced(text, (folder / "tasks" / f"{kind}.yaml").read_text("utf-8"))
    return text.encode()


def _replaced(text: str, parts: str) -> str:
    """`text` with its top-level fields in the words of `parts`, where these have them."""
    other = dict(_named(parts))
    return "".join(other.get(name, section) for name, section in _named(text))


def _named(text: str) -> list[tuple[str, str]]:
    return [(section.partition(":")[0], section) for section in _SECTION.split(text)]
