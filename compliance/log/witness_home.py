"""A witness's folder: its key, and its memory of what it cosigned. Nothing else is held."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

from compliance.clock import now, rfc3339
from compliance.errors import InputError, Refused
from compliance.files import sync_folder
from compliance.identity import Signer, load_signer, new_signer, save_signer
from compliance.log.witness import WitnessStore
from compliance.log.witness_protocol import LogKeys
from compliance.trust.home import new_folder
from compliance.trust.root import Anchor
from compliance.trust.witnesses import owners

KEY, PUBLIC, MEMORY = "witness.key", "witness.pub.json", "witness.db"


class WitnessHome:
    """The folder that `residency log witness init` makes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def make(cls, root: Path, name: str, days: int) -> WitnessHome:
        """A folder with a new key and an empty memory, whole or not at all. Raises InputError RSD-2009, RSD-6003."""
        start = now()
        signer = new_signer("witness", name, rfc3339(start), rfc3339(start + timedelta(days=days)))
        with new_folder(root) as folder:
            save_signer(signer, folder)
            WitnessStore(folder / MEMORY, name, signer.private).close()
            sync_folder(folder)
        return cls(root)

    def signer(self) -> Signer:
        """The witness's key. Raises InputError RSD-5100, RSD-6005, Refused RSD-5110 if the key has another role."""
        missing = [name for name in (KEY, PUBLIC, MEMORY) if not (self.root / name).exists()]
        if missing:
            raise InputError(
                "RSD-5100",
                f"{self.root} is no witness's folder, or not whole",
                rule="a witness has its key and its memory: without the memory it would cosign a second history",
                found=f"missing: {', '.join(missing)}",
                limit=f"{KEY}, {PUBLIC}, {MEMORY}",
                next="residency log witness init; a lost memory is not made anew: retire the key, and init a new one",
            )
        signer = load_signer(self.root / KEY)
        if signer.identity.role != "witness":
            raise _no_witness(f"{signer.identity.role} key of {signer.identity.holder}", "a witness key")
        return signer

    def store(self, signer: Signer) -> WitnessStore:
        """Its memory, open. Raises EnvironmentFault RSD-5030."""
        return WitnessStore(self.root / MEMORY, signer.identity.holder, signer.private)


def known_logs(anchors: Iterable[Anchor], signer: Signer) -> LogKeys:
    """The logs of the members of these trust files, by the keys that are valid now; one without such a key is left out.

    Raises Refused RSD-5110 if a trust file does not name this witness's key, valid now.
    """
    keys = {}
    for anchor in anchors:
        trust = anchor.trust
        named = [k for k in trust.keys_of("witness", signer.identity.holder) if k.keyid == signer.identity.keyid]
        if not any(k.may_sign_at(now()) for k in named):
            found = "the key is not named" if not named else "the key's period is over, or it was revoked"
            raise _no_witness(f"trust of {trust.consortium}, version {trust.version}: {found}", "its own key, valid")
        for origin, member in owners(trust).items():
            try:
                keys[origin] = trust.log_key(member).key()
            except InputError:  # its log is not cosigned until a new trust file names a key
                continue
    return keys


def _no_witness(found: str, limit: str) -> Refused:
    return Refused(
        "RSD-5110",
        "this is no witness of the consortium",
        rule="a witness cosigns for those whose trust file names its key",
        found=found,
        limit=limit,
        next="have its witness.pub.json admitted: residency consortium admit --witness FILE; then give that trust file",
    )
