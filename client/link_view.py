"""What the link has done, as the files of the agent's home tell it: for people and for the doctor. Reads only."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from client.enrolment import certificate_file
from compliance.canonical import Json, parse_json
from compliance.clock import rfc3339
from compliance.files import read_bytes
from compliance.pki import read_site_certificate
from compliance.training_spec import Frozen
from compliance.validation import load_model


class LinkState(Frozen):
    """link.json: whether the service answered when it was last asked, since when, and if not, why."""

    state: Literal["online", "away"]
    since: str
    error: dict[str, str] = Field(default_factory=dict)


def link_state(home: Path) -> LinkState | None:
    """What the link wrote last; None if it never ran. Raises InputError RSD-1210."""
    file = home / "link.json"
    if not file.exists():
        return None
    return load_model(LinkState, parse_json(read_bytes(file, "the link's state"), str(file)), "RSD-1210", str(file))


def link_fields(home: Path) -> dict[str, Json]:
    """Certificate, connection, proposals that wait for an answer file, and the outbox. Raises InputError."""
    state, certificate = link_state(home), certificate_file(home)
    ends = ""
    if certificate.exists():
        ends = rfc3339(read_site_certificate(read_bytes(certificate, "the site's certificate")).not_after)
    outbox = home / "outbox"
    return {
        "certificate_ends": ends or "no certificate",
        "governance": state.model_dump(mode="json") if state else {"state": "never connected"},
        "proposals": sorted(f.stem for f in (home / "inbox" / "studies").glob("*.json")),
        "answers_queued": sorted(f.name for f in outbox.glob("*.json")),
        "answers_delivered": sorted(f.name for f in (outbox / "delivered").glob("*.json")),
        "answers_refused": sorted(f.name for f in (outbox / "refused").glob("*.json")),
    }
