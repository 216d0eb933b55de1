"""The image files, the compose file and the service units: by a linter where there is one, and against the real CLI."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sysconfig
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.test_docs import _parse

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
IMAGES = sorted(DOCKER.glob("Dockerfile.*"))
UNITS = sorted((DOCKER / "systemd").glob("*.service"))
PROFILES = ("cpu", "gpu", "enrol", "audit")
_SECRET = re.compile(r"key|token|secret|passw|credential|private|invitation", re.IGNORECASE)
_BUILD_TOOLS = re.compile(
    r"\b(gcc|g\+\+|clang|make|build-essential|cmake|apt-get|apk|curl|wget|git|pip3? install|npm)\b"
)


@dataclass(frozen=True)
class Step:
    """One instruction of an image file, in its stage."""

    stage: str
    word: str
    text: str

    @property
    def words(self) -> list[str]:
        """The arguments of an instruction in exec form."""
        found: list[str] = json.loads(self.text)
        return found


def steps(path: Path) -> list[Step]:
    """The instructions of an image file, continued lines joined, comments left out."""
    lines = [line for line in path.read_text("utf-8").splitlines() if not line.lstrip().startswith("#")]
    found, stage = [], ""
    for line in re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines():
        if line.strip():
            word, _, text = line.strip().partition(" ")
            stage = text.rpartition(" AS ")[2] if word == "FROM" else stage
            found.append(Step(stage, word, text.strip()))
    return found


def _name(path: Path) -> str:
    return path.name


def _last(path: Path) -> list[Step]:
    every = steps(path)
    return [s for s in every if s.stage == every[-1].stage]


def _one(found: list[Step], word: str) -> Step:
    (only,) = [s for s in found if s.word == word]
    return only


def test_the_three_images_are_there() -> None:
    assert [p.suffix for p in IMAGES] == [".agent", ".auditor", ".server"]


@pytest.mark.parametrize("path", IMAGES, ids=_name)
def test_the_linter_finds_nothing(path: Path) -> None:
    linter = Path(sysconfig.get_path("scripts")) / "hadolint"
    if not linter.is_file():
        pytest.skip("no hadolint beside this Python: install the dev extra")
    done = subprocess.run([linter, path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    # It can find something: the same file, run by root from a floating tag.
    worse = re.sub(r"^USER .*$", "USER root", path.read_text("utf-8"), flags=re.MULTILINE).replace(
        ":3.11.14-slim-bookworm", ":latest"
    )
    done = subprocess.run([linter, "-"], input=worse, capture_output=True, text=True, check=False)
    assert done.returncode != 0


@pytest.mark.parametrize("path", IMAGES, ids=_name)
def test_the_base_is_pinned_and_the_last_stage_is_bare(path: Path) -> None:
    every, last = steps(path), _last(path)
    arguments = dict(s.text.partition("=")[::2] for s in every if s.word == "ARG")
    assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", arguments["PYTHON_IMAGE"])
    bases = [s.text.split()[0] for s in every if s.word == "FROM"]
    assert bases == ["${PYTHON_IMAGE}${PYTHON_DIGEST}"] * 2
    run = " ".join(s.text for s in last if s.word == "RUN")
    assert not _BUILD_TOOLS.search(run)
    assert "rm -rf /usr/local/lib/python3.11/site-packages/*" in run
    assert [s.text.split()[0] for s in last if s.word == "COPY"] == ["--from=build"]
    assert not [s for s in every if s.word == "ADD"]
    assert _one(last, "STOPSIGNAL").text == "SIGTERM"


@pytest.mark.parametrize("path", IMAGES, ids=_name)
def test_nobody_is_root_and_nothing_secret_is_baked_in(path: Path) -> None:
    last = _last(path)
    assert _one(last, "USER").text == "10001:10001"
    order = [s.word for s in last]
    assert order.index("USER") < order.index("ENTRYPOINT")
    assert order.index("USER") > max(i for i, w in enumerate(order) if w in ("RUN", "COPY"))
    for step in steps(path):
        if step.word in ("ENV", "ARG"):
            assert not _SECRET.search(step.text), step
        if step.word == "COPY":
            assert not _SECRET.search(step.text), step
    assert set(re.findall(r"--(?:uid|gid|owner=|group=)[ =]?(\d+)", " ".join(s.text for s in last))) == {"10001"}


@pytest.mark.parametrize(("name", "extra"), [("agent", "[agent]"), ("server", "[server]"), ("auditor", "")])
def test_the_install_is_that_of_the_project_under_its_constraints(name: str, extra: str) -> None:
    build = [s for s in steps(DOCKER / f"Dockerfile.{name}") if s.stage == "build"]
    installs = re.findall(r"pip install (.*?)(?=&&|;|$)", " ".join(s.text for s in build if s.word == "RUN"))
    assert all("--constraint constraints.txt" in line for line in installs)
    assert shlex.split(installs[-1])[-1] == f".{extra}"
    copied = {word.rstrip("/") for s in build if s.word == "COPY" for word in s.text.split()[:-1]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert {
        "pyproject.toml",
        "constraints.txt",
        *project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"],
    } <= copied
    assert all((ROOT / word).exists() for word in copied)
    ignore = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert ignore[1] == "*"
    assert {line.strip("!/") for line in ignore if line.startswith("!")} == copied


def _residency(words: list[str]) -> None:
    assert words[0] == "residency"
    _parse(words[1:])


@pytest.mark.parametrize("path", IMAGES, ids=_name)
def test_what_the_images_run_are_commands_of_the_real_cli(path: Path) -> None:
    last = _last(path)
    assert _one(last, "ENTRYPOINT").words == ["residency"]
    _residency(["residency", *_one(last, "CMD").words])
    health = _one(last, "HEALTHCHECK").text
    if path.suffix == ".auditor":
        assert health == "NONE"
        return
    command = json.loads(health.partition(" CMD ")[2])
    _residency(command)
    kind = path.suffix[1:]
    assert command[:4] == ["residency", kind, "doctor", "--health"]
    assert command[-1] == _one(last, "CMD").words[-1]  # the home that it starts on


def test_a_wrong_command_would_be_seen() -> None:
    for words in (["residency", "agent", "health"], ["residency", "agent", "doctor", "--healthy"]):
        with pytest.raises(Exception, match=r"[Nn]o such"):
            _residency(words)


# --- compose --------------------------------------------------------------------------------------------------------


def _compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text("utf-8"))
    return found


def _tool() -> list[str]:
    docker = shutil.which("docker")
    if docker and subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode == 0:
        return [docker, "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    pytest.skip("neither docker compose nor docker-compose is installed")


def test_compose_takes_the_file() -> None:
    tool = _tool()
    every = [word for p in PROFILES for word in ("--profile", p)]
    done = subprocess.run(
        [*tool, "--file", DOCKER / "compose.yaml", *every, "config"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    config = yaml.safe_load(done.stdout)
    assert set(config["services"]) == set(_compose()["services"])
    waiting = {name: set(s.get("profiles", ())) for name, s in config["services"].items()}
    assert [name for name, profiles in waiting.items() if not profiles] == ["server"]
    assert set().union(*waiting.values()) == set(PROFILES)


@pytest.mark.parametrize("name", sorted(_compose()["services"]))
def test_each_service_is_bounded(name: str) -> None:
    service = _compose()["services"][name]
    assert service["user"] == "10001:10001"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    assert not {"privileged", "cap_add", "environment", "env_file", "pid", "ipc", "devices"} & set(service)
    assert not any("docker.sock" in v for v in service.get("volumes", ()))
    if "build" in service:
        assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    if "command" in service:
        _residency(["residency", *service["command"]])
    if "restart" in service:
        assert "mem_limit" in service


def test_agents_have_no_port_and_reach_the_server_alone() -> None:
    compose = _compose()
    services, networks = compose["services"], compose["networks"]
    assert {n for n, s in services.items() if "ports" in s} == {"server"}
    agents = {n: s for n, s in services.items() if s["image"] == "residency-agent"}
    assert len(agents) == 9
    for name, service in agents.items():
        (network,) = service["networks"]
        assert networks[network] == {"internal": True}
        assert name.partition("-")[0] == network  # so no two sites share one
    assert set(services["server"]["networks"]) == set(networks)
    assert services["verify"]["network_mode"] == "none"
    assert {tuple(services[n]["profiles"]) for n in agents if n.endswith("-gpu")} == {("gpu",)}
    for name in (n for n in agents if n.endswith("-gpu")):
        (device,) = services[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}


def test_secrets_are_files_and_homes_are_named_volumes() -> None:
    compose = _compose()
    assert all(set(secret) == {"file"} for secret in compose["secrets"].values())
    used = {s["source"] for service in compose["services"].values() for s in service.get("secrets", ())}
    assert used == set(compose["secrets"])
    for name, service in compose["services"].items():
        homes = [v for v in service.get("volumes", ()) if "/var/lib/residency" in v]
        assert all(v.partition(":")[0] in compose["volumes"] for v in homes)
        assert len(homes) == (0 if name == "verify" else 1)
        others = [v for v in service.get("volumes", ()) if v not in homes]
        assert all(v.endswith(":ro") for v in others)


# --- systemd --------------------------------------------------------------------------------------------------------


def _settings(unit: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in unit.read_text("utf-8").splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize("unit", UNITS, ids=_name)
def test_the_units_start_the_real_command_without_a_limit(unit: Path) -> None:
    settings = _settings(unit)
    words = shlex.split(settings["ExecStart"][0])
    assert words[0] == "/opt/residency/bin/residency"
    _residency(["residency", *words[1:]])
    wanted = {
        "User": "residency", "Restart": "on-failure", "StartLimitIntervalSec": "0", "NoNewPrivileges": "yes",
        "ProtectSystem": "strict", "ReadWritePaths": "/var/lib/residency", "PrivateTmp": "yes",
        "CapabilityBoundingSet": "", "KillSignal": "SIGTERM",
    }  # fmt: skip
    assert {name: settings[name] for name in wanted} == {name: [value] for name, value in wanted.items()}
    assert settings["MemoryMax"]
    assert words[-1].startswith(settings["ReadWritePaths"][0])


@pytest.mark.parametrize("unit", UNITS, ids=_name)
def test_systemd_takes_the_units_and_finds_them_closed(unit: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    text = unit.read_text("utf-8").replace("/opt/residency/bin/residency", shutil.which("true") or "/bin/true")
    copy = tmp_path / unit.name
    copy.write_text(re.sub(r"^(User|Group)=.*$", r"\1=root", text, flags=re.MULTILINE), "utf-8")
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    copy.write_text(text, "utf-8")
    security = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=30", copy]
    done = subprocess.run(security, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-300:]  # exposure at most 3.0 of 10


def _sections() -> Iterator[str]:
    for page in ("operator", "site-engineer"):
        yield (ROOT / "docs" / f"{page}.md").read_text("utf-8")


def test_both_pages_tell_how() -> None:
    for text in _sections():
        assert "## In containers" in text
        assert "## As a service" in text
        assert "PYTHON_DIGEST" in text
