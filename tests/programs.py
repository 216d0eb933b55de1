"""Forks in place of `python ...`, from a process that has imported what the programs of a federation import.

A server, its Flower children, an agent and a command of the `residency` tree each spend one to three seconds of a
processor on imports, and the suite starts hundreds. `Forked` is a `subprocess.Popen` whose child is a fork of one
process that has done these imports (without the training stack: that is tests/stem.py): its arguments, environment,
folder, streams, session, signals and exit status are its own, and it runs the same main program. That the real commands
start by themselves is shown by tests/integration/test_doctor_live.py, Flower's by test_flower_federation.py beside it,
and a whole run of them by the demo.

`python programs.py SOCKET` is the process that is forked; it ends with its standard input.
"""

from __future__ import annotations

import atexit
import ctypes
import dataclasses
import gc
import importlib
import io
import json
import os
import random
import resource
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

VARIABLE = "RESIDENCY_TEST_PROGRAMS"  # in the environment: the socket
ROOT = Path(__file__).parent.parent
IMPORTED = (
    "anyio._backends._asyncio",
    "client.app",
    "client.backup_commands",
    "client.commands",
    "client.data_commands",
    "client.doctor_commands",
    "client.dry_run",
    "client.enrolment",
    "client.ledger_commands",
    "client.link",
    "client.node",
    "client.session",
    "client.site",
    "client.workbench",
    "compliance.commands.audit",
    "compliance.commands.consortium",
    "compliance.commands.explain",
    "compliance.commands.key",
    "compliance.commands.law",
    "compliance.commands.log",
    "compliance.commands.policy",
    "compliance.commands.release",
    "compliance.commands.study",
    "compliance.commands.verify",
    "compliance.log.witness_server",
    "compliance.release.build",
    "compliance.release.verify",
    "dp_accounting.pld.privacy_loss_distribution",
    "flwr.supercore.cli.flower_superexec",
    "flwr.superlink.cli.flwr_serverapp",
    "grpc._server",
    "httpcore",
    "residency",
    "server.app",
    "server.backup_commands",
    "server.bundle_build",
    "server.commands",
    "server.coordinator",
    "server.desk",
    "server.doctor_commands",
    "server.launcher",
    "server.run_commands",
    "server.run_view",
    "uvicorn.lifespan.on",
    "uvicorn.protocols.http.httptools_impl",
)
STARTERS = ("server.superexec", "flwr.supercore.superexec.executor.subprocess_executor")  # they start programs too
_DEATH, _SIZE = 1, 1 << 20  # prctl's PR_SET_PDEATHSIG; the most that a request takes


def start() -> None:
    """Start the process unless there is one; this process's children know it, and it ends with this process."""
    if VARIABLE in os.environ:
        return
    folder = tempfile.TemporaryDirectory(prefix="residency-programs-")
    address = Path(folder.name) / "door"
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", __file__, str(address)], stdin=subprocess.PIPE, cwd=ROOT,
        env={**os.environ, **quiet, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip

    def end() -> None:
        process.communicate()
        folder.cleanup()

    atexit.register(end)
    while not address.exists():
        assert process.poll() is None, "the process of programs ended"
        time.sleep(0.01)
    os.environ[VARIABLE] = str(address)


class Forked(subprocess.Popen[Any]):
    """A `Popen` of words that begin with a Python, or name a Python script, as a fork of the process of `start`."""

    def _execute_child(self, *given: Any) -> None:
        args, _, preexec, _, passed, cwd, env, *_, session, group = given
        assert preexec is None, "a fork runs nothing of its asker's"
        assert (passed, group) == ((), -1), "a fork gets the three streams and no process group"
        pipes = given[10:16]  # of each stream the end to read and the end to write
        streams = [own if fd == -1 else fd for own, fd in enumerate((pipes[0], pipes[3], pipes[5]))]
        variables = {**(os.environ if env is None else env), VARIABLE: os.environ[VARIABLE]}
        asked = {
            "words": list(map(str, args)), "env": variables, "cwd": str(cwd or Path.cwd()), "session": session,
            "files": resource.getrlimit(resource.RLIMIT_NOFILE),
        }  # fmt: skip
        self._ask(asked, streams)
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]

    def _ask(self, asked: dict[str, Any], streams: list[int]) -> None:
        self._told = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._told.connect(os.environ[VARIABLE])
        socket.send_fds(self._told, [json.dumps(asked).encode()], streams)
        self.pid = int(self._told.recv(64))

    def _ended(self, limit_s: float | None) -> bool:
        """Take the exit status from who forked it."""
        if self.returncode is None and select.select([self._told], [], [], limit_s)[0]:
            status = self._told.recv(64)
            self._told.close()
            killed = signal.SIGKILL  # nothing came: with who forked it
            self._handle_exitstatus(int(status) if status else killed)  # type: ignore[attr-defined]
        return self.returncode is not None

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        return self.returncode if self._ended(0) else None

    def _wait(self, timeout: float | None) -> int:
        if not self._ended(timeout):
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self.returncode


