"""What the images do, in fresh environments: their install steps, then server and agent as a user of no rights.

The long version of test_docker_files.py: it downloads what the images download.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.federation import consortium
from tests.integration.test_docker_files import DOCKER, ROOT, steps

USER = 10001
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@dataclass(frozen=True)
class Image:
    """An environment made by the build stage of one image file, and the settings of its last stage."""

    kind: str
    root: Path

    @property
    def last(self) -> dict[str, str]:
        """Instruction -> text, of the last stage."""
        every = steps(DOCKER / f"Dockerfile.{self.kind}")
        return {s.word: s.text for s in every if s.stage == every[-1].stage}

    def environment(self) -> dict[str, str]:
        """Exactly what the image sets, with the place of this environment, and its temporary file system."""
        pairs = re.findall(r"(\w+)=(\S+)", self.last["ENV"])
        return {name: value.replace("/opt/residency", str(self.root)) for name, value in pairs} | {
            "TMPDIR": tempfile.gettempdir()
        }

    def words(self, command: list[str]) -> list[str]:
        """`command` as the image's user, without the right to get others."""
        user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs"]
        return [*user, str(self.root / "bin" / command[0]), *command[1:]]

    def run(self, *command: str, limit_s: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command in the image to its end."""
        return subprocess.run(
            self.words(list(command)), env=self.environment(), cwd="/", capture_output=True, text=True,
            timeout=limit_s, check=False,
        )  # fmt: skip


def _python() -> str | None:
    """A Python 3.11 that another user may run: one in root's own folder cannot be."""
    for name in (sys.executable, "/usr/local/bin/python3.11", "/usr/bin/python3.11"):
        real = Path(name).resolve()
        if real.exists() and all(p.stat().st_mode & 0o005 == 0o005 for p in (real, *real.parents)):
            done = subprocess.run([real, "-c", "import ensurepip"], capture_output=True, check=False)
            if done.returncode == 0:
                return str(real)
    return None


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder that the other user may enter."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root may become the images' user")
    if _python() is None:
        pytest.skip("no Python 3.11 with ensurepip that another user may run")
    folder = Path(tempfile.mkdtemp(prefix="residency-images-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _build(place: Path, kind: str) -> Image:
    build = [s for s in steps(DOCKER / f"Dockerfile.{kind}") if s.stage == "build"]
    source, target = place / f"{kind}-src", place / kind
    source.mkdir()
    for step in build:
        if step.word == "COPY":
            for word in step.text.split()[:-1]:
                _copy(ROOT / word.rstrip("/"), source / word.rstrip("/"))
    (run,) = [s.text for s in build if s.word == "RUN"]
    run = re.sub(r"^python ", f"{_python()} ", run.replace("/opt/residency", str(target)))
    done = subprocess.run(["sh", "-ec", run], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return Image(kind, target)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def _owned(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    for path in [to, *to.rglob("*")]:
        os.chown(path, USER, USER)
    return to


def _files(folder: Path) -> set[str]:
    return {str(p) for p in folder.rglob("*")}


def test_the_auditors_image_verifies_and_has_neither_torch_nor_flower(place: Path) -> None:
    image = _build(place, "auditor")
    assert image.run("residency", "--version").returncode == 0
    assert image.run("residency", "verify", "--help").returncode == 0
    for module in ("torch", "flwr", "pip"):
        assert image.run("python", "-c", f"import {module}").returncode != 0
    done = image.run(*json.loads(image.last["ENTRYPOINT"]), *json.loads(image.last["CMD"]), "--json")
    assert json.loads(done.stdout)["error"]["code"] == "RSD-2005"  # no bundle is mounted here


def test_server_and_agent_serve_as_a_user_of_no_rights_and_health_tells_the_truth(place: Path) -> None:
    images = {kind: _build(place, kind) for kind in ("server", "agent")}
    homes = {"server": _owned(consortium().hub, place / "hub"), "agent": _owned(consortium().home("a"), place / "site")}
    before = {kind: _files(image.root) for kind, image in images.items()}
    running = {}
    try:
        for kind, image in images.items():
            assert _healthy(image, homes[kind]) == 7
            command = [*json.loads(image.last["ENTRYPOINT"]), *json.loads(image.last["CMD"])]
            words = image.words([*command[:-1], str(homes[kind])])
            with (place / f"{kind}.log").open("wb") as out:
                running[kind] = subprocess.Popen(
                    words, env=image.environment(), cwd=homes[kind], stdout=out, stderr=out
                )
            _until_healthy(image, homes[kind], place / f"{kind}.log")
            assert Path(f"/proc/{running[kind].pid}").stat().st_uid == USER
        for kind in reversed(images):
            running[kind].send_signal(signal.SIGTERM)
            assert running[kind].wait(60) == 0
            assert _healthy(images[kind], homes[kind]) == 7
    finally:
        for process in running.values():
            if process.poll() is None:
                process.kill()
                process.wait()
    assert {kind: _files(image.root) for kind, image in images.items()} == before  # a read-only root would do


def _healthy(image: Image, home: Path) -> int:
    command = json.loads(image.last["HEALTHCHECK"].partition(" CMD ")[2])
    return image.run(*command[:-1], str(home)).returncode


def _until_healthy(image: Image, home: Path, log: Path) -> None:
    end = time.monotonic() + 120
    while _healthy(image, home) != 0:
        assert time.monotonic() < end, log.read_text("utf-8", "replace")[-2000:]
        time.sleep(0.5)
