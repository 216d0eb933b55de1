"""Commands that write several files, where one cannot be written: nothing of them is there, and a repetition works."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from compliance.errors import EnvironmentFault
from compliance.files import write_all_new
from tests.desk import SITES, Office, day, make_office, ok, policy_raw, refused, write_yaml


@contextmanager
def room(most: int) -> Iterator[None]:
    """No file grows beyond `most` bytes (RLIMIT_FSIZE): the write itself fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def everything(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() if p.is_file() else b"" for p in folder.rglob("*")}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Office:
    return make_office(tmp_path_factory.mktemp("half"))


@pytest.fixture
def office(made: Office, tmp_path: Path) -> Office:
    shutil.copytree(made.root, tmp_path / "w")
    return Office(tmp_path / "w")


@pytest.mark.parametrize("below", [".", "a/b"])
def test_study_init_leaves_no_papers_without_a_study(tmp_path: Path, below: str) -> None:
    out = tmp_path / below / "study.yaml"
    with room(1000):  # enough for each paper
        error = refused(7, "RSD-7001", "study", "init", "--out", out)
    assert str(out) in error["message"]
    assert not list(tmp_path.iterdir())
    ok("study", "init", "--out", out)
    assert ok("study", "check", out)["mistakes"] == []


def test_study_init_keeps_what_lay_beside_it(tmp_path: Path) -> None:
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "own.txt").write_text("mine")
    before = everything(tmp_path)
    with room(1000):
        refused(7, "RSD-7001", "study", "init", "--out", tmp_path / "study.yaml")
    assert everything(tmp_path) == before


def test_policy_sign_leaves_no_decision_without_a_policy(office: Office, tmp_path: Path) -> None:
    write_yaml(tmp_path / "policy.yaml", policy_raw(issued=day(0)))
    asked = ("policy", "sign", tmp_path / "policy.yaml", "--key", office.key("berlin", "signatory"))
    sign = (*asked, "--without-advice", "there is no officer", "--out")
    ok(*sign, tmp_path / "whole.json")
    smaller, larger = sorted((tmp_path / f"whole{end}.json").stat().st_size for end in ("", ".decision"))
    before = everything(tmp_path)
    with room((smaller + larger) // 2):
        refused(7, "RSD-7001", *sign, tmp_path / "policy.json")
    assert everything(tmp_path) == before
    ok(*sign, tmp_path / "policy.json")


def _no_folder(office: Office, out: Path) -> str:
    out.parent.write_text("")
    return "RSD-7001"


def _no_marks(office: Office, out: Path) -> str:
    (office.home / "invitations" / ".lock").unlink(missing_ok=True)
    (office.home / "invitations" / ".lock").mkdir()
    return "RSD-7004"


@pytest.mark.parametrize("obstacle", [_no_folder, _no_marks])
def test_an_invitation_that_cannot_be_written_retires_none(
    office: Office, tmp_path: Path, obstacle: Callable[[Office, Path], str]
) -> None:
    out, site = tmp_path / "new" / "second.json", min(SITES)
    invite = ("consortium", "invite", site, "--jurisdiction", SITES[site], "--home", office.home, "--out", out)
    code = obstacle(office, out)
    before = everything(office.home / "invitations")
    refused(7, code, *invite)
    assert not out.exists()
    assert everything(office.home / "invitations") == before
    for path in (out.parent, office.home / "invitations" / ".lock"):
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
    found = ok(*invite)
    assert out.exists()
    assert len(found["retired"]) == 1


def test_all_files_or_none(tmp_path: Path) -> None:
    """The first can be written, the last cannot."""
    files = {tmp_path / "a": b"a", tmp_path / "new" / "deep" / "b": b"b", tmp_path / "c": b"c" * 200}
    with room(100), pytest.raises(EnvironmentFault, match="RSD-7001"):
        write_all_new(files)
    assert not list(tmp_path.iterdir())
    write_all_new(files)
    assert {p: p.read_bytes() for p in files} == files
