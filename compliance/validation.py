"""From untrusted JSON or YAML to frozen models: every mistake at once, with its field and line."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from compliance.canonical import MOST_NESTED
from compliance.errors import InputError
from compliance.files import read_bytes

M = TypeVar("M", bound=BaseModel)
_MOST_YAML = 1 << 20  # bytes: files that people write, and a slow parser
_MOST_SHOWN: Final = 80  # characters of a value
_WORDY: Final = re.compile(r"^(Value error, |Input should be |String should |Tuple should )")
_SPOKEN: Final = {  # patterns that people meet, in words
    r"^[a-z0-9][a-z0-9-]{0,62}$": "small letters, digits and hyphens, no hyphen first, at most 63 characters",
    r"^[A-Z]{2}$": "the two capital letters of a country, e.g. DE",
}
_PART: Final = re.compile(r"([^.\[\]]+)|\[([0-9]+)\]")


@dataclass(frozen=True)
class Mistake:
    """One thing wrong with a file: where, what, and the line when the file has lines; both values where they apply."""

    field: str
    message: str
    line: int | None = None
    found: str = dataclasses.field(default="", compare=False)
    limit: str = dataclasses.field(default="", compare=False)

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        return f"{where}{self.field}: {self.message}"


def load_model(model: type[M], value: object, code: str, what: str) -> M:
    """Validate `value`. Raises InputError `code` that lists every mistake with its field."""
    mistakes, loaded = try_model(model, value)
    if loaded is None:
        message, first = f"{what}: " + "; ".join(map(str, mistakes)), mistakes[0]
        raise InputError(code, message, rule=f"schema of {model.__name__}", found=first.found, limit=first.limit)
    return loaded


def try_model(model: type[M], value: object) -> tuple[list[Mistake], M | None]:
    """All mistakes and no model, or no mistake and the model."""
    try:
        return [], model.model_validate(_tuples(value))
    except ValidationError as e:
        found = e.errors(include_url=False)
        kept = [err for err in found if not _follows(err, found)]
        return [_mistake(value, err) for err in kept], None


def with_values(mistakes: list[Mistake], value: object) -> list[Mistake]:
    """The mistakes, each with what `value` holds in its field, and with its own words as limit if it has no other."""
    return [replace(m, found=m.found or _at(value, m.field), limit=m.limit or m.message) for m in mistakes]


def _at(value: Any, field: str) -> str:
    """What stands in `field` of `value` (`shown`); "nothing" if the field is not there."""
    for name, index in _PART.findall(field.removeprefix("(top)")):
        key = int(index) if index else name
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            return "nothing"
    return shown(value)


def shown(value: object) -> str:
    """A value in at most 80 printable characters; of what holds others, how many: they may be anything."""
    if isinstance(value, dict):
        return f"{len(value)} fields"
    if isinstance(value, list | tuple):
        return f"{len(value)} items"
    text = value if isinstance(value, str) and value.isprintable() else json.dumps(value, default=str)
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 3] + "..."


def _mistake(value: object, err: Any) -> Mistake:
    message = _plain(err)
    found = "nothing" if message == "missing" else shown(err.get("input"))
    limit = {"missing": "a value", "unknown field": "only fields of the schema"}.get(message)
    if err["type"] == "union_tag_invalid":
        found, limit = str(err["ctx"]["tag"]), str(err["ctx"]["expected_tags"])
    elif (words := _spoken(err)) is not None:
        limit = words
    elif err["type"] == "value_error" and isinstance(err["input"], dict):
        found, limit = message, "fields that fit each other"
    return Mistake(_dotted(_place(value, err)), message, found=found, limit=limit or _WORDY.sub("", err["msg"]))


def _follows(err: Any, found: list[Any]) -> bool:
    """A list that is too short only because an item in it is wrong: the item is the mistake."""
    place = err["loc"]
    return err["type"] == "too_short" and any(o["loc"][: len(place)] == place != o["loc"] for o in found)


def _place(value: Any, err: Any) -> tuple[int | str, ...]:
    """The place in the file: pydantic also names the `kind` by which it chose among models, which is no field."""
    out: list[int | str] = []
    for part in err["loc"]:
        if isinstance(value, dict) and part not in value and value.get("kind") == part:
            continue
        out.append(part)
        inside = isinstance(value, dict) and part in value
        listed = isinstance(value, list | tuple) and isinstance(part, int) and part < len(value)
        value = value[part] if inside or listed else None
    return (*out, "kind") if err["type"].startswith("union_tag") else tuple(out)


def _tuples(value: object) -> object:
    """Strict models take tuples where JSON has lists."""
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_tuples(v) for v in value)
    return value


def _plain(err: Any) -> str:
    if err["type"] == "extra_forbidden":
        return "unknown field"
    if err["type"] in ("missing", "union_tag_not_found"):
        return "missing"
    if err["type"] == "union_tag_invalid":
        return f"must be one of {err['ctx']['expected_tags']} (found {err['ctx']['tag']!r})"
    words = _spoken(err)
    shown = err.get("input")
    value = f" (found {shown!r})" if isinstance(shown, int | str | float | bool) else ""
    return f"{f'must be {words}' if words else err['msg'].removeprefix('Value error, ')}{value}"


def _spoken(err: Any) -> str | None:
    """The pattern that a string does not match, in words."""
    return _SPOKEN.get(err["ctx"]["pattern"]) if err["type"] == "string_pattern_mismatch" else None


def _dotted(loc: tuple[int | str, ...]) -> str:
    out = ""
    for part in loc:
        out += f"[{part}]" if isinstance(part, int) else f".{part}" if out else str(part)
    return out or "(top)"


class _Loader(yaml.SafeLoader):
    """YAML 1.1 safe loader that refuses duplicate keys, aliases, tags and what is nested more than 64 deep.

    Dates, yes/no, 010 and 1:30 stay as they were written: YAML 1.1 would read the last two as 8 and 90.
    """

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """An alias lets a short file stand for a huge or endless one; a tag makes a value of another kind."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]  # the stubs leave it out
        for wrong, problem in (
            (isinstance(event, yaml.AliasEvent), "anchors and aliases are not allowed"),
            (getattr(event, "tag", None) is not None, "tags are not allowed"),
            (self.depth >= MOST_NESTED, f"nested more than {MOST_NESTED} deep"),
        ):
            if wrong:
                raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    out: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key_node.start_mark)
        key = loader.construct_object(key_node, deep=True)
        if key in out:
            raise yaml.constructor.ConstructorError(None, None, f"{key!r} stands twice", key_node.start_mark)
        out[key] = loader.construct_object(value_node, deep=True)
    return out


