"""The command line against wrong files, wrong usage and wrong folders: one JSON object, a fixed code, nothing made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest

import residency
from compliance.cli import Result, command

# Those that only look, or that need a home that is there: a wrong --home must stay as it is.
READERS = [
    ("agent", "status"),
    ("agent", "start"),
    ("agent", "doctor"),
    ("agent", "ledger", "show"),
    ("agent", "ledger", "plan", "study.json"),
    ("agent", "model", "add", "."),
    (
        "agent",
        "dataset",
        "add",
        "thyroid",
        "--path",
        "t.csv",
        "--source",
        "clinic",
        "--id-column",
        "id",
        "--legal-basis",
        "9(2)(j)",
        "--purpose",
        "scientific_research",
        "--expires",
        "2099-12-31",
    ),
    ("agent", "enroll", "--trust", "trust.json"),
    ("agent", "enroll", "--policy", "policy.json"),
    ("server", "status"),
    ("server", "start"),
    ("server", "doctor"),
    ("run", "start", "study.json", "--answers", "."),
    ("consortium", "invite", "a", "--jurisdiction", "DE", "--out", "invitation.json"),
    ("study", "propose", "study.json"),
]
FILES: dict[str, Callable[[Path], object]] = {
    "missing": lambda _: None,
    "folder": lambda p: p.mkdir(),
    "fifo": os.mkfifo,
    "device": lambda p: p.symlink_to("/dev/zero"),
    "empty": lambda p: p.write_bytes(b""),
    "nested": lambda p: p.write_bytes(b"[" * 600 + b"]" * 600),
    "deeper": lambda p: p.write_bytes(b'{"a":' * 3000 + b"1" + b"}" * 3000),
    "half.json": lambda p: p.write_bytes(b'{"a":"\\ud800"}'),
    "number.yaml": lambda p: p.write_bytes(b"a: " + b"9" * 5000),
    "n" * 300: lambda _: None,
}


@dataclass(frozen=True)
class Said:
    exit_code: object
    out: str
    err: str

    @property
    def error(self) -> dict[str, str]:
        """The error of the one JSON object."""
        record = json.loads(self.out)
        assert record["ok"] is False
        found: dict[str, str] = record["error"]
        return found


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Run `residency ARGS` as its own program would, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*args: object) -> Said:
        monkeypatch.setattr("sys.argv", ["residency", *map(str, args)])
        with pytest.raises(SystemExit) as end:
            residency.main()
        out, err = capfd.readouterr()
        return Said(end.value.code, out, err)

    return run


def commands(
    group: click.Group = residency.cli, path: tuple[str, ...] = (), without: Collection[str] = ("demo", "bench")
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command below `group`; demo and bench take no files."""
    for name in group.list_commands(click.Context(group)):
        found = None if name in without else group.get_command(click.Context(group), name)
        if isinstance(found, click.Group):
            yield from commands(found, (*path, name), without)
        elif found is not None:
            yield (*path, name), found


def filled(path: tuple[str, ...], found: click.Command, value: str) -> list[str]:
    """The command line in which every argument and every option that takes a path or is required is `value`."""
    args = list(path)
    for param in found.params:
        given = value
        if isinstance(param.type, click.Choice):
            given = str(param.type.choices[0])
        elif isinstance(param.type, click.types.IntParamType):
            given = "3"
        if isinstance(param, click.Argument):
            args.append(given)
        elif param.name != "out" and (param.required or isinstance(param.type, click.Path)):
            args += [param.opts[0], given]
        elif param.name == "out":
            args += [param.opts[0], "made"]
    return [*args, "--json"]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", FILES, ids=lambda kind: kind[:12])
