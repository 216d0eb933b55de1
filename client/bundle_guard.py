"""Judges an app bundle before any of it is used: the site runs its installed code, never code that arrives.

A Flower app bundle is a zip that a stock node unpacks in front of everything on sys.path, so that code in it replaces
installed packages. Here it is only a name for an agreed configuration: it is read in memory, it is never unpacked to
disk, and nothing in it is imported.
"""

from __future__ import annotations

import hashlib
import io
import tomllib
import zipfile
import zlib
from dataclasses import dataclass
from typing import Any, Final

from compliance.errors import Refused

ALLOWED_FILES: Final = frozenset({"pyproject.toml", "README.md", "LICENSE", ".info/CONTENT"})
COMPONENTS: Final = {"serverapp": "server.app:app", "clientapp": "client.app:app"}
MAX_BUNDLE_BYTES: Final = 256 * 1024
MAX_FILE_BYTES: Final = 128 * 1024
MAX_FILES: Final = 32

_NO_CODE: Final = "no operator code runs at a site"


@dataclass(frozen=True)
class BundleFacts:
    """What was checked: the bundle's SHA-256, its project name and version, and its files in their order."""

    sha256: str
    name: str
    version: str
    files: tuple[str, ...]


def check_bundle(claimed_sha256: str, content: bytes, approved: frozenset[str]) -> BundleFacts:
    """Accept `content` only if it is the code-free bundle that this site approved.

    Checked in this order: size, that SHA-256 is the claimed one (RSD-1101), a sound zip within bounds (RSD-1102), no
    file beyond ALLOWED_FILES (RSD-1103, names the file), digest in `approved` (RSD-1104), the installed components and
    no settings but `study` (RSD-1106). Code is reported before a missing approval: it is the graver finding. Raises
    Refused; never writes and never imports.
    """
    if len(content) > MAX_BUNDLE_BYTES:
        raise _unsound("the bundle is too large", len(content), MAX_BUNDLE_BYTES)
    digest = hashlib.sha256(content).hexdigest()
    if digest != claimed_sha256:
        raise Refused(
            "RSD-1101",
            "the bundle is not the one that was announced",
            rule="a bundle is known by its SHA-256",
            found=digest,
            limit=claimed_sha256[:64],
            next="ask the operator to start the run again",
        )
    files = _read_files(content)
    if digest not in approved:
        raise Refused(
            "RSD-1104",
            "this bundle was not approved at this site",
            rule="the bundle's digest stands in the approval of the study",
            found=digest,
            limit=", ".join(sorted(approved)) or "no approved bundle",
            next="install the release that the study names, or ask the signatory for an approval",
        )
    return _facts(digest, files)


def _read_files(content: bytes) -> dict[str, bytes]:
    """Every file of the zip, in memory. The directory is judged before a single byte is inflated."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            infos = archive.infolist()
            _check_directory(infos)
            return {info.filename: _inflate(archive, info) for info in infos}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError) as e:
        raise _unsound("the bundle is not a sound zip", type(e).__name__, "a plain zip") from e


def _check_directory(infos: list[zipfile.ZipInfo]) -> None:
    for info in infos:
        # orig_filename is what stands in the archive; zipfile cuts names at a NUL and rewrites separators
        if info.orig_filename not in ALLOWED_FILES or info.filename not in ALLOWED_FILES:
            raise Refused(
                "RSD-1103",
                "code in the bundle",
                rule=_NO_CODE,
                found=ascii(info.orig_filename)[:200],
                limit=", ".join(sorted(ALLOWED_FILES)),
                next="ask the operator to start the run with the bundle of the release",
            )
    names = [info.filename for info in infos]
    if len(names) != len(set(names)):
        raise _unsound("a file occurs twice in the bundle", ", ".join(names)[:200], "each file once")
    if len(names) > MAX_FILES or "pyproject.toml" not in names:
        raise _unsound("the bundle has the wrong files", len(names), "pyproject.toml and its texts")
    for info in infos:
        if info.file_size > MAX_FILE_BYTES:
            raise _unsound(f"{info.filename} is too large", info.file_size, MAX_FILE_BYTES)


def _inflate(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """The file's bytes, read with a bound of our own: a directory may understate a size."""
    with archive.open(info) as stream:
        data = stream.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise _unsound(f"{info.filename} is too large", f"more than {MAX_FILE_BYTES}", MAX_FILE_BYTES)
    return data


def _facts(digest: str, files: dict[str, bytes]) -> BundleFacts:
    try:
        project: dict[str, Any] = tomllib.loads(files["pyproject.toml"].decode("utf-8"))
        app = project["tool"]["flwr"]["app"]
        name, version = project["project"]["name"], project["project"]["version"]
        components, settings = app["components"], app.get("config", {})
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise _unsound("the bundle's pyproject.toml is not readable", type(e).__name__, "a Flower app") from e
    if components != COMPONENTS:
        raise _other_app("the bundle names other components", components, COMPONENTS)
    if settings != {"study": ""}:
        raise _other_app("the bundle brings settings", settings, "study only, empty")
    return BundleFacts(digest, str(name), str(version), tuple(files))


def _unsound(message: str, found: object, limit: object) -> Refused:
    return Refused(
        "RSD-1102",
        message,
        rule="a bundle is a small plain zip",
        found=found,
        limit=limit,
        next="ask the operator to start the run with the bundle of the release",
    )


def _other_app(message: str, found: object, limit: object) -> Refused:
    return Refused(
        "RSD-1106",
        message,
        rule=_NO_CODE,
        found=str(found)[:200],
        limit=limit,
        next="ask the operator to start the run with the bundle of the release",
    )
