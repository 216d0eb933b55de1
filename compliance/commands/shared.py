"""What several command groups share: roles of keys, lists of mistakes, the options that recur."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from compliance.cli import Result
from compliance.clock import parse_time
from compliance.errors import NoTrustAnchor, Refused
from compliance.identity import Role, Signer, load_signer
from compliance.study_file import mistakes_error
from compliance.validation import Mistake

FILE = click.Path(path_type=Path)

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

home_option: Decorator = click.option(
    "--home", type=FILE, default=Path("server"), show_default=True, help="The operator's folder."
)
out_option: Decorator = click.option("--out", type=FILE, required=True, help="The file to write; never overwritten.")
trust_option: Decorator = click.option(
    "--trust", "trust_file", type=FILE, help="Judge the study's signature by this trust file."
)
key_option: Decorator = click.option("--key", "key_file", type=FILE, required=True, help="The private key (.key).")


def load_role(key_file: Path, role: Role, act: str, *others: Role) -> Signer:
    """The key, if it has this role or one of `others`. Raises Refused RSD-6008."""
    signer, roles = load_signer(key_file), " or ".join((role, *others))
    if signer.identity.role not in (role, *others):
        raise Refused(
            "RSD-6008",
            f"this key may not {act}",
            rule=f"only a {roles} may {act}",
            found=f"{signer.identity.role} key of {signer.identity.holder}",
            limit=f"{roles} key",
            next=f"give the {roles} key with --key",
        )
    return signer


def must_sign_at(signer: Signer, at: str) -> str:
    """`at`, if the key may sign then. Raises Refused RSD-6020."""
    identity = signer.identity
    if not identity.may_sign_at(parse_time(at)):
        raise Refused(
            "RSD-6020",
            f"the {identity.role} key of {identity.holder} does not cover the time of this statement",
            rule="keys are judged at the time of the statement",
            found=at,
            limit=f"{identity.not_before} to {identity.not_after}",
            next="set the file's `issued` inside the period of the key, or use the key of that time",
        )
    return at


def need_trust(trust_file: Path | None, what: str) -> Path:
    """The path of the trust file. Raises NoTrustAnchor RSD-6015 if none was given."""
    if trust_file is None:
        raise NoTrustAnchor(
            "RSD-6015",
            f"{what} cannot be judged without a trust file",
            rule="signatures are judged by keys from outside",
            found="no --trust",
            limit="a trust file",
            next="give --trust trust.json, obtained from the consortium",
        )
    return trust_file


def signature(*, holds: bool) -> Result:
    """What a command says of the signature on a signed study: that nobody judged it, in words as well."""
    if holds:
        return Result({"signature": "holds"})
    return Result({"signature": "not judged"}, ["signature  not judged: residency study check FILE --trust trust.json"])


def mistakes_result(path: Path, mistakes: list[Mistake]) -> Result:
    """Exit 3, with one line for each mistake if there are several."""
    rows = [
        {"field": m.field, "message": m.message, "line": m.line, "found": m.found, "limit": m.limit} for m in mistakes
    ]
    lines = [str(m) for m in mistakes] if len(mistakes) > 1 else []
    return Result({"mistakes": rows}, lines, mistakes_error(str(path), mistakes))