def run(words: list[str], limit_s: float, **more: Any) -> subprocess.CompletedProcess[str]:
    """`subprocess.run` of words that begin with a Python, as a fork, with what it printed."""
    with Forked(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more) as process:
        try:
            out, err = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def running(program: str, variable: str, value: str) -> list[int]:
    """The forks that run the script `program` with this in their environment."""
    found: list[int] = []
    if VARIABLE not in os.environ:
        return found
    for note in Path(os.environ[VARIABLE]).parent.glob("[0-9]*"):
        with suppress(OSError):
            asked = json.loads(note.read_text())
            here = Path(asked["words"][0]).name == program and asked["env"].get(variable) == value
            if here and Path(__file__).name.encode() in Path(f"/proc/{note.name}/cmdline").read_bytes():
                found.append(int(note.name))  # a zombie has no command line
    return found


# --- the process that is forked -------------------------------------------------------------------------------------


def main(address: str) -> None:
    """Import everything, and fork for each who asks, until standard input ends."""
    gc.disable()
    for name in IMPORTED:
        importlib.import_module(name)
    _get_ready()
    here = SimpleNamespace(Popen=Forked, DEVNULL=subprocess.DEVNULL, TimeoutExpired=subprocess.TimeoutExpired)
    for name in STARTERS:
        importlib.import_module(name).subprocess = here  # type: ignore[attr-defined]
    gc.freeze()
    gc.enable()
    assert threading.active_count() == 1
    serve(Path(address), sys.stdin.fileno(), Path(address).parent)


def _get_ready() -> None:
    """Packs are read once; a look costs both sides milliseconds: half as many; a dead agent is missed earlier."""
    from client import fleet
    from client.node import NodeConfig
    from compliance.law.decide import builtin_packs
    from compliance.law.regions import load_regions
    from server import grid

    builtin_packs(), load_regions()
    fleet.HEARTBEAT_S = 10.0  # type: ignore[misc]
    grid._POLLS_S = (*[0.1] * 6, 0.25)  # type: ignore[misc]
    names = [f.name for f in dataclasses.fields(NodeConfig) if f.default is not dataclasses.MISSING]
    own = dict(zip(names, NodeConfig.__init__.__defaults__ or (), strict=True))
    NodeConfig.__init__.__defaults__ = tuple({**own, "poll_fast_s": 0.15, "fast_for_s": 1.0}.values())


def serve(address: Path, until: int, notes: Path, *, tied: bool = True) -> None:
    """Fork for each who connects, and tell it how the fork ended; until `until` can be read. `tied`: forks end too."""
    children: dict[int, tuple[int, socket.socket]] = {}  # descriptor of the process -> its number, who asked
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
        door.bind(str(address))
        door.listen(64)
        poll = select.poll()
        for fd in (door.fileno(), until):
            poll.register(fd, select.POLLIN)
        while until not in (ready := {fd for fd, _ in poll.poll()}):
            for fd in ready & set(children):
                pid, asker = children.pop(fd)
                poll.unregister(fd)
                os.close(fd)
                (notes / str(pid)).unlink(missing_ok=True)
                with asker, suppress(OSError):
                    asker.send(str(os.waitpid(pid, 0)[1]).encode())
            if door.fileno() in ready:
                asker, _ = door.accept()
                data, fds, _, _ = socket.recv_fds(asker, _SIZE, 3)
                if fds:  # none: who asked has been ended meanwhile
                    pid = _fork(json.loads(data), fds, notes, tied=tied)
                    children[held := os.pidfd_open(pid)] = (pid, asker)
                    poll.register(held, select.POLLIN)
                    with suppress(OSError):
                        asker.send(str(pid).encode())
                for fd in fds:
                    os.close(fd)


