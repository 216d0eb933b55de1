"""`residency log export`: entries of a log as files that other systems read, signed by whose log it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compliance.cli import Result, command
from compliance.clock import now, parse_time, rfc3339
from compliance.commands.elsewhere import part
from compliance.commands.shared import FILE, load_role, must_sign_at
from compliance.errors import InputError, UsageError
from compliance.files import quoted, refuse_existing
from compliance.log.entry import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from compliance.canonical import Json
    from compliance.export.statement import FormatName, Selection, Statement
    from compliance.law.model import Party
    from compliance.log.store import LogStore
    from compliance.log.view import LogView

_LEAST_DIGITS, _ALL_DIGITS = 8, 64
_AT_HOME = "stays in the house: nobody was asked whether it may leave (--to)"
_UNSIGNED = "NOT SIGNED: nobody vouches for this export, and the log does not record it (--key)"


@click.command("export")
@click.argument("path", type=FILE)
@click.option("--format", "name", type=click.Choice(["jsonl", "csv", "fhir"]), default="jsonl", show_default=True,
              help="Whole entries, a table, or FHIR R4 AuditEvents.")  # fmt: skip
@click.option("--study", default="", help="Only this study: its digest, or the first 8 digits or more.")
@click.option(
    "--kind", "kinds", type=click.Choice(KINDS), multiple=True, metavar="KIND",
    help="Only this kind, such as decision or transfer. May be repeated.",
)  # fmt: skip
@click.option("--since", default="", help="Only entries at or after this UTC time.")
@click.option("--until", default="", help="Only entries before this UTC time.")
@click.option("--key", type=FILE, help="The key that the log is signed with: keys/agent.key or keys/operator.key.")
@click.option("--to", default="", metavar="NAME[:CODE]", help="Who gets it, decided first: a member, or authority:FR.")
@click.option("--out", type=FILE, required=True, help="The folder to write; must not exist.")
@command("residency.log.export/1")
def export(path: Path, name: FormatName, key: Path | None, to: str, out: Path, **asked: Any) -> Result:
    """Write entries of a log to a folder: the entries, all leaf hashes, and a statement about both.

    PATH is the home of an agent or operator, a log.db, or the evidence of one log. With --key the log signs a
    checkpoint and the statement, and records the export; without it nobody vouches for the export. With --to the law
    set of the log's member decides first whether it may go there.

    \b
    Example: residency log export agent --format csv --key agent/keys/agent.key --out berlin-export
    """
    refuse_existing(out)
    chosen = _selection(path, **asked)
    if key is not None:
        return _signed(path, name, chosen, key, to, out)
    if to:
        raise UsageError("RSD-5143", "what leaves the house is decided, logged and signed", found="--to without --key",
                         limit="--to with --key", next="give --key, or leave --to out")  # fmt: skip
    from compliance.export.folder import write_folder  # noqa: PLC0415 - pydantic models of what stands in the files
    from compliance.export.make import NOT_LOGGED  # noqa: PLC0415

    view = _one(path)
    return _told(out, write_folder(out, view, name, chosen, None, lambda _: NOT_LOGGED), view, signed=False)


def _signed(path: Path, name: FormatName, chosen: Selection, key: Path, to: str, out: Path) -> Result:
    """Decide if it leaves, sign a checkpoint of the log as it is now, write the files, log that, sign the statement."""
    from compliance.export.folder import write_folder  # noqa: PLC0415
    from compliance.export.make import Logged, Written  # noqa: PLC0415
    from compliance.log.bodies import ExportBody  # noqa: PLC0415
    from compliance.log.order import refuse_set_back  # noqa: PLC0415
    from compliance.log.store import LogStore  # noqa: PLC0415

    signer = load_role(key, "agent", "sign an export of its log", "operator")
    must_sign_at(signer, rfc3339(now()))
    with LogStore.open(file := _database(path), _origin(file), signer.private) as log:
        refuse_set_back(log, rfc3339(now()))  # by such a clock it would be dated, and its key judged, wrongly
        party, decision = _cleared(path, signer.identity.role, log, to, chosen.study) if to else (None, None)
        log.checkpoint()
        view = _one(path)

        def record(made: Written) -> Logged:
            body = ExportBody(
                format=name, filter_sha256=chosen.digest, size=made.size, entries=len(made.indices),
                sha256=made.files[0].sha256, to=party.name if party else "", decision=decision,
            )  # fmt: skip
            return Logged(party, decision, log.append("export", body.as_json()).index)

        statement = write_folder(out, view, name, chosen, signer, record)
    return _told(out, statement, view, signed=True)


def _cleared(path: Path, role: str, log: LogStore, to: str, study: str) -> tuple[Party, int]:
    home = path if path.is_dir() else path.parent
    extra = "server" if role == "operator" else "agent"
    clear: Callable[[Path, LogStore, str, str], tuple[Party, int]] = part(f"clear_{role}", "log export --to", extra)
    return clear(home, log, to, study)


def _one(path: Path) -> LogView:
    from compliance.log.view import read_views  # noqa: PLC0415

    views = read_views(path)
    if len(views) != 1:
        raise _no_single_log(
            path, f"{len(views)} logs", "one log", "give the evidence of one log: evidence/MEMBER.json"
        )
    return views[0]


def _database(path: Path) -> Path:
    """The log.db that is signed and written to. Raises InputError RSD-5142 for what is none."""
    from compliance.log.view import is_database  # noqa: PLC0415

    file = path / "log.db" if path.is_dir() else path
    if not is_database(file):
        raise _no_single_log(path, "no log, or a copy of one", "a home or a log.db", "give the home of whose log it is")
    return file


def _no_single_log(path: Path, found: str, limit: str, next: str) -> InputError:
    message = f"{path} is not the one log that is exported"
    return InputError("RSD-5142", message, rule="an export is of one log", found=found, limit=limit, next=next)


def _origin(file: Path) -> str:
    from compliance.log.read_only import look  # noqa: PLC0415

    return str(look(file, lambda c: c.execute("SELECT origin FROM log").fetchone()[0]))


def _selection(path: Path, study: str, kinds: tuple[str, ...], since: str, until: str) -> Selection:
    from compliance.export.statement import Selection  # noqa: PLC0415
    from compliance.validation import load_model  # noqa: PLC0415

    record = {
        "study": study if len(study) in {0, _ALL_DIGITS} else _whole_digest(path, study),
        "kinds": sorted(set(kinds)),
        "since": rfc3339(parse_time(since, "--since")) if since else "",
        "until": rfc3339(parse_time(until, "--until")) if until else "",
    }
    return load_model(Selection, record, "RSD-5144", "the filter")


def _whole_digest(path: Path, study: str) -> str:
    known = sorted({e.study for e in _one(path).entries.values() if e.study})
    found = [digest for digest in known if digest.startswith(study)]
    if len(found) != 1 or len(study) < _LEAST_DIGITS:
        raise InputError(
            "RSD-5144",
            f"the log shows no single study {study}",
            found=f"{len(found)} studies",
            limit=", ".join(digest[:16] for digest in known[:20]) or "no study",
            next="give a study's digest, or its first 8 digits or more",
        )
    return found[0]


def _told(out: Path, made: Statement, view: LogView, *, signed: bool) -> Result:
    expired = len(made.expired_classes())
    later = view.size - made.size
    to = made.to
    whom = f"for {to.name} ({to.jurisdiction}), allowed by entry {made.decision}" if to else _AT_HOME
    lines = [
        f"exported: {out} ({made.entries} of the first {made.size} entries of log {made.origin}, {made.format})",
        f"filter: {made.selection.words()}",
        f"signed with the log's key; recorded as entry {made.logged}" if signed else _UNSIGNED,
        whom,
        *([] if view.whole else [f"only the {len(view.entries)} entries that are shown there could be taken"]),
        *([f"{expired} entries have expired by retention; their leaf hashes are there"] if expired else []),
        *([f"{later} entries after the last checkpoint are not in it: no checkpoint covers them"] if later else []),
        f"next: residency verify {quoted(out)} --trust trust.json{'' if signed else ' --log LOG'}",
    ]
    fields: dict[str, Json] = {
        "out": str(out),
        "signed": signed,
        "not_covered_by_a_checkpoint": later,
        **{name: value for name, value in made.as_json().items() if name not in {"schema", "checkpoint", "earlier"}},
    }
    return Result(fields, lines)
