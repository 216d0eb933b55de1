"""What `verify` takes besides a bundle: one table from the form of a file to who judges it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from compliance.canonical import parse_json
from compliance.errors import InputError, ResidencyError, UsageError
from compliance.files import MOST_BYTES, read_bytes
from compliance.log.view import MAGIC, LogView, is_database
from compliance.release.report import Report
from compliance.trust.root import Anchor

SQLITE: Final = "a log.db"
TILES: Final = "tiles of a log"
EXPORT: Final = "residency.export/1"
EVIDENCE: Final = "evidence of a log"
DOSSIER: Final = "residency.dossier/1"
_ENVELOPE = ("application/vnd.", "+json")  # around the schema of a signed statement
_CHECKPOINT: Final = re.compile(rb"[^\n]+\n[0-9]+\n[A-Za-z0-9+/]{43}=\n\n\xe2\x80\x94 ")
_MOST_NAME = 80
_ZIP: Final = b"PK\x03\x04"
_NEXT: Final = "give a bundle, a log, the evidence of a log, an export or what `audit evidence` wrote"


@dataclass(frozen=True)
class Given:
    """A file that is judged by `anchor` as of `at`.

    against: checkpoints that others hold (name of the file, text of the note). log: where the log itself can be read,
    for what can be made again from it. view: the log in a database, where the caller has just read it.
    """

    path: Path
    data: bytes
    anchor: Anchor
    at: datetime
    against: tuple[tuple[str, str], ...] = ()
    log: Path | None = None
    view: LogView | None = None


@dataclass(frozen=True)
class Form:
    """One kind of file: who judges it, and which of `--against` and `--log` go with it."""

    judge: Callable[[Given], Report]
    options: frozenset[str] = frozenset()


def judge(file: Given, wanted: str | None = None) -> Report:
    """The report on a file, by its form. Errors in the file are in the report, exit code 1.

    Raises InputError RSD-5140 for a form that nobody judges, or another than the `wanted` one, UsageError RSD-9032 for
    an option that does not go with it, and what reading `log` raises.
    """
    name = form_of(file.data)
    form = FORMS.get(name) if wanted in {None, name} else None
    if form is None:
        found, advice = _seen(file, name)
        raise InputError(
            "RSD-5140",
            f"{file.path} is nothing that can be verified",
            rule="a file is judged by the schema that it names",
            found=found,
            limit=wanted or ", ".join(FORMS),
            next=advice,
        )
    given = {"--against": file.against, "--log": file.log}
    refuse_options({option for option, value in given.items() if value}, form.options, name)
    return form.judge(file)


def _seen(file: Given, name: str) -> tuple[str, str]:
    """What a file that nobody judges is, as far as it shows, and what to give in its place."""
    if file.data.startswith(_ZIP):
        return "a zip file", "unpack it, and give the folder or the file that was in it"
    source = file.path.with_suffix(".json")
    if file.path.suffix == ".html" and source.is_file():
        return "a page for people", f"give {source}, which it was made from"
    if form_of(file.data.replace(b"\r\n", b"\n")) in FORMS and b"\r\n" in file.data:
        return "line ends CR LF", "its line ends were changed on the way: obtain it again, or change CR LF back to LF"
    return name, _NEXT


def read_given(path: Path) -> bytes:
    """The bytes of the file, of a database only the first: its judge opens it. Raises InputError RSD-2005."""
    return MAGIC if is_database(path) else read_bytes(path, "file", MOST_BYTES)


def refuse_options(given: set[str], taken: frozenset[str], what: str) -> None:
    """Raises UsageError RSD-9032 if an option was given that does not go with `what`."""
    for option in sorted(given - taken):
        raise UsageError(
            "RSD-9032",
            f"{option} does not go with {what}",
            found=option,
            limit=", ".join(sorted(taken)) or "neither --against nor --log",
            next=f"leave {option} out",
        )


def form_of(data: bytes) -> str:
    """What a file says that it is: SQLITE, TILES (a checkpoint), the schema in its JSON or envelope, or its first line.

    JSON without a schema is the evidence of a log, and so is what cannot be read: its judge says what is wrong.
    """
    if data.startswith(MAGIC):
        return SQLITE
    if _CHECKPOINT.match(data):
        return TILES
    if not data.lstrip().startswith(b"{"):
        return data.partition(b"\n")[0][:_MOST_NAME].decode("utf-8", errors="replace") or EVIDENCE
    try:
        value = parse_json(data, "the file")
    except ResidencyError:
        return EVIDENCE
    named = value.get("schema") or _in_envelope(value.get("payloadType"))
    return named[:_MOST_NAME] if isinstance(named, str) else EVIDENCE


def _in_envelope(payload_type: object) -> str | None:
    """`residency.export/1` of `application/vnd.residency.export.v1+json`; other types as they are."""
    if not isinstance(payload_type, str):
        return None
    kind, _, version = payload_type.removeprefix(_ENVELOPE[0]).removesuffix(_ENVELOPE[1]).rpartition(".v")
    return f"{kind}/{version}" if kind else payload_type


def _evidence(file: Given) -> Report:
    from compliance.release.evidence_check import verify_evidence  # noqa: PLC0415 - one judge is loaded, not all

    return verify_evidence(file.data, file.against, file.anchor, file.at)


def _database(file: Given) -> Report:
    from compliance.release.evidence_check import verify_log  # noqa: PLC0415

    return verify_log(file.path, file.against, file.anchor, file.at, file.view)


def _tiles(file: Given) -> Report:
    from compliance.log.tiles import CHECKPOINT  # noqa: PLC0415
    from compliance.release.evidence_check import verify_tiles  # noqa: PLC0415

    if file.path.name != CHECKPOINT:
        raise InputError(
            "RSD-5140",
            f"{file.path} is a checkpoint without its log",
            rule="a checkpoint is judged with the tiles around it",
            found="one file",
            limit=f"a folder of tiles with its file {CHECKPOINT}",
            next="give the folder; or give the log, and this file with --against",
        )
    return verify_tiles(file.path.parent, file.against, file.anchor, file.at)


def _export(file: Given) -> Report:
    from compliance.export.check import verify_export  # noqa: PLC0415
    from compliance.log.view import read_views  # noqa: PLC0415
    from compliance.release.bundle_folder import read_folder  # noqa: PLC0415

    logs = read_views(file.log) if file.log else ()
    return verify_export(read_folder(file.path.parent), file.anchor, file.at, file.against, logs)


def _tlog_proof(file: Given) -> Report:
    from compliance.release.proof_check import verify_proof  # noqa: PLC0415

    return verify_proof(file.data, file.anchor, file.at)


def _dossier(file: Given) -> Report:
    from compliance.dossier.verify import verify_dossier  # noqa: PLC0415
    from compliance.log.view import read_views  # noqa: PLC0415

    beside = file.path.with_suffix(".html")
    page = read_bytes(beside, "page", MOST_BYTES) if beside.is_file() else None
    return verify_dossier(file.data, file.anchor, file.at, read_views(file.log) if file.log else None, page)


FORMS: Final[Mapping[str, Form]] = {
    EVIDENCE: Form(_evidence, frozenset({"--against"})),
    SQLITE: Form(_database, frozenset({"--against"})),
    "c2sp.org/tlog-proof@v1": Form(_tlog_proof),
    DOSSIER: Form(_dossier, frozenset({"--log"})),
    EXPORT: Form(_export, frozenset({"--against", "--log"})),
    TILES: Form(_tiles, frozenset({"--against"})),
}
