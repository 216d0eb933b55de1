"""Law sets of a run: each site's signatory adopted its own, and the operator perhaps its own; the run keeps them."""

from __future__ import annotations

from collections.abc import Iterable

from compliance.canonical import Json
from compliance.clock import now
from compliance.identity import parse_envelope
from compliance.law.law_adoption import OpenAdoption, check_advised, check_jurisdiction, open_adoption, read_adoption
from compliance.messages import JoinReply
from compliance.release.bodies import AdoptionBody
from compliance.trust.root import Anchor, Member
from server.run_folder import RunFolder


def check(anchor: Anchor, reply: JoinReply) -> None:
    """The adoption in a member's join reply: by its own signatory, for its jurisdiction, on advice or with a reason.

    Raises CheckFailed, Refused or InputError, as at the site itself.
    """
    adoption, advice = reply.adoption.encode("utf-8"), reply.law_advice.encode("utf-8")
    _open(anchor, anchor.trust.site(reply.site), adoption, advice, f"the adoption of {reply.site}")


def of_operator(anchor: Anchor, data: bytes, what: str) -> OpenAdoption:
    """The operator's own: signed with its key of now, for where it is, with a reason. Raises as `check` does."""
    return _open(anchor, anchor.trust.operator, data, b"", what)


def of_run(anchor: Anchor, folder: RunFolder) -> OpenAdoption | None:
    """The operator's law set as it was when the run was handed over; None if it had none. Raises as `check` does."""
    operator = anchor.trust.operator.name
    data = folder.adoption(operator)
    return of_operator(anchor, data, f"the adoption of {operator}") if data else None


def _open(anchor: Anchor, member: Member, data: bytes, advice: bytes, what: str) -> OpenAdoption:
    at = now()
    opened = open_adoption(anchor, data, what, member.name, at)
    check_jurisdiction(opened.law_set, member.jurisdiction)
    check_advised(anchor, opened, advice, f"the advice of {member.name} on its law set", at)
    return opened


def keep(folder: RunFolder, replies: Iterable[JoinReply]) -> list[dict[str, Json]]:
    """Write the checked adoptions and advices into the run's folder; the bodies of the operator's entries on them."""
    entries = []
    for reply in replies:
        folder.write_law(reply.site, reply.adoption, reply.law_advice)
        data, what = reply.adoption.encode("utf-8"), f"the adoption of {reply.site}"
        entries.append(body(OpenAdoption(read_adoption(data, what), parse_envelope(data, what).digest)))
    return entries


def body(opened: OpenAdoption) -> dict[str, Json]:
    """The operator's entry about an adoption."""
    adoption = opened.adoption
    return AdoptionBody(site=adoption.site, law_set=adoption.digest, digest=opened.digest).as_json()
