"""YAML from bytes, narrowed to what a law pack needs: maps, lists, strings, whole numbers, true and false.

Country codes stay text (`NO` is Norway), dates stay text, a key stands once, anchors and tags are refused. It works on
bytes so that what is hashed is what is parsed.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from compliance.canonical import Json
from compliance.errors import InputError

_INTEGER = re.compile(r"^(0|-?[1-9][0-9]*)$")


def parse_yaml(data: bytes, what: str) -> Json:
    """The value of `data`. Raises InputError RSD-3001 with the line, naming `what`."""
    try:
        text = data.decode("utf-8")
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise _mistake(what, event.start_mark, "anchors and aliases are not allowed")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        mark, problem = getattr(e, "problem_mark", None), getattr(e, "problem", None) or str(e)
        raise _mistake(what, mark, problem) from e
    return _value(node, what) if node is not None else None


def _value(node: yaml.Node, what: str) -> Json:
    if isinstance(node, yaml.MappingNode):
        out: dict[str, Json] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value in out:
                raise _mistake(what, key.start_mark, f"key {key.value!r} stands twice or is not text")
            out[key.value] = _value(value, what)
        return out
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, what) for item in node.value]
    return _scalar(node, what)


def _scalar(node: yaml.Node, what: str) -> Json:
    text = str(node.value)
    if getattr(node, "style", None) is not None:  # quoted or block: text, whatever it looks like
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
