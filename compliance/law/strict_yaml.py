"""YAML from bytes, narrowed to what a law file needs: maps, lists, strings, whole numbers, true and false.

Country codes stay text (`NO` is Norway), dates stay text, a key stands once, anchors and tags are refused. It works on
bytes so that what is hashed is what is parsed, and it knows on which line each field stands.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel

from compliance.canonical import MOST_NESTED, Json
from compliance.errors import InputError
from compliance.validation import Mistake, YamlFile, try_model

M = TypeVar("M", bound=BaseModel)
MOST_BYTES = 1 << 20  # of one law file
_INTEGER = re.compile(r"^(0|-?[1-9][0-9]{0,18})$")
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where it is there: ten times as fast


def parse_yaml(data: bytes, what: str) -> YamlFile:
    """The value of `data` and the line of each field. Raises InputError RSD-3001 with the line, naming `what`."""
    try:
        text = data.decode("utf-8")
        _refuse_tricks(text, what)
        node = yaml.compose(text, Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        mark, problem = getattr(e, "problem_mark", None), getattr(e, "problem", None) or str(e)
        raise _mistake(what, mark, problem) from e
    lines: dict[str, int] = {}
    value = _value(node, what, "", lines) if node is not None else None
    return YamlFile(Path(what), value, lines)


def load_strict(model: type[M], data: bytes, what: str, check: Callable[[M], Iterable[Mistake]]) -> M:
    """`data` as `model`, and past `check`. Raises InputError RSD-3001, or RSD-3002 with every mistake and its line."""
    file = parse_yaml(data, what)
    mistakes, loaded = try_model(model, file.value)
    mistakes += check(loaded) if loaded is not None else []
    if loaded is None or mistakes:
        raise InputError(
            "RSD-3002",
            f"{what}: " + "; ".join(map(str, file.located(mistakes))),
            rule=f"schema of {model.__name__}",
            next="correct each line and load the file again",
        )
    return loaded


def _refuse_tricks(text: str, what: str) -> None:
    """No anchor, alias or tag, and no depth on which a parser's stack could run out; before anything recurses."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _mistake(what, event.start_mark, "anchors and aliases are not allowed")
        if getattr(event, "tag", None) is not None:
            raise _mistake(what, event.start_mark, "tags are not allowed")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_NESTED:
            raise _mistake(what, event.start_mark, f"nested more than {MOST_NESTED} deep")


def _value(node: yaml.Node, what: str, field: str, lines: dict[str, int]) -> Json:
    lines.setdefault(field, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        out: dict[str, Json] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value in out:
                raise _mistake(what, key.start_mark, f"key {key.value!r} stands twice or is not text")
            name = f"{field}.{key.value}" if field else key.value
            lines[name] = key.start_mark.line + 1
            out[key.value] = _value(value, what, name, lines)
        return out
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, what, f"{field}[{i}]", lines) for i, item in enumerate(node.value)]
    return _scalar(node, what)


def _scalar(node: yaml.Node, what: str) -> Json:
    text = str(node.value)
    if getattr(node, "style", None) not in {None, ""}:  # quoted or block: text, whatever it looks like
        return text
    if text in {"true", "false"}:
        return text == "true"
    if _INTEGER.match(text):
        return int(text)
    if text in {"", "~", "null"}:
        raise _mistake(what, node.start_mark, "a value is empty")
    return text


def _mistake(what: str, mark: Any, problem: str) -> InputError:
    at = f" line {mark.line + 1}" if mark else ""
    return InputError(
        "RSD-3001", f"{what}{at}: {problem}", rule="strict YAML", next="correct the line and load it again"
    )
