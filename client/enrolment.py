"""Enrolling a site: its keys, its certificate, and the trust file and policy that its own signatory signed."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from client.home import AgentHome, new_node_key, open_own_law, open_own_policy
from compliance.canonical import canonical
from compliance.clock import now, parse_time, rfc3339
from compliance.errors import InputError, Refused
from compliance.files import quoted, read_bytes, write_durably
from compliance.identity import PublicIdentity, Role, load_public, new_signer, save_signer
from compliance.pki import SiteCertificate, read_site_certificate, signed_by
from compliance.policy_file import signed_policy
from compliance.trust.enrol import Invitation, claimed_invitation, make_request, open_invitation
from compliance.trust.home import new_folder
from compliance.trust.root import Anchor, check_successor, open_trust, signing_sites


def enrol(home: Path, invitation_file: Path, signatory: PublicIdentity, dpo: PublicIdentity, until: str) -> bytes:
    """Make the agent's folder and keys from an invitation; returns the signed enrolment request.

    Called again with the same invitation before a certificate is installed, it returns the same request: a lost reply
    costs nothing. The folder appears whole or not at all; the private keys stay in it. Raises InputError RSD-1208 when
    it is an agent's home already otherwise, or the people are others than in that request, RSD-2009 when it holds
    something else.
    """
    invitation = open_invitation(read_bytes(invitation_file, "invitation"), str(invitation_file))
    kept = home / "enrolment.json"
    if (home / "agent.json").exists():
        waiting = kept.exists() and not certificate_file(home).exists()
        if waiting and claimed_invitation(read_bytes(kept, "the request"), str(kept)) == invitation.digest:
            _check_same_people(home, signatory, dpo)
            return read_bytes(kept, "the request")
        raise _other_invitation(home, kept, invitation) if waiting else _home_exists(home)
    agent = new_signer("agent", invitation.site, rfc3339(now()), until)
    with new_folder(home) as making:
        save_signer(agent, making / "keys")
        node_key = new_node_key(making / "keys" / "node.key")
        request = make_request(invitation, agent, signatory, dpo, node_key).encode() + b"\n"
        write_durably(_person(making, "signatory"), canonical(signatory.as_json()) + b"\n")
        write_durably(_person(making, "dpo"), canonical(dpo.as_json()) + b"\n")
        write_durably(making / "ca.crt", invitation.ca_pem.encode("ascii"))
        write_durably(making / kept.name, request)
        write_durably(making / "agent.json", canonical(_config(invitation)))
    return request


def _home_exists(home: Path) -> InputError:
    return InputError(
        "RSD-1208",
        f"{home} is an agent's home already",
        rule="a home holds the keys of one enrolment",
        found="agent.json",
        limit="a new folder",
        next="keep this folder, which holds its keys and its log, and enrol in another --home; or go on with it:"
        f" residency agent status --home {quoted(home)}",
    )


def _other_invitation(home: Path, kept: Path, given: Invitation) -> InputError:
    """The home waits for the certificate of another invitation, which a newer one may have retired (RSD-6223)."""
    return InputError(
        "RSD-1208",
        f"{home} was made with another invitation, and has no certificate",
        rule="a home holds the keys of one enrolment",
        found=f"invitation {given.digest[:12]}",
        limit=f"invitation {claimed_invitation(read_bytes(kept, 'the request'), str(kept))[:12]}",
        next="if the earlier invitation was retired (RSD-6223), its enrolment is given up: remove this folder, or leave"
        " it and give another --home, and repeat the command; else go on here with the earlier invitation",
    )


def _person(home: Path, role: str) -> Path:
    return home / "people" / f"{role}.pub.json"


def _check_same_people(home: Path, signatory: PublicIdentity, dpo: PublicIdentity) -> None:
    """The request names people, and is made once: repeating it with others would send the first ones."""
    for role, given in (("signatory", signatory), ("dpo", dpo)):
        enrolled = load_public(_person(home, role))
        if given != enrolled:
            raise InputError(
                "RSD-1208",
                f"{home} was made with another {role}",
                rule="an enrolment request is made once, and repeated as it is",
                found=given.keyid[:12],
                limit=enrolled.keyid[:12],
                next=f"repeat it with {_person(home, role)}; or, to name another {role}, ask the operator for a new"
                " invitation and enrol with it in another --home",
            )


def certificate_file(home: Path) -> Path:
    """Where the certificate lies that the agent shows at the operator's doors."""
    return home / "certs" / "site.crt"


def install_certificate(home: AgentHome, data: bytes) -> SiteCertificate:
    """Keep this site's certificate (PEM) that `check_certificate` accepts. Raises what that raises."""
    certificate = check_certificate(home, data)
    write_durably(certificate_file(home.path), data)
    return certificate


def check_certificate(home: AgentHome, data: bytes) -> SiteCertificate:
    """This site's certificate (PEM), once it is known to be of our CA and for our node key, and valid now.

    Raises InputError RSD-6203 (no such certificate), Refused RSD-6211 (another CA, key, site or time).
    """
    certificate = read_site_certificate(data)
    config, at = home.config, now()
    key = load_pem_private_key(read_bytes(home.path / "keys" / "node.key", "the node key"), None)
    own = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    whose = f"{certificate.site} of {certificate.consortium}"
    period = f"{rfc3339(certificate.not_before)} to {rfc3339(certificate.not_after)}"
    for wrong, what, found, limit in (
        (not signed_by(data, read_bytes(home.path / "ca.crt", "the CA")), "issuer", "another CA", "the pinned CA"),
        (whose != f"{config.site} of {config.consortium}", "name", whose, f"{config.site} of {config.consortium}"),
        (certificate.public_key != own, "key", "another key", "this site's node key"),
        (not certificate.not_before <= at <= certificate.not_after, "time", rfc3339(at), period),
    ):
        if wrong:
            raise Refused(
                "RSD-6211",
                f"this certificate is not for this agent: {what}",
                rule="the certificate belongs to the node key that this site made",
                found=found,
                limit=limit,
                next="ask the operator for the certificate that belongs to this site's enrolment request",
            )
    return certificate


def need_certificate(home: AgentHome) -> Path:
    """The installed certificate's file. Raises Refused RSD-6211 if there is none: then no door opens."""
    file = certificate_file(home.path)
    if not file.exists():
        at = quoted(home.path)
        raise Refused(
            "RSD-6211",
            "this agent has no certificate for the operator's doors",
            rule="the doors speak mutual TLS",
            found="no certs/site.crt",
            limit="a certificate for this site's node key",
            next=f"residency agent enroll INVITATION --home {at} --signatory S --dpo D, or, with the file that the"
            f" operator sent: residency agent enroll --home {at} --certificate FILE",
        )
    return file


def _config(invitation: Invitation) -> dict[str, str]:
    return {
        "schema": "residency.agent/1",
        "site": invitation.site,
        "jurisdiction": invitation.jurisdiction,
        "consortium": invitation.consortium,
        "operator": invitation.operator.name,
        "server": invitation.server,
        "governance": invitation.governance,
        "enrolment": invitation.enrolment,
    }


def install_trust(home: AgentHome, file: Path) -> None:
    """Install the trust file that `check_trust` accepts. Raises what that raises."""
    data = read_bytes(file, "trust file")
    check_trust(home, data, str(file))
    write_durably(home.path / "trust.json", data)


def check_trust(home: AgentHome, data: bytes, what: str) -> Anchor:
    """A trust file that carries its threshold, names this site's own people, and that its signatory signed.

    The threshold alone would let made-up sites name another signatory for this one. A successor must follow the
    installed file. Raises CheckFailed RSD-6002, Refused RSD-6013, RSD-6014, RSD-1209 or RSD-1228.
    """
    anchor = open_trust(data, what, now())
    config = home.config
    if config.consortium != anchor.trust.consortium:
        raise _not_ours("consortium", anchor.trust.consortium, config.consortium)
    own = load_public(home.path / "keys" / "agent.pub.json")
    if own.keyid not in {k.keyid for k in anchor.trust.keys_of("agent", config.site)}:
        raise _not_ours("agent key", _keyids(anchor.trust.keys_of("agent", config.site)), own.keyid[:12])
    _check_people(home, anchor)
    if config.site not in signing_sites(anchor.trust, anchor.envelope, anchor.trust):
        raise Refused(
            "RSD-1228",
            f"the signatory of {config.site} has not signed this trust file",
            rule="a site follows a trust file that its own signatory signed",
            found=", ".join(sorted(signing_sites(anchor.trust, anchor.envelope, anchor.trust))) or "nobody",
            limit=config.site,
            next="have the signatory compare the members with the other sites, then: residency consortium sign",
        )
    old = home.path / "trust.json"
    if old.exists() and read_bytes(old, "trust file") != data:
        check_successor(home.anchor(), anchor)
    return anchor


