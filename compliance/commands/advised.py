"""What studies, policies and law sets have in common: the DPO advises; who decides without or against it says why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import click

from compliance.answers import ADVICE, Advice, Subject, open_advice, read_advice
from compliance.clock import now, rfc3339
from compliance.commands.shared import FILE, Decorator, must_sign_at
from compliance.errors import Refused
from compliance.files import read_bytes
from compliance.identity import Envelope, Signer, seal
from compliance.trust.root import Anchor, load_anchor
from compliance.validation import load_model


@dataclass(frozen=True)
class Told:
    """What a data-protection officer advises, as options."""

    favourable: bool
    text: str

    @property
    def word(self) -> str:
        """For people: which way it goes."""
        return "favourable" if self.favourable else "unfavourable"


def told_options(do: Callable[..., Any]) -> Callable[..., Any]:
    """The options behind `Told`, which the command takes as `told`: one of the two ways, and words."""

    @click.option("--favourable", is_flag=True, help="The DPO advises in favour; give this or the next.")
    @click.option("--unfavourable", is_flag=True, help="The DPO advises against it.")
    @click.option("--text", required=True, help="The advice in words.")
    @wraps(do)
    def wrapped(favourable: bool, unfavourable: bool, text: str, **others: Any) -> Any:
        if favourable == unfavourable:
            given = "both" if favourable else "neither"
            raise click.UsageError(f"give --favourable or --unfavourable, one of the two (found {given})")
        return do(told=Told(favourable, text), **others)

    return wrapped


@dataclass(frozen=True)
class Given:
    """What a signatory gives as the ground of a decision, as options."""

    advice_file: Path | None
    trust_file: Path | None
    without: str
    against: str


def given_options(subject: Subject) -> Decorator:
    """The options behind `Given`, which the command takes as `given`."""

    def decorate(do: Callable[..., Any]) -> Callable[..., Any]:
        @click.option("--advice", "advice_file", type=FILE, help=f"The DPO's signed advice on this {_words(subject)}.")
        @click.option("--trust", "trust_file", type=FILE, help="Also check that the site's DPO signed the advice.")
        @click.option("--without-advice", "without", metavar="REASON", help="Why there is no advice.")
        @click.option("--against-advice", "against", metavar="REASON", help="Why unfavourable advice is not followed.")
        @wraps(do)
        def wrapped(
            advice_file: Path | None, trust_file: Path | None, without: str | None, against: str | None, **others: Any
        ) -> Any:
            if advice_file is not None and without is not None:
                raise click.UsageError("give --advice or --without-advice REASON, not both")
            if advice_file is None and against is not None:
                raise click.UsageError("--against-advice REASON goes with --advice, which is not given")
            return do(given=Given(advice_file, trust_file, without or "", against or ""), **others)

        return wrapped

    return decorate


@dataclass(frozen=True)
class Ground:
    """On which advice (its digest, or empty) and for which reason the signatory signs; `anchor` judged it."""

    advice: str
    favourable: bool
    reason: str
    anchor: Anchor | None

    @property
    def judged(self) -> str:
        """For people: that nobody judged the advice's signature, if so."""
        return "" if self.anchor else " (the advice's signature was not judged: no --trust)"


def seal_advice(signer: Signer, subject: Subject, digest: str, told: Told) -> Envelope:
    """The signed advice of the key's holder, dated now. Raises Refused RSD-6020, InputError RSD-2206."""
    record = {
        "schema": ADVICE,
        "subject": subject,
        "digest": digest,
        "site": signer.identity.holder,
        "at": must_sign_at(signer, rfc3339(now())),
        "favourable": told.favourable,
        "text": told.text,
    }
    return seal(load_model(Advice, record, "RSD-2206", "advice").as_json(), signer)


def ground(subject: Subject, digest: str, site: str, given: Given) -> Ground:
    """Advice on exactly this, or a reason. Without a trust file, who signed the advice is not judged.

    Raises Refused RSD-2202, RSD-2203, RSD-2213 or what `open_advice` raises.
    """
    anchor = load_anchor(given.trust_file, now()) if given.trust_file else None
    found = Ground("", favourable=False, reason=given.without, anchor=anchor)
    if given.advice_file is not None:
        data, what = read_bytes(given.advice_file, "advice"), str(given.advice_file)
        opened = open_advice(anchor, data, what, subject, now()) if anchor else read_advice(data, what)
        named = (opened.advice.subject, opened.advice.site, opened.advice.digest)
        if named != (subject, site, digest):
            raise _no_advice(subject, "the advice is on something else", " ".join(named), f"{subject} {site} {digest}")
        check_against(opened.advice, given.against)
        found = Ground(opened.digest, opened.advice.favourable, given.against, anchor)
    elif not given.without:
        message = f"there is no advice on this {_words(subject)}"
        raise _no_advice(subject, message, "neither", "--advice or --without-advice REASON")
    if found.advice and not found.favourable and not found.reason:
        raise Refused(
            "RSD-2203",
            f"signing the {_words(subject)} of {site} goes against the DPO's advice without a reason",
            rule="a decision against advice needs a logged reason",
            found="no reason",
            limit="a reason",
            next=f"give --against-advice REASON, or change the {_words(subject)}",
        )
    return found


def check_against(advice: Advice, against: str) -> None:
    """Who gives a reason against advice has advice to go against. Raises Refused RSD-2213."""
    if advice.favourable and against:
        raise Refused(
            "RSD-2213",
            f"the advice of {advice.at} on this {_words(advice.subject)} is favourable: nothing is decided against it",
            rule="a reason against advice belongs to unfavourable advice",
            found="favourable advice and --against-advice",
            limit="unfavourable advice, or no reason against it",
            next="leave --against-advice out, or give the unfavourable advice with --advice",
        )


def _no_advice(subject: Subject, message: str, found: str, limit: str) -> Refused:
    return Refused(
        "RSD-2202",
        message,
        rule="GDPR Art 38(1): the DPO is involved in time",
        found=found,
        limit=limit,
        next=f"residency {'law' if subject == 'law_set' else subject} advise, then sign with --advice",
    )


def _words(subject: Subject) -> str:
    return subject.replace("_", " ")
