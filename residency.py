"""The `residency` command. Groups are imported only when they are called: `--help` needs neither torch nor flwr."""

from __future__ import annotations

import importlib
import io
import os
import sys
import traceback
from typing import ClassVar, NoReturn

import click

from compliance.cli import emit_error, emit_json, interrupted, nobody_reads, not_installed, system_refused, usage_error
from compliance.errors import ResidencyError


class LazyGroup(click.Group):
    """Top of the command tree: name -> (module:attribute, one line of help)."""

    COMMANDS: ClassVar[dict[str, tuple[str, str]]] = {
        "verify": ("compliance.commands.verify:verify", "Check a bundle, log, export, evidence or proof offline."),
        "key": ("compliance.commands.key:key", "Make and show signing keys."),
        "consortium": ("compliance.commands.consortium:consortium", "The trust file: members, keys and signatures."),
        "study": ("compliance.commands.study:study", "Write, check, sign, propose and answer studies."),
        "policy": ("compliance.commands.policy:policy", "The limits of a site."),
        "law": ("compliance.commands.law:law", "Law packs, and the set of them that a site adopts."),
        "agent": ("client.commands:agent", "The on-premise agent beside the data."),
        "server": ("server.commands:server", "The federation server."),
        "run": ("server.run_commands:run", "Start and show runs."),
        "release": ("compliance.commands.release:release", "Build and show a release."),
        "log": ("compliance.commands.log:log", "The transparency log: check, export, compact, witness."),
        "audit": ("compliance.commands.audit:audit", "Explain and replay decisions; how long records are kept."),
        "explain": ("compliance.commands.explain:explain", "What an error code means and what to do."),
        "demo": ("demo.command:demo", "The main job, on real data, on this machine."),
        "bench": ("bench.command:bench", "Benchmarks that print JSON."),
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of a person's work."""
        del ctx
        return list(self.COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the group that is called."""
        del ctx
        if cmd_name not in self.COMMANDS:
            return None
        module, attribute = self.COMMANDS[cmd_name][0].split(":")
        try:
            loaded = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as e:
            return _unavailable(cmd_name, str(e.name))
        return loaded if isinstance(loaded, click.Command) else None

    def invoke(self, ctx: click.Context) -> object:
        """Run the command. A reader that closes the pipe of one that only streams ends it, with 0."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # click would exit with 1, which says that a check is false
            nobody_reads()
            sys.exit(0)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Help lines without importing the groups."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.COMMANDS.items()])


def _unavailable(name: str, missing: str) -> click.Command:
    """A command whose packages are not installed: exit 7 with what to install."""
    extra = {"agent": "agent", "server": "server", "run": "server"}.get(name, "demo")

    @click.command(name, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
    def absent() -> None:
        _end(not_installed(name, missing, extra))

    return absent


# Parts of agent and server by name: commands of compliance may call them, and compliance imports neither.
_PARTS = {
    "dry_run": "client.dry_run:dry_run",
    "clear_agent": "client.handing_out:clear",
    "clear_operator": "server.handing_out:clear",
    "show_agent": "client.handing_out:show",
    "show_operator": "server.handing_out:show",
}
_SETTINGS = {"help_option_names": ["-h", "--help"], "obj": _PARTS}


@click.command(cls=LazyGroup, context_settings=_SETTINGS)
@click.version_option(package_name="residency")
def cli() -> None:
    """Federated fine-tuning in which each hospital decides what leaves, and anybody can check the record.

    Example: residency verify out/bundle --trust out/trust.json
    """


def _wants_json() -> bool:
    """Whether --json was asked for, also where the command line is wrong and its options are not known."""
    return "--json" in sys.argv[1:]


def _end(error: ResidencyError) -> NoReturn:
    """Print an error that no command caught, and leave. On stderr too where stdout takes nothing any more."""
    try:
        if _wants_json():
            emit_json("residency.usage/1", {}, error)
        else:
            emit_error(error)
    except OSError:
        nobody_reads()
        emit_error(error)
    sys.exit(error.exit_code)


def _interrupted() -> NoReturn:
    error = interrupted()
    if _wants_json():
        _end(error)
    click.echo(f"error {error.code}: {error.message}", err=True)
    sys.exit(error.exit_code)


def _prepare() -> None:
    """No telemetry and no network of the libraries, and a terminal that can show any name."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that this terminal cannot show is shown by its bytes
            stream.reconfigure(errors="backslashreplace")


def main() -> None:
    """Run the command; usage errors exit 2, an interrupt 130, a bug 70 with a request to report it."""
    _prepare()
    try:
        cli.main(standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        _interrupted()
    except click.ClickException as e:
        if _wants_json():
            emit_json("residency.usage/1", {}, usage_error(e))
        else:
            e.show()
        sys.exit(2)
    except OSError as e:
        _end(system_refused(e))
    except Exception as e:  # noqa: BLE001 - the last line of defence: a bug is reported as one
        frame = traceback.extract_tb(e.__traceback__)[-1]
        click.echo(f"error RSD-7000: a bug: {type(e).__name__} at {frame.filename}:{frame.lineno}", err=True)
        click.echo("  next: report it with this line; RESIDENCY_TRACEBACK=1 shows more", err=True)
        if os.environ.get("RESIDENCY_TRACEBACK"):
            traceback.print_exc()
        sys.exit(70)


if __name__ == "__main__":
    main()
