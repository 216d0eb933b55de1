"""The operator's home: its folders and files by name. Whoever reads or writes one of them finds it here."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from compliance.canonical import Json, parse_canonical, parse_json
from compliance.clock import now
from compliance.errors import EnvironmentFault, InputError
from compliance.files import read_bytes, sync_folder
from compliance.identity import Signer, load_signer
from compliance.log.store import LogStore
from compliance.trust.consortium import Consortium
from compliance.trust.enrol import Invited, claimed_invitation
from compliance.trust.root import Anchor, load_anchor, log_origin
from compliance.validation import load_model

_TLS: Final = ("ca.crt", "ca.key", "server.crt", "server.key")


@dataclass(frozen=True)
class OperatorHome:
    """Paths below `root`; the methods read what is there."""

    root: Path

    @property
    def trust_file(self) -> Path:
        """The installed trust file."""
        return self.root / "trust.json"

    @property
    def log_file(self) -> Path:
        """The operator's transparency log."""
        return self.root / "log.db"

    @property
    def law_file(self) -> Path:
        """The law set that the operator adopted; without it every built-in pack applies."""
        return self.root / "law.json"

    @property
    def invitations(self) -> Path:
        """What is kept of the invitations sent, by digest; never a token."""
        return self.root / "invitations"

    @property
    def requests(self) -> Path:
        """Enrolment requests received, SITE.json."""
        return self.root / "requests"

    @property
    def certificates(self) -> Path:
        """Certificates issued to sites, SITE.crt."""
        return self.root / "certificates"

    @property
    def suspended(self) -> Path:
        """Suspensions by this operator, SITE.json; what lies here is not served."""
        return self.root / "suspended"

    @property
    def tls(self) -> Path:
        """The CA and the server's TLS files."""
        return self.root / "tls"

    def need_whole(self) -> None:
        """Everything that `consortium init` made is there, and the log once there is a trust file.

        Raises InputError RSD-2005 (no home) or RSD-6215.
        """
        self.config()
        needed = ("keys/operator.key", "keys/operator.pub.json", *(f"tls/{n}" for n in _TLS), "invitations")
        if self.trust_file.exists():  # by then there is a log: a new one would begin with what others never cosigned
            needed = (*needed, "log.db")
        missing = [name for name in needed if not (self.root / name).exists()]
        if missing:
            raise InputError(
                "RSD-6215",
                f"the operator's home at {self.root} is not whole",
                rule="keys and the TLS root are made once, by residency consortium init",
                found="missing: " + ", ".join(missing),
                limit="all that residency consortium init made",
                next="restore the missing files from the backup of the home; nothing makes them anew, because every"
                " site would be locked out",
            )

    def study_folder(self, digest: str) -> Path:
        """Where a proposed study lies."""
        return self.root / "studies" / digest[:16]

    def config(self) -> Consortium:
        """consortium.json. Raises InputError RSD-2005 (no operator home) or RSD-6019 (malformed)."""
        path = self.root / "consortium.json"
        record = parse_json(read_bytes(path, "the consortium"), str(path))
        return load_model(Consortium, record, "RSD-6019", str(path))

    def signer(self) -> Signer:
        """The operator's key."""
        return load_signer(self.root / "keys" / "operator.key")

    def ca_pem(self) -> str:
        """The CA certificate of the server, PEM."""
        return read_bytes(self.tls / "ca.crt", "the CA certificate").decode("ascii", errors="replace")

    def anchor(self) -> Anchor:
        """The installed trust file, unexpired."""
        return load_anchor(self.trust_file, now())

    def record(self, body: dict[str, Json], kind: str = "consortium") -> int:
        """Write an act of the operator into its log; the entry's index. It is on disk on return."""
        config, signer = self.config(), self.signer()
        with LogStore.open(self.log_file, log_origin(config.name, config.operator.name), signer.private) as log:
            return log.append(kind, body).index

    def invitation_of(self, request: bytes, what: str) -> Invited:
        """The invitation that `request` answers. Raises InputError RSD-6009 if this operator sent none such."""
        digest = claimed_invitation(request, what)
        path = self.invitations / f"{digest}.json"
        if not path.exists():
            raise InputError(
                "RSD-6009",
                f"{what} answers an invitation that this operator did not send",
                rule="enrolment",
                found=digest[:12],
                limit=", ".join(sorted(p.stem[:12] for p in self.invitations.glob("*.json"))) or "no invitation",
                next="residency consortium invite, and let the site enrol with that file",
            )
        return self.read_invited(path)

    def read_invited(self, path: Path) -> Invited:
        """What was kept of one invitation. Raises InputError RSD-2005, RSD-2002, RSD-6016."""
        value = parse_canonical(read_bytes(path, "an invitation").removesuffix(b"\n"), str(path))
        return load_model(Invited, value, "RSD-6016", str(path))


@contextmanager
def new_folder(root: Path) -> Iterator[Path]:
    """A folder to fill that appears as `root` at the end, whole, or not at all.

    Raises InputError RSD-2009 if `root` holds something already.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise InputError(
            "RSD-2009",
            f"{root} is not empty",
            rule="a home is never overwritten",
            found="files",
            limit="no such folder, or an empty one",
            next="choose another --home",
        )
    with _writing(root):
        root.parent.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(dir=root.parent, prefix=f".{root.name}."))
    try:
        yield making
        with _writing(root):
            making.chmod(0o700)
            making.replace(root)
            sync_folder(root.parent)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise


@contextmanager
def _writing(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise EnvironmentFault(
            "RSD-7001",
            f"cannot write {root}: {e.strerror}",
            found=e.strerror,
            next="choose a folder that you may write",
        ) from e
