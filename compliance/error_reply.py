"""How an error travels to the other side and comes back as the same class: bounded text, never an instruction."""

from __future__ import annotations

import re
from typing import Any, Final

from compliance.canonical import canonical, parse_json
from compliance.errors import InputError, ResidencyError, RunFailed, error_class

MAX_REASON_CHARS: Final = 8192
_MOST_FIELD: Final = 1000  # characters
_FIELDS: Final = ("code", "message", "rule", "found", "limit", "next")


def encode_error(error: ResidencyError, most_field: int = _MOST_FIELD) -> str:
    """`error.as_json()` and the exit code, as canonical JSON; each text is cut at `most_field` characters."""
    fields = {name: text[:most_field] for name, text in error.as_json().items()}
    return canonical({**fields, "exit": error.exit_code}).decode("utf-8")


def decode_error(reason: str) -> ResidencyError:
    """The error that `encode_error` wrote, in its class. Anything else becomes RunFailed RSD-8101, never an exception.

    The text comes from a peer: it is bounded, and it is data to show, never an instruction.
    """
    try:
        fields = parse_json(reason[: MAX_REASON_CHARS + 1].encode("utf-8", "replace"), "the error reply")
        return _error_from(fields)
    except (InputError, ValueError):
        return RunFailed(
            "RSD-8101",
            "the other side answered with an error that is not one of Residency's",
            rule="a refusal carries a code and a reason",
            found="".join(c if c.isprintable() else " " for c in reason[:200]),
            limit="an RSD code",
            next="look at the other side's own log",
        )


def _error_from(fields: Any) -> ResidencyError:
    if not isinstance(fields, dict) or set(fields) != {*_FIELDS, "exit"}:
        raise ValueError("other fields")
    texts = {name: fields[name] for name in _FIELDS}
    if not all(isinstance(t, str) and len(t) <= _MOST_FIELD and t.isprintable() for t in texts.values()):
        raise ValueError("a field is no short text")
    if not re.fullmatch(r"RSD-\d{4}", texts["code"]) or type(fields["exit"]) is not int:
        raise ValueError("no code")
    code, message = texts.pop("code"), texts.pop("message")
    return error_class(fields["exit"])(code, message, **texts)
