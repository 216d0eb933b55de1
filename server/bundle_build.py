"""Builds the code-free app bundle: the same bytes, so the same digest, on every machine."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path
from typing import Final

from compliance.files import read_bytes

FILES: Final = ("pyproject.toml", "README.md")
_FOLDER: Final = Path(__file__).with_name("bundle")
_CONTENT: Final = ".info/CONTENT"
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can hold


def build_bundle() -> tuple[bytes, str]:
    """The bundle's bytes and their SHA-256 (64 lower-case hex digits).

    The bytes depend on the two files in server/bundle and on nothing else: not on time, folder, user, platform, zlib
    (files are stored uncompressed) or the version of Flower, whose own builder rewrites pyproject.toml with whatever
    TOML writer is installed. The form is Flower's: the files, and .info/CONTENT with a line "path,sha256,bits" for
    each. Raises InputError RSD-2005 if the installation lacks the two files.
    """
    files = {name: read_bytes(_FOLDER / name, "the app bundle's source") for name in FILES}
    listing = "\n".join(f"{name},{hashlib.sha256(data).hexdigest()},{8 * len(data)}" for name, data in files.items())
    content = _archive({**files, _CONTENT: listing.encode("ascii")})
    return content, hashlib.sha256(content).hexdigest()


def _archive(files: dict[str, bytes]) -> bytes:
    """A zip in which whatever could differ between machines is fixed: order, time, mode, system, compression."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name, date_time=_EPOCH)
            info.create_system = 3
            info.external_attr = 0o644 << 16
            archive.writestr(info, data)
    return out.getvalue()