def _check_people(home: AgentHome, anchor: Anchor) -> None:
    """The file names the enrolled people, and nobody else of this site whose key may sign when it is issued or later.

    Keys that have ended stay in the file for what they signed: those of the people of an earlier enrolment.
    """
    trust, site = anchor.trust, home.config.site
    roles: tuple[Role, ...] = ("signatory", "dpo")
    for role in roles:
        enrolled = load_public(_person(home.path, role)).keyid
        named = trust.keys_of(role, site)
        live = [k for k in named if not _ended(k, parse_time(trust.issued))]
        if enrolled not in {k.keyid for k in named} or {k.keyid for k in live} - {enrolled}:
            raise _not_ours(f"{role} key", _keyids(live), enrolled[:12])


def _ended(key: PublicIdentity, at: datetime) -> bool:
    revoked = key.revoked_at is not None and parse_time(key.revoked_at) <= at
    return revoked or parse_time(key.not_after) < at


def _keyids(keys: list[PublicIdentity]) -> str:
    return ", ".join(k.keyid[:12] for k in keys) or "none"


def _not_ours(what: str, found: str, limit: str) -> Refused:
    return Refused(
        "RSD-1209",
        f"this trust file names another {what} for this site",
        rule="an agent follows only a trust file with the keys that it was enrolled with",
        found=found,
        limit=limit,
        next="have this site's own enrolment request admitted, then install that trust file",
    )


def install_law(home: AgentHome, file: Path, advice: Path | None = None) -> str:
    """Install a law set that this site's signatory adopted, with the DPO's advice if the adoption names one.

    Returns the set's digest. From then on only a policy that names it counts. Raises CheckFailed, Refused or InputError
    as `AgentHome.law` does; then nothing changed.
    """
    advised = read_bytes(advice, "the advice on the law set") if advice is not None else b""
    opened = open_own_law(home.anchor(), read_bytes(file, "law set"), advised, str(file), home.config)
    kept = home.path / "law.advice.json"
    if advised:
        write_durably(kept, advised)
    else:
        kept.unlink(missing_ok=True)
    write_durably(home.path / "law.json", opened.adoption)
    return opened.law_set.digest


def install_policy(home: AgentHome, file: Path) -> str:
    """Install a policy that this site's signatory signed, after the law set that it names; returns its digest.

    Raises CheckFailed, Refused RSD-2204, RSD-2212 (issued before the installed one) or RSD-3033, or InputError RSD-3034
    as long as there is no law set.
    """
    data = read_bytes(file, "policy")
    opened = open_own_policy(home.anchor(), data, str(file), home.config.site)
    if opened.policy.jurisdiction != home.config.jurisdiction:
        raise Refused(
            "RSD-2204",
            "this policy belongs to another jurisdiction",
            found=opened.policy.jurisdiction,
            limit=home.config.jurisdiction,
            next="install the policy that this site's signatory signed",
        )
    installed = home.path / "policy.json"
    before = signed_policy(read_bytes(installed, "policy"), str(installed)).issued if installed.exists() else ""
    if before and parse_time(opened.policy.issued) < parse_time(before):
        raise Refused(
            "RSD-2212",
            "this policy was issued before the installed one",
            rule="a later policy is taken back by a later signature, not by an earlier one",
            found=opened.policy.issued,
            limit=f"{before} or later",
            next="have the signatory sign a policy of today",
        )
    home.law(home.anchor(), opened.policy)
    write_durably(installed, data)
    return opened.digest
