"""A refusal or withdrawal that went through this site's outbox holds here, whoever passes it on to whom."""

from __future__ import annotations

from client.home import AgentHome
from compliance.canonical import parse_canonical
from compliance.errors import Refused
from compliance.files import read_bytes
from compliance.identity import parse_envelope


def check_not_taken_back(home: AgentHome, study: str) -> None:
    """Raises Refused RSD-2208 if this site's signatory has refused `study`, or taken the approval back, by `deliver`.

    The signature was judged when the statement was queued; the files are this site's own.
    """
    outbox = home.path / "outbox"
    for place in (outbox, outbox / "delivered", outbox / "refused"):
        for kind in ("refusal", "withdrawal"):
            for file in sorted(place.glob(f"{home.config.site}.{kind}.*.json")):
                data = read_bytes(file, "an answer").removesuffix(b"\n")
                said = parse_canonical(parse_envelope(data, str(file)).payload, str(file))
                if said["digest"] == study:
                    raise Refused(
                        "RSD-2208",
                        f"the signatory of {home.config.site} has taken no part in this study: {kind}",
                        rule="a refusal or withdrawal is final for a study",
                        found=str(said["reason"])[:300],
                        limit="an approval that was not taken back",
                        next="ask the operator for a new study",
                    )
