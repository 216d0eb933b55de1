"""`residency demo`: the main job, on real data, on this machine."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click
from rich.console import Console

from compliance.cli import Result, command
from compliance.errors import InputError
from compliance.files import absolute
from demo.cast import Folders


@click.command()
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("out"), show_default=True, help="A new or empty folder."
)
@click.option("--full", is_flag=True, help="Take the time that a better model needs; also measures the head alone.")
@command("residency.demo/1")
def demo(out: Path, full: bool) -> Result:
    """Four hospitals in four jurisdictions train one model with differential privacy; a fifth is refused.

    Drives the public commands as separate processes over TLS on this machine: about four minutes on two cores.

    \b
    Example: residency demo --out out
    """
    refuse_filled(out)
    from demo.crew import Crew  # noqa: PLC0415 - psutil and pandas are packages of the demo only
    from demo.memory import MemoryWatch  # noqa: PLC0415
    from demo.report import write_report  # noqa: PLC0415
    from demo.screen import Screen, last_lines  # noqa: PLC0415
    from demo.story import Story, recipe_of  # noqa: PLC0415

    started = time.monotonic()
    folders = Folders(absolute(out, "the folder"))
    screen = Screen(Console(stderr=_wants_json(), width=None))
    with MemoryWatch() as memory, Crew(folders.out / "logs") as crew:
        story = Story(crew, folders, screen, recipe_of(full), full)
        story.tell()
        write_report(folders.report, story.findings, story.study())
    seconds = time.monotonic() - started
    fields = story.findings.as_json(folders, seconds, memory.peak_mib)
    (folders.out / "demo.json").write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")
    screen.head("NOT SHOWN")
    screen.lines(last_lines(story.findings, folders, seconds, memory.peak_mib))
    return Result(fields)


def _wants_json() -> bool:
    """With --json stdout belongs to the one object, and the screens go to stderr."""
    context = click.get_current_context()
    return bool(context.params.get("as_json"))


def refuse_filled(out: Path) -> None:
    """Raise InputError RSD-8900 unless `out` is new or an empty folder."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(
            "RSD-8900",
            f"{out} is not empty",
            rule="a demo never mixes with what is there",
            found="files" if out.is_dir() else "a file",
            limit="a new or empty folder",
            next="choose another --out",
        )
