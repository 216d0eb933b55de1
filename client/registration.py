"""Enrolling a site, and registering what it has: data extracts and model folders."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from client.admission import file_digest
from client.data.table import TableFile, row_keys
from client.home import AgentHome, DatasetRecord, ModelRecord, Registry, new_node_key, open_own_policy
from client.training.model_folder import model_digest
from compliance.canonical import canonical
from compliance.clock import now, rfc3339
from compliance.errors import EnvironmentFault, InputError, Refused
from compliance.files import read_bytes, write_durably
from compliance.identity import PublicIdentity, load_public, new_signer, save_signer
from compliance.trust.enrol import Invitation, make_request, open_invitation
from compliance.trust.root import check_successor, open_trust, signing_sites
from compliance.validation import load_model

KEY_DAYS = 365


def enrol(home: Path, invitation_file: Path, signatory: PublicIdentity, dpo: PublicIdentity, until: str) -> bytes:
    """Make the agent's folder and keys from an invitation; returns the signed enrolment request.

    Raises InputError RSD-1208 when the folder is an agent's home already; the private keys stay in it.
    """
    if (home / "agent.json").exists():
        raise InputError(
            "RSD-1208",
            f"{home} is an agent's home already",
            found="agent.json",
            limit="a new folder",
            next="use another --home, or go on with this one: residency agent status",
        )
    invitation = open_invitation(read_bytes(invitation_file, "invitation"), str(invitation_file))
    agent = new_signer("agent", invitation.site, rfc3339(now()), until)
    save_signer(agent, home / "keys")
    node_key = new_node_key(home / "keys" / "node.key")
    request = make_request(invitation, agent, signatory, dpo, node_key)
    write_durably(home / "people" / "signatory.pub.json", canonical(signatory.as_json()) + b"\n")
    write_durably(home / "people" / "dpo.pub.json", canonical(dpo.as_json()) + b"\n")
    write_durably(home / "ca.crt", invitation.ca_pem.encode("ascii"))
    write_durably(home / "agent.json", canonical(_config(invitation)))
    return request.encode() + b"\n"


def _config(invitation: Invitation) -> dict[str, str]:
    return {
        "schema": "residency.agent/1",
        "site": invitation.site,
        "jurisdiction": invitation.jurisdiction,
        "consortium": invitation.consortium,
        "operator": invitation.operator.name,
        "server": invitation.server,
    }


def install_trust(home: AgentHome, file: Path) -> None:
    """Install a trust file that carries its threshold, names this site's own people, and that its signatory signed.

    The threshold alone would let made-up sites name another signatory for this one. A successor must follow the old
    file. Raises CheckFailed RSD-6002, Refused RSD-6013, RSD-6014, RSD-1209 or RSD-1228.
    """
    data = read_bytes(file, "trust file")
    anchor = open_trust(data, str(file), now())
    config = home.config
    if config.consortium != anchor.trust.consortium:
        raise _not_ours("consortium", anchor.trust.consortium, config.consortium)
    own = load_public(home.path / "keys" / "agent.pub.json")
    if own.keyid not in {k.keyid for k in anchor.trust.keys_of("agent", config.site)}:
        raise _not_ours("agent key", _keyids(anchor.trust.keys_of("agent", config.site)), own.keyid[:12])
    for role in ("signatory", "dpo"):
        enrolled = load_public(home.path / "people" / f"{role}.pub.json")
        named = anchor.trust.keys_of(role, config.site)
        if {k.keyid for k in named} != {enrolled.keyid}:
            raise _not_ours(f"{role} key", _keyids(named), enrolled.keyid[:12])
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
    write_durably(old, data)


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


def install_policy(home: AgentHome, file: Path) -> str:
    """Install a policy that this site's signatory signed; returns its digest. Raises CheckFailed or Refused."""
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
    write_durably(home.path / "policy.json", data)
    return opened.digest


def add_dataset(home: AgentHome, name: str, path: Path, source: str, id_columns: Sequence[str]) -> tuple[str, int]:
    """Register an extract under the ledger of its data source; returns the source and how many rows were known before.

    An extract that shares rows with a registered source inherits that source's ledger, whatever name was asked for:
    a copy or a re-export must not start with an empty ledger. Rows are known by the values of `id_columns`, in that
    order, whatever the columns are called. One that overlaps two sources is refused (RSD-1231).
    """
    registry = home.registry()
    if any(d.name == name for d in registry.datasets):
        raise InputError(
            "RSD-1230", f"dataset {name} is registered already", found=name, limit="a new name",
            next="choose another name for the new extract",
        )  # fmt: skip
    asked = {
        "name": name, "path": str(path.resolve()), "source": source, "id_columns": list(id_columns),
        "sha256": "0" * 64, "added": rfc3339(now()),
    }  # fmt: skip
    record = load_model(DatasetRecord, asked, "RSD-1235", "dataset")
    table = TableFile(path).table(list(id_columns))
    digest = file_digest(path)
    places = [f"id{i}" for i in range(len(id_columns))]
    keys = row_keys(home.secret(), table[list(id_columns)].set_axis(places, axis=1), places)
    known, shared = _join_source(home.path / "rows.db", keys, source)
    owned = record.model_copy(update={"source": known, "sha256": digest})
    home.save_registry(Registry(datasets=(*registry.datasets, owned), models=registry.models))
    return known, shared


def _join_source(database: Path, keys: list[bytes], source: str) -> tuple[str, int]:
    """Remember the keyed hashes of the rows; the source that already holds some of them wins over `source`."""
    try:
        connection = sqlite3.connect(database, isolation_level=None)
        try:
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS rows (key BLOB PRIMARY KEY, source TEXT NOT NULL) STRICT, WITHOUT ROWID"
            )
            database.chmod(0o600)
            connection.execute("BEGIN IMMEDIATE")
            held: dict[str, int] = {}
            for key in set(keys):
                row = connection.execute("SELECT source FROM rows WHERE key = ?", (key,)).fetchone()
                if row:
                    held[row[0]] = held.get(row[0], 0) + 1
            if len(held) > 1:
                connection.execute("ROLLBACK")
                raise _two_sources(sorted(held))
            target = next(iter(held), source)
            connection.executemany("INSERT OR IGNORE INTO rows VALUES (?, ?)", [(k, target) for k in keys])
            connection.execute("COMMIT")
            return target, sum(held.values())
        finally:
            connection.close()
    except sqlite3.Error as e:
        raise EnvironmentFault("RSD-1232", f"cannot write {database}: {e}", next="check the disk, then repeat") from e


def _two_sources(held: list[str]) -> Refused:
    return Refused(
        "RSD-1231",
        "this extract shares rows with more than one data source",
        rule="an extract spends from one ledger",
        found=", ".join(held),
        limit="one data source",
        next="split the extract by data source",
    )


def add_model(home: AgentHome, folder: Path, name: str) -> str:
    """Register a model folder by its digest; returns the digest. Idempotent. Raises InputError RSD-23xx."""
    digest = model_digest(folder)
    registry = home.registry()
    others = tuple(m for m in registry.models if m.sha256 != digest)
    record = ModelRecord(name=name, path=str(folder.resolve()), sha256=digest)
    home.save_registry(Registry(datasets=registry.datasets, models=(*others, record)))
    return digest