def _boolean(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> bool:
    return str(loader.construct_scalar(node)) == "true"


_Loader.yaml_implicit_resolvers = {
    first: [(tag, rx) for tag, rx in rules if not tag.endswith((":timestamp", ":bool", ":int"))]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
_Loader.add_constructor("tag:yaml.org,2002:bool", _boolean)
_INTEGER = re.compile(r"^[-+]?(0|[1-9][0-9_]*)$")
for _first in "-+0123456789":
    _Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INTEGER, [_first])
for _first in "tf":
    _Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(true|false)$"), [_first])


@dataclass(frozen=True)
class YamlFile:
    """A parsed YAML file that knows on which line each field stands."""

    path: Path
    value: Any
    lines: dict[str, int]

    def located(self, mistakes: list[Mistake]) -> list[Mistake]:
        """The mistakes with their lines; a missing field gets the line of its parent. Ordered by line."""
        found = [replace(m, line=self._line(m.field)) for m in mistakes]
        return sorted(found, key=lambda m: m.line or 0)

    def _line(self, field: str) -> int | None:
        while field and field not in self.lines:
            cut = max(field.rfind("."), field.rfind("["))
            field = field[:cut] if cut > 0 else ""
        return self.lines.get(field, 1)


def read_yaml(path: Path, what: str) -> YamlFile:
    """Read a YAML file. Raises InputError RSD-2006 with the line of a syntax error."""
    text = read_bytes(path, what, _MOST_YAML)
    try:
        loader = _Loader(text.decode("utf-8"))
        node = loader.get_single_node()
        value = loader.construct_document(node) if node is not None else None
    except (yaml.YAMLError, ValueError) as e:  # ValueError: no UTF-8, or a number of thousands of digits
        mark = getattr(e, "problem_mark", None)
        at = f" line {mark.line + 1}" if mark else ""
        coded = isinstance(e, UnicodeDecodeError)
        problem = "text that is not UTF-8" if coded else getattr(e, "problem", None) or str(e)
        raise InputError(
            "RSD-2006",
            f"{path}{at}: {problem}",
            rule="YAML 1.1",
            found=problem,
            limit="YAML in UTF-8, without anchors, aliases, tags or a key that stands twice",
            next="save the file as UTF-8" if coded else "correct the line",
        ) from e
    lines: dict[str, int] = {}
    if node is not None:
        _collect_lines(node, "", lines)
    return YamlFile(path, value, lines)


def _collect_lines(node: yaml.Node, field: str, lines: dict[str, int]) -> None:
    lines.setdefault(field, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = f"{field}.{key.value}" if field else str(key.value)
            lines[name] = key.start_mark.line + 1
            _collect_lines(value, name, lines)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            _collect_lines(value, f"{field}[{i}]", lines)
