"""`residency agent deliver`: signed answers, made elsewhere, on their way to the operator."""

from __future__ import annotations

from pathlib import Path

import click

from client.command_options import FILE, HOME, at_home
from compliance.cli import Result, command
from compliance.errors import PeerUnreachable, ResidencyError
from compliance.files import read_bytes
from compliance.governance import MOST_STATEMENT


@click.command()
@click.argument("files", type=FILE, nargs=-1, required=True)
@HOME
@command("residency.agent.deliver/1")
def deliver(files: tuple[Path, ...], home: Path) -> Result:
    """Hand signed answers (advice, approval, refusal, withdrawal, leave) to the operator; queued while it is away.

    \b
    Example: residency agent deliver berlin.advice.json berlin.approval.json --home /srv/residency
    """
    from client import outbox  # noqa: PLC0415 - loads the law engine and gRPC
    from client.books import Books  # noqa: PLC0415
    from client.governance import GovernanceClient  # noqa: PLC0415
    from client.standing import Standing  # noqa: PLC0415

    opened = at_home(home)
    books = Books(opened)
    done: dict[str, ResidencyError | None] = {}
    trouble: ResidencyError | None = None
    try:
        statements = [(f, read_bytes(f, "a signed answer", MOST_STATEMENT)) for f in files]
        judged = [outbox.put(books, data, str(f)) for f, data in statements]
        try:
            with GovernanceClient.of(opened) as client:
                done = {d.file: d.error for d in outbox.deliver(books, Standing(books), client)}
        except ResidencyError as e:
            trouble = _queued(e)
    finally:
        books.close()
    rows = [
        {"file": str(f), "kind": j.kind, "study": j.study, "digest": j.digest, "state": _state(home, j.file_name)}
        for f, j in zip(files, judged, strict=True)
    ]
    refused = next((e for name, e in done.items() if e is not None and name in {j.file_name for j in judged}), None)
    return Result({"answers": rows}, [f"{r['state']:<10} {r['kind']} {r['file']}" for r in rows], refused or trouble)


def _state(home: Path, name: str) -> str:
    places = {"delivered": home / "outbox" / "delivered", "refused": home / "outbox" / "refused"}
    return next((word for word, place in places.items() if (place / name).exists()), "queued")


def _queued(error: ResidencyError) -> ResidencyError:
    """What the command ends with when nothing could be delivered now: exit 6 if the service is away."""
    if not isinstance(error, PeerUnreachable):
        return error
    return PeerUnreachable(
        "RSD-6311",
        "the answer stays queued: the operator's governance service does not answer",
        rule=error.rule,
        found=error.found,
        limit=error.limit,
        next="nothing: a running agent delivers it when the service is back; or give the file to the operator by hand",
    )