def _fork(asked: dict[str, Any], streams: list[int], notes: Path, *, tied: bool) -> int:
    """The fork's number; it does not return in the fork."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        if tied:
            ctypes.CDLL(None).prctl(_DEATH, signal.SIGKILL)  # nobody outlives the process of `start`, frozen or not
            if os.getppid() != parent:
                return 0
        for number, fd in enumerate(streams):
            os.dup2(fd, number)
        os.closerange(3, max(int(n) for n in os.listdir("/proc/self/fd")) + 1)  # noqa: PTH208 - names alone
        if asked["session"]:
            os.setsid()
        resource.setrlimit(resource.RLIMIT_NOFILE, asked["files"])
        os.chdir(asked["cwd"])
        os.environ.clear()
        os.environ.update(asked["env"])
        _streams()
        random.seed()
        (notes / str(os.getpid())).write_text(json.dumps(asked))
        status = _ended(asked["words"], notes)
    except BaseException:  # noqa: BLE001 - a fork never goes on in the loop of its parent
        traceback.print_exc()
    finally:
        os._exit(status)


def _streams() -> None:
    """Python's own streams, of what the descriptors are here."""
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    for fd, name in ((1, "stdout"), (2, "stderr")):
        raw: Any = io.FileIO(fd, "w", closefd=False)
        text = io.TextIOWrapper(raw, "utf-8", write_through=True)
        setattr(sys, name, text)
        setattr(sys, f"__{name}__", text)


def _ended(words: list[str], notes: Path) -> int:
    """Run the program to its end as Python does; the exit status."""
    status = 0
    try:
        _run(words, notes)
    except SystemExit as e:
        status = e.code if isinstance(e.code, int) else int(e.code is not None)
        if isinstance(e.code, str):
            sys.stderr.write(f"{e.code}\n")
    except BaseException:  # noqa: BLE001 - as Python does at the top
        traceback.print_exc()
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    return status & 0xFF


def _run(words: list[str], notes: Path) -> None:
    if not Path(words[0]).name.startswith("python"):
        words = [sys.executable, str(shutil.which(words[0])), *words[1:]]
    how = words[1] if words[1] in {"-c", "-m"} else ""
    sys.path[0] = str(Path.cwd() if how else Path(words[1]).resolve().parent)
    _customise([p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p not in {"", *sys.path}])
    if Path(words[1]).name == "flower-superexec":
        _fork_here(notes)
    sys.argv = [how, *words[3:]] if how else words[1:]
    if how == "-c":
        exec(words[2], {"__name__": "__main__"})  # noqa: S102 - what Python does with it
    elif how == "-m":
        runpy.run_module(words[2], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(words[1], run_name="__main__")


def _customise(folders: list[str]) -> None:
    """Folders that only this program has on its path; what one of them puts in the place of a module counts."""
    sys.path[1:1] = folders
    for folder in folders:
        if (Path(folder) / "sitecustomize.py").exists():
            runpy.run_path(str(Path(folder) / "sitecustomize.py"))
            for name in [n for n in sys.modules if sys.meta_path[0].find_spec(n, None) is not None]:
                del sys.modules[name]


def _fork_here(notes: Path) -> None:
    """What this process, `flower-superexec`, starts is forked by a child of it: in its session and process group."""
    address = notes / f"door-{os.getpid()}"
    ends, held = os.pipe()
    if os.fork() == 0:
        os.close(held)
        try:
            serve(address, ends, notes, tied=False)
        finally:
            address.unlink(missing_ok=True)
            os._exit(0)
    os.close(ends)
    os.environ[VARIABLE] = str(address)
    while not address.exists():
        time.sleep(0.005)


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    main(sys.argv[1])
