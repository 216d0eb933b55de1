"""A federation of real processes on loopback."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from server.bundle_build import build_bundle
from server.control import Control
from server.flower_files import read_token
from tests import programs
from tests.doorstep import found

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
STUDY = "5" * 64


def environment():
    return {**os.environ, "PYTHONPATH": f"{HERE}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}


class Deployment:
    """One server and its nodes, in `base`; ends all of them on exit."""

    def __init__(self, base, nodes=2):
        self.base, self.home = base, base / "server"
        self.home.mkdir()
        self.bundle, self.digest = build_bundle()
        self.approved = {self.digest}
        self.ports = (0, 0)
        self.processes, self.server, self.nodes = [], None, []
        self.names = [f"site-{i}" for i in range(nodes)]
        self.founded = found(base, self.home, self.names)
        self.tls = self.founded.tls

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
            process.kill()
            process.wait()
            process.stdout.close()

    def spawn(self, script, *args, log):
        """Start a script; one that ran before under this log as a fork (tests/programs.py), the first time itself."""
        programs.start()
        start = programs.Forked if (self.base / log).exists() else subprocess.Popen
        with (self.base / log).open("ab") as err:
            command = [sys.executable, str(HERE / script), *map(str, args)]
            process = start(command, stdout=subprocess.PIPE, stderr=err, env=environment(), cwd=self.base)
        self.processes.append(process)
        return process

    def start_server(self):
        self.server = self.spawn("server_main.py", self.home, *self.ports, log="server.log")
        line = self.server.stdout.readline()
        assert line, (self.base / "server.log").read_text()
        ready = json.loads(line)
        self.ports = (ready["public_port"], ready["private_port"])
        return ready

    def start_node(self, name):
        keys = (self.base / f"{name}.crt", self.base / f"{name}.key")
        args = (self.public, self.tls.ca, *keys, self.base / name, ",".join(self.approved))
        process = self.spawn("node_main.py", *args, log=f"{name}.log")
        self.nodes.append(process)
        return process

    @property
    def public(self):
        return f"127.0.0.1:{self.ports[0]}"

    @property
    def private(self):
        return f"127.0.0.1:{self.ports[1]}"

    def control(self, token=None):
        return Control(self.private, self.tls.ca, token or read_token(self.home))

    def online(self):
        with self.control() as control:
            return sum(node.online for node in control.nodes())

    def begin(self, bundle=None, study=STUDY, *, rounds=0, size=10, kinds=None):
        plan = {"nodes": len(self.names), "rounds": rounds, "size": size, "kinds": kinds or {}}
        (self.home / f"{study}.plan").write_text(json.dumps(plan))
        (self.home / f"{study}.result").unlink(missing_ok=True)
        with self.control() as control:
            return control.start_run(bundle or self.bundle, {"study": study})

    def end(self, run_id, study=STUDY):
        with self.control() as control:
            self.wait(lambda: control.run_status(run_id).status == "finished", 60)
            status = control.run_status(run_id)
        assert status.sub_status == "completed", (status, (self.base / "server.log").read_text()[-3000:])
        return json.loads((self.home / f"{study}.result").read_text())

    def run(self, **plan):
        return self.end(self.begin(**plan))

    @staticmethod
    def wait(condition, seconds):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "waited too long"
            time.sleep(0.2)


def rss_mib(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("VmRSS"))


def children(pid):
    """Of the process itself, or, if it is a fork, what it had forked."""
    found = programs.running("flower-superexec", "RESIDENCY_SERVER_PID", str(pid))
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid:
                found.append(int(stat.parent.name))
    return found
