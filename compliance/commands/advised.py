"""What studies, policies and law sets have in common: the DPO advises; who decides without or against it says why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compliance.answers import ADVICE, Advice, Subject, open_advice, read_advice
from compliance.clock import now, rfc3339
from compliance.commands.shared import must_sign_at
from compliance.errors import Refused
from compliance.files import read_bytes
from compliance.identity import Envelope, Signer, seal
from compliance.trust.root import Anchor
from compliance.validation import load_model


@dataclass(frozen=True)
class Ground:
    """On which advice (its digest, or empty) and for which reason the signatory signs."""

    advice: str
    favourable: bool
    reason: str


def seal_advice(signer: Signer, subject: Subject, digest: str, favourable: bool, text: str) -> Envelope:
    """The signed advice of the key's holder, dated now. Raises Refused RSD-6020, InputError RSD-2206."""
    record = {
        "schema": ADVICE,
        "subject": subject,
        "digest": digest,
        "site": signer.identity.holder,
        "at": must_sign_at(signer, rfc3339(now())),
        "favourable": favourable,
        "text": text,
    }
    return seal(load_model(Advice, record, "RSD-2206", "advice").as_json(), signer)


def ground(
    subject: Subject,
    digest: str,
    site: str,
    advice_file: Path | None,
    anchor: Anchor | None,
    without: str | None,
    against: str | None,
) -> Ground:
    """Advice on exactly this, or a reason. `anchor` None: who signed the advice is not judged.

    Raises Refused RSD-2202, RSD-2203 or what `open_advice` raises.
    """
    found = Ground("", favourable=False, reason=without or "")
    if advice_file is not None:
        data, what = read_bytes(advice_file, "advice"), str(advice_file)
        opened = open_advice(anchor, data, what, subject, now()) if anchor else read_advice(data, what)
        named = (opened.advice.subject, opened.advice.site, opened.advice.digest)
        if named != (subject, site, digest):
            raise _no_advice(subject, "the advice is on something else", " ".join(named), f"{subject} {site} {digest}")
        found = Ground(opened.digest, opened.advice.favourable, against or "")
    elif not without:
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