def test_every_command_answers_a_wrong_file_with_one_json_object(call: Callable[..., Said], kind: str) -> None:
    FILES[kind](Path(kind))
    for path, found in commands():
        if path in {
            ("explain",),
            ("key", "new"),
            ("study", "init"),
            ("law", "list"),
            ("law", "matrix"),
            ("log", "witness", "init"),
        }:
            continue  # they read nothing
        said = call(*filled(path, found, kind))
        assert said.exit_code in {1, 2, 3, 4, 5, 6, 7}, (path, said)
        assert said.error["code"].startswith("RSD-"), (path, said)
        assert said.error["code"] != "RSD-7000"
        assert not Path("made").exists()


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (("key", "show"), "Missing argument 'FILE'"),
        (("key", "show", "a", "b"), "extra argument"),
        (("key", "show", "a", "--nothing"), "No such option"),
        (("key", "new", "--role", "king", "--holder", "a", "--out", "o"), "king"),
        (("nothing",), "No such command"),
        (("agent", "nothing"), "No such command"),
        (("agent", "enroll", "i", "--days", "99999999999"), "3650"),
        (("study", "advise", "f", "--key", "k", "--text", "t", "--out", "o"), "--favourable"),
        (("consortium", "admit", "r.json"), "--install"),
    ],
)
def test_wrong_usage_is_one_json_object(call: Callable[..., Said], args: tuple[str, ...], what: str) -> None:
    said = call(*args, "--json")
    assert said.exit_code == 2
    assert json.loads(said.out)["schema"] == "residency.usage/1"
    assert said.error["code"] == "RSD-2012"
    assert what in said.error["message"]
    assert said.error["next"].endswith("--help")
    plain = call(*args)
    assert (plain.exit_code, plain.out) == (2, "")
    assert what in plain.err


def test_a_command_that_is_not_installed_says_so_in_json(call: Callable[..., Said], monkeypatch: Any) -> None:
    monkeypatch.setitem(residency.LazyGroup.COMMANDS, "agent", ("no_such_module_here:agent", ""))
    said = call("agent", "start", "--json")
    assert (said.exit_code, said.error["code"]) == (7, "RSD-7002")
    assert said.error["next"] == "pip install 'residency[agent]'"


@pytest.mark.parametrize("args", READERS)
@pytest.mark.parametrize("home", ["missing", "there"])
def test_a_wrong_home_is_refused_and_left_alone(call: Callable[..., Said], args: tuple[str, ...], home: str) -> None:
    Path("there").mkdir()
    said = call(*args, "--home", home, "--json")
    assert said.exit_code in {3, 6}, said
    if args[0] == "agent":
        assert said.error["code"] == "RSD-1201"
    assert [str(p) for p in Path().rglob("*")] == ["there"]


def test_showing_the_ledger_of_a_fresh_agent_makes_none(call: Callable[..., Said]) -> None:
    Path("home").mkdir()
    record = {"schema": "residency.agent/1", "site": "a", "jurisdiction": "DE", "consortium": "c", "operator": "o"}
    Path("home/agent.json").write_text(json.dumps({**record, "server": "s:1", "governance": "s:2", "enrolment": "s:3"}))
    said = call("agent", "ledger", "show", "--home", "home", "--json")
    assert (said.exit_code, json.loads(said.out)["sources"]) == (0, [])
    assert [p.name for p in Path("home").iterdir()] == ["agent.json"]


@pytest.mark.parametrize("args", [("agent", "model", "add", "FILE"), ("run", "show", "FILE")])
def test_a_file_for_a_folder_is_a_wrong_input(call: Callable[..., Said], args: tuple[str, ...]) -> None:
    Path("FILE").write_text("x")
    assert call(*args, "--json").exit_code == 3


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("result.json", "[]"),
        ("result.json", '{"run":1}'),
        ("events.jsonl", '{"event":"absent","site":3}\n'),
        ("events.jsonl", "[]\n"),
        ("rosters/round-001.json", '{"payload":"W10=","payloadType":"x","signatures":[]}'),
    ],
)
def test_a_damaged_run_is_a_wrong_input(call: Callable[..., Said], name: str, text: str) -> None:
    Path("run/rosters").mkdir(parents=True)
    Path("run/events.jsonl").write_text("")
    Path("run/result.json").write_text('{"outcome":"failed","run":"r","schema":"residency.run/1","study":"s"}')
    assert call("run", "show", "run", "--json").exit_code == 0
    Path("run", name).write_text(text)
    said = call("run", "show", "run", "--json")
    assert (said.exit_code, said.error["code"]) == (3, "RSD-8213")


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_name_in_no_encoding_is_shown_by_its_bytes(call: Callable[..., Said], more: tuple[str, ...]) -> None:
    said = call("key", "show", os.fsdecode(b"\xff.pub.json"), *more)
    assert said.exit_code == 3
    assert "RSD-2005" in said.out + said.err


