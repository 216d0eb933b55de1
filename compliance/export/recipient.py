"""For whom an export is made: a member of the consortium, or somebody else with the jurisdiction that they are in."""

from __future__ import annotations

import re

from compliance.clock import now, rfc3339
from compliance.errors import UsageError
from compliance.law.model import CODE, NAME, Party, Transfer
from compliance.trust.root import Trust


def recipient_of(trust: Trust, text: str) -> Party:
    """NAME of a member, whose jurisdiction the trust file knows, or NAME:CODE. Raises UsageError RSD-5143."""
    name, _, code = text.partition(":")
    known = {m.name: m.jurisdiction for m in (trust.operator, *trust.sites)}
    place = code or known.get(name, "")
    if not re.fullmatch(NAME, name) or not re.fullmatch(CODE, place) or place != known.get(name, place):
        raise UsageError(
            "RSD-5143",
            f"{text} names nobody whom an export can be made for",
            rule="a decision is about a recipient and the jurisdiction that it is in",
            found=text,
            limit=f"{', '.join(known)}, or NAME:CODE for somebody else, such as authority:FR",
            next="give --to NAME or --to NAME:CODE",
        )
    return Party(name=name, jurisdiction=place)


def transfer_of_log(trust: Trust, member: str, recipient: Party, study: str) -> Transfer:
    """What would leave: entries of the log of `member`, for an audit. `study`: its digest, or empty for all."""
    where = trust.operator.jurisdiction if member == trust.operator.name else trust.site(member).jurisdiction
    return Transfer(
        artifact="log_export",
        exporter=Party(name=member, jurisdiction=where),
        recipient=recipient,
        purpose="audit",
        study=study,
        at=rfc3339(now()),
    )
