"""Processes of the demo: every one ends, whatever happens to the demo."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from compliance.errors import RunFailed
from demo.crew import Crew, Outcome
from demo.watchdog import MARK, end_all, marked

SLEEPER = (
    "import subprocess, sys, time; "
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True); "
    "print('up', flush=True); time.sleep(60)"
)
DEAF = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


def wait_gone(mark: str, limit_s: float = 15.0) -> bool:
    """Whether no marked process is left within the limit."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if not marked(mark):
            return True
        time.sleep(0.1)
    return False


def wait_for(path: Path, text: str) -> None:
    """Wait until the file holds the text."""
    end = time.monotonic() + 15
    while text not in path.read_text():
        assert time.monotonic() < end, path.read_text()
        time.sleep(0.05)


def test_leaving_ends_processes_in_sessions_of_their_own(tmp_path: Path) -> None:
    with Crew(tmp_path) as crew:
        _, out, _ = crew.start("sleeper", ["-c", SLEEPER])
        wait_for(out, "up")
        assert len(marked(crew.mark)) == 2  # the child has left the group: only its environment tells
    assert wait_gone(crew.mark)


def test_an_error_in_the_story_ends_processes(tmp_path: Path) -> None:
    crew = Crew(tmp_path)

    def story() -> None:
        with crew:
            _, out, _ = crew.start("sleeper", ["-c", SLEEPER])
            wait_for(out, "up")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        story()
    assert wait_gone(crew.mark)


def test_a_killed_demo_leaves_nothing(tmp_path: Path) -> None:
    script = (
        "import sys,time; from pathlib import Path; from demo.crew import Crew\n"
        f"crew = Crew(Path({str(tmp_path)!r})).__enter__()\n"
        f"crew.start('sleeper', ['-c', {SLEEPER!r}])\n"
        "print(crew.mark, flush=True); time.sleep(60)"
    )
    demo = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert demo.stdout is not None
    mark = demo.stdout.readline().strip()
    wait_for(tmp_path / "sleeper.out", "up")
    assert len(marked(mark)) == 2
    demo.kill()
    demo.wait()
    demo.stdout.close()
    assert wait_gone(mark)


def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    mark = "deaf-test"
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen([sys.executable, "-c", DEAF], env={MARK: mark}, stdout=out)
    wait_for(tmp_path / "out", "up")
    assert end_all(mark, grace_s=0.5) == 1
    assert process.poll() is not None


def test_only_marked_processes_are_found(tmp_path: Path) -> None:
    with Crew(tmp_path) as crew:
        other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
        try:
            assert other.pid not in {p.pid for p in marked(crew.mark)}
        finally:
            other.kill()
            other.wait()
        assert psutil.pid_exists(psutil.Process().pid)


def test_a_command_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    with Crew(tmp_path) as crew:
        outcome = crew.run_python(["-c", "import time; time.sleep(60)"], limit_s=0.5)
    assert outcome.exit_code == -9
    assert "killed after" in outcome.stderr


def test_a_wrong_exit_code_names_the_command(tmp_path: Path) -> None:
    with Crew(tmp_path) as crew, pytest.raises(RunFailed, match="RSD-8902") as e:
        crew.done("explain", "RSD-NONE")
    assert "explain RSD-NONE" in e.value.next
    assert e.value.found.startswith("exit ")


def test_an_outcome_without_json_is_an_error() -> None:
    with pytest.raises(RunFailed, match="RSD-8902"):
        Outcome(("x",), 0, "not json", "", 0.1).json()


def test_a_service_that_ends_early_is_named(tmp_path: Path) -> None:
    with Crew(tmp_path) as crew, pytest.raises(RunFailed, match="RSD-8903 nobody did not become ready"):
        crew.serve("nobody", "no-such-command").wait_ready(20)


def test_a_command_is_a_process_of_its_own_with_the_outputs_and_the_end_of_the_program(tmp_path: Path) -> None:
    with Crew(tmp_path) as crew:
        for words in (("explain", "RSD-1103", "--json"), ("explain", "RSD-NONE"), ("explain", "--no-such-flag")):
            forked, started = crew.run(*words), crew.run_python(["-m", "residency"], *words)
            assert (forked.args, forked.exit_code) == (started.args, started.exit_code)
            assert forked.stdout == started.stdout
            assert forked.stderr.splitlines()[-1:] == started.stderr.splitlines()[-1:]
        (desk,) = [p for p in marked(crew.mark) if p.cmdline()[-1] == "demo.desk"]
        assert desk.num_threads() == 1
        assert sorted(p.name for p in tmp_path.iterdir()) == ["desk.err", "desk.out"]
    assert wait_gone(crew.mark)


STUCK = (
    "import os, residency, time; from demo import desk\n"
    "residency.main = lambda: (print(os.getpid() == os.getpgid(0), flush=True), time.sleep(60))\n"
    "desk.main()"
)


def test_a_command_that_is_stuck_is_killed_and_the_next_one_runs(tmp_path: Path) -> None:
    with Crew(tmp_path) as crew:
        crew._desk = crew.start("desk", ["-c", STUCK], fed=True)[0]
        for _ in range(2):
            outcome = crew.run("verify", limit_s=2)
            assert (outcome.exit_code, outcome.stdout) == (-9, "True\n")
            assert "killed after" in outcome.stderr


def test_commands_end_with_their_process(tmp_path: Path) -> None:
    with Crew(tmp_path) as crew:
        crew._desk = crew.start("desk", ["-c", "raise SystemExit(3)"], fed=True)[0]
        with pytest.raises(RunFailed, match="RSD-8902") as e:
            crew.run("verify")
        assert e.value.found == "exit 3"
