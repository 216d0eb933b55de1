"""`residency log witness`: cosign the logs of others, over the network or by file; take such a cosignature."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from compliance.cli import Result, command, table
from compliance.commands.shared import FILE, Decorator, need_trust
from compliance.errors import CheckFailed, ResidencyError

if TYPE_CHECKING:
    from compliance.log.witness import WitnessStore

HOME: Decorator = click.option(
    "--home", type=FILE, default=Path("witness"), show_default=True, help="The witness's folder."
)
TRUST: Decorator = click.option("--trust", "trust_files", type=FILE, multiple=True, help="A trust file that names it.")


@click.group()
def witness() -> None:
    """Cosign the logs of others, so that nobody can rewrite one unseen. For an association, an auditor, a hospital.

    \b
    Example: residency log witness show --home ./witness
    """


@witness.command("init")
@click.argument("name")
@HOME
@click.option("--days", type=click.IntRange(1, 3650), default=730, show_default=True, help="How long its key may sign.")
@command("residency.log.witness.init/1")
def init(name: str, home: Path, days: int) -> Result:
    """Make the folder of the witness NAME: its key, which never leaves, and its memory.

    \b
    Example: residency log witness init patients-union --home ./witness
    """
    from compliance.log.witness_home import PUBLIC, WitnessHome  # noqa: PLC0415

    made = WitnessHome.make(home, name, days).signer().identity
    lines = [
        f"witness    {name}, key {made.keyid[:12]}, until {made.not_after}",
        f"public     {home / PUBLIC}",
        "next       give it to the operator, with your country: consortium admit --witness FILE --jurisdiction CODE",
    ]
    return Result({"name": name, "keyid": made.keyid, "public_file": str(home / PUBLIC)}, lines)


@witness.command("serve")
@HOME
@TRUST
@click.option("--host", default="127.0.0.1", show_default=True, help="Address; any other than the loopback needs TLS.")
@click.option("--port", type=click.IntRange(0, 65535), default=9650, show_default=True, help="0 takes a free one.")
@click.option("--tls-cert", type=FILE, help="Certificate chain of the door (PEM).")
@click.option("--tls-key", type=FILE, help="Its private key (PEM).")
@command("residency.log.witness.serve/1")
def serve(
    home: Path, trust_files: tuple[Path, ...], host: str, port: int, tls_cert: Path | None, tls_key: Path | None
) -> Result:
    """Answer c2sp.org/tlog-witness requests until SIGTERM. Prints one JSON line when it listens.

    It cosigns the logs of the members that the trust files name, and takes up a trust file that is replaced.

    \b
    Example: residency log witness serve --home ./witness --trust trust.json
    """
    from compliance.log.witness_run import run  # noqa: PLC0415

    if (tls_cert is None) != (tls_key is None):
        raise click.UsageError("give --tls-cert and --tls-key together")
    need_trust(trust_files[0] if trust_files else None, "a checkpoint")
    run(home, trust_files, (host, port), (tls_cert, tls_key) if tls_cert and tls_key else None)
    return Result()


@witness.command("cosign")
@click.argument("files", nargs=-1, required=True, type=FILE)
@HOME
@TRUST
@click.option("--out", type=FILE, required=True, help="Folder for the cosigned checkpoints; made if it is not there.")
@command("residency.log.witness.cosign/1")
def cosign(files: tuple[Path, ...], home: Path, trust_files: tuple[Path, ...], out: Path) -> Result:
    """Cosign by file, where no network reaches: FILES are evidence of logs, or requests made by `ask`.

    \b
    Example: residency log witness cosign run/evidence/leeds.json --trust trust.json --out cosigned
    """
    from compliance.commands import witness_files  # noqa: PLC0415

    need_trust(trust_files[0] if trust_files else None, "a checkpoint")
    done = witness_files.cosign_files(home, trust_files, files, out)
    rows = [[d.origin, d.size, d.file] for d in done]
    made = [{"origin": d.origin, "size": d.size, "line": d.line.rstrip("\n"), "file": str(d.file)} for d in done]
    return Result({"cosigned": made}, table(["log", "entries", "file"], rows))


@witness.command("ask")
@click.argument("home", type=FILE)
@click.option("--to", required=True, metavar="NAME", help="The witness, by its name in the trust file; decided first.")
@click.option("--trust", type=FILE, required=True, help="The trust file of the consortium.")
@click.option("--old", type=click.IntRange(0), default=0, show_default=True, help="Entries that the witness saw last.")
@click.option("--out", type=FILE, required=True, help="The request to write; never overwritten.")
@command("residency.log.witness.ask/1")
def ask(home: Path, to: str, trust: Path, old: int, out: Path) -> Result:
    """Write a request to a witness for the log of HOME, an agent's or the operator's folder, as it is now.

    The law set of HOME decides first whether the witness may be shown it; the log holds the decision.

    \b
    Example: residency log witness ask /srv/residency --to patients-union --trust trust.json --out request.txt
    """
    from compliance.commands import witness_files  # noqa: PLC0415

    size, decision = witness_files.ask(home, trust, to, old, out)
    lines = [
        f"request    {out}: {size} entries, proved from {old}",
        f"for        {to}, allowed by entry {decision}",
        "next       residency log witness cosign FILE",
    ]
    return Result({"file": str(out), "size": size, "old": old, "to": to, "decision": decision}, lines)


@witness.command("take")
@click.argument("files", nargs=-1, required=True, type=FILE)
@click.option("--into", type=FILE, required=True, help="A home, a run's folder, or a file of evidence.")
@click.option("--trust", type=FILE, required=True, help="The trust file of the consortium.")
@command("residency.log.witness.take/1")
def take(files: tuple[Path, ...], into: Path, trust: Path) -> Result:
    """Put cosigned checkpoints, made by `cosign`, where they belong: into a log, or the evidence of a run.

    \b
    Example: residency log witness take cosigned/leeds-120.txt --into server/runs/R --trust trust.json
    """
    from compliance.commands import witness_files  # noqa: PLC0415

    done = witness_files.take(files, into, trust)
    lines = [f"taken      {t.witness} on {t.origin} at {t.size} entries" for t in done]
    return Result({"taken": [t._asdict() for t in done]}, lines)


@witness.command("show")
@HOME
@command("residency.log.witness.show/1")
def show(home: Path) -> Result:
    """What this witness cosigned last of every log, and what convicts a log. Exit 1 if something does.

    \b
    Example: residency log witness show --home ./witness
    """
    from compliance.log.witness_home import WitnessHome  # noqa: PLC0415

    place = WitnessHome(home)
    signer = place.signer()
    with place.store(signer) as store:
        fields, lines, error = _shown(store)
    return Result({"name": signer.identity.holder, "keyid": signer.identity.keyid, **fields}, lines, error)


def _shown(store: WitnessStore) -> tuple[dict[str, object], list[str], ResidencyError | None]:
    from datetime import UTC, datetime  # noqa: PLC0415

    from compliance.clock import rfc3339  # noqa: PLC0415
    from compliance.log.alarms import TITLES  # noqa: PLC0415

    logs = [
        {"origin": s.origin, "size": s.size, "root": s.root.hex(), "at": rfc3339(datetime.fromtimestamp(s.at, UTC))}
        for s in store.seen()
    ]
    kept = [{"title": TITLES[r.code], **r._asdict()} for r in store.refused()]
    lines = table(["log", "entries", "root", "cosigned"], [[x["origin"], x["size"], str(x["root"])[:16], x["at"]]
                                                           for x in logs])  # fmt: skip
    lines += [f"ALARM {r['code']} {r['title']}: {r['origin']}, {r['at']}; its signed checkpoint is kept" for r in kept]
    error = None
    if kept:
        error = CheckFailed(
            str(kept[0]["code"]),
            f"{len(kept)} checkpoints convict their logs",
            rule="a log only grows, under one key",
            found=", ".join(sorted({str(r["origin"]) for r in kept})),
            limit="none",
            next="show the notes of --json to the auditor and the members",
        )
    return {"logs": logs, "convicting": kept}, lines, error


__all__ = ["witness"]