def test_json_is_utf_8_on_any_terminal() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "residency", "key", "show", "Zürich.pub.json", "--json"],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 3
    assert "Zürich" in json.loads(done.stdout)["error"]["message"]


def test_what_the_system_refuses_keeps_the_schema_of_its_command(call: Callable[..., Said]) -> None:
    said = call("agent", "status", "--home", "n" * 300, "--json")
    assert (said.exit_code, said.error["code"]) == (7, "RSD-7004")
    assert json.loads(said.out)["schema"] == "residency.agent.status/1"


def _stopped() -> click.Command:
    @command("residency.stopped/1")
    def stopped() -> Result:
        raise KeyboardInterrupt

    return click.command("stopped")(stopped)


def test_an_interrupt_is_an_error_of_its_command(call: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residency.LazyGroup, "get_command", lambda *_: _stopped())
    said = call("stopped", "--json")
    assert (said.exit_code, said.error["code"]) == (130, "RSD-7005")
    assert json.loads(said.out)["schema"] == "residency.stopped/1"
    plain = call("stopped")
    assert (plain.exit_code, plain.out) == (130, "")
    assert plain.err.strip() == "error RSD-7005: the command was interrupted before its end"


def test_an_interrupt_while_a_command_loads_is_an_error_too(
    call: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    def loading(*_: object) -> click.Command:
        raise KeyboardInterrupt

    monkeypatch.setattr(residency.LazyGroup, "get_command", loading)
    said = call("verify", "--json")
    assert (said.exit_code, said.error["code"]) == (130, "RSD-7005")


def test_every_option_has_a_help_text() -> None:
    bare = [
        (*path, o.name)
        for path, found in commands(without=())
        for o in found.params
        if isinstance(o, click.Option) and not o.help and not o.hidden
    ]
    assert bare == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_stdout_that_takes_nothing_is_told_on_stderr(more: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        words = [sys.executable, "-m", "residency", "law", "list", *more]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 7
    assert done.stderr.startswith("error RSD-7004")
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def _unread(*command: str) -> tuple[int, str]:
    """Exit code and stderr of a command whose reader closed the pipe before it wrote."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, *command], stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    return done.returncode, done.stderr


@pytest.mark.parametrize("more", [(), ("--json",)])
@pytest.mark.parametrize(("words", "exit_code"), [(("explain", "RSD-1103"), 0), (("explain", "RSD-0000"), 2)])
def test_the_exit_code_tells_the_outcome_also_when_nobody_reads_it(
    words: tuple[str, ...], exit_code: int, more: tuple[str, ...]
) -> None:
    told, errors = _unread("-m", "residency", *words, *more)
    assert told == exit_code
    assert "Exception ignored" not in errors
    assert "Traceback" not in errors


def test_what_only_streams_ends_with_its_reader() -> None:
    watch = "click.Command('watch', callback=lambda: [click.echo('{}') for _ in range(9)])"
    code = f"import residency, click; residency.LazyGroup.get_command = lambda *_: {watch}; residency.main()"
    assert _unread("-c", code, "watch") == (0, "")


@pytest.mark.parametrize(
    "words",
    [
        ("server", "start", "--home", "loop"),
        ("agent", "model", "add", "loop", "--home", "."),
        (
            "agent",
            "dataset",
            "add",
            "x",
            "--path",
            "loop",
            "--source",
            "x",
            "--id-column",
            "x",
            "--legal-basis",
            "x",
            "--purpose",
            "scientific_research",
            "--expires",
            "2027-12-31",
        ),
        ("key", "new", "--role", "signatory", "--holder", "x", "--out", "loop"),
        ("release", "build", "loop", "--key", "loop", "--out", "y"),
        ("verify", "loop"),
        ("demo", "--out", "loop"),
    ],
)
def test_links_in_a_circle_are_told(words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)
    call = [sys.executable, residency.__file__, *words]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode in {3, 7}, done.stderr
    assert done.stderr.startswith("error RSD-")
