"""The TLS contexts of the server's two HTTP doors; a renewed certificate is taken up without stopping."""

from __future__ import annotations

import os
import ssl

from compliance.clock import now
from compliance.errors import EnvironmentFault
from compliance.tls import TlsFiles, certificate_days_left


class DoorTls:
    """One context that asks for a site's certificate (`public`), one that does not (`private`). TLS 1.3 only.

    Sessions are never resumed: each connection proves the possession of its key. Raises EnvironmentFault RSD-7104 for
    files that are missing, do not fit together or have ended, InputError RSD-1121.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._seen = _stamp(files)
        check_tls(files)
        self.public, self.private = _context(files), _context(files)
        try:
            self.public.load_verify_locations(cafile=files.ca)
        except (OSError, ssl.SSLError) as e:
            raise bad_tls(files, f"{files.ca.name}: {e.strerror or type(e).__name__}", "the consortium's CA") from e
        self.public.verify_mode = ssl.CERT_REQUIRED

    def refresh(self) -> bool:
        """Take up the server's certificate for connections from now on if the file has changed; whether it had.

        A file that cannot be used changes nothing and raises EnvironmentFault RSD-7104, once for each change.
        """
        seen = _stamp(self._files)
        if seen == self._seen:
            return False
        self._seen = seen
        check_tls(self._files)
        for context in (self.public, self.private):
            context.load_cert_chain(self._files.certificate, self._files.key)
        return True


def check_tls(files: TlsFiles) -> None:
    """The files can be used now. Raises EnvironmentFault RSD-7104, InputError RSD-1121."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files.certificate, files.key)
        left = certificate_days_left(files.certificate, now())
    except (OSError, ssl.SSLError) as e:
        raise bad_tls(files, f"{type(e).__name__}: {e.strerror}", "a certificate and its key") from e
    if left < 0:
        raise bad_tls(files, f"ended {-left} days ago", "a certificate that is valid today")


def bad_tls(files: TlsFiles, found: str, limit: str) -> EnvironmentFault:
    """RSD-7104: the server's TLS material cannot be used."""
    return EnvironmentFault(
        "RSD-7104",
        f"the server's TLS material at {files.certificate} cannot be used",
        rule="both doors speak TLS",
        found=found,
        limit=limit,
        next="restore the missing file from the backup of the operator's home; renew an ended certificate with"
        " residency consortium renew",
    )


def _context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.load_cert_chain(files.certificate, files.key)
    return context


def _stamp(files: TlsFiles) -> tuple[int, int] | None:
    """Changes whenever the certificate's file does; None if there is none."""
    try:
        found = os.stat(files.certificate)  # noqa: PTH116 - asked twice a second
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns
