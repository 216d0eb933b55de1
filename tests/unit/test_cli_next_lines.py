"""The commands that are printed as the next step can be typed as they stand; a changed country is said."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from compliance.errors import InputError
from compliance.files import must_be_private, quoted
from residency import cli
from tests.desk import Office, make_office, ok, run


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Office:
    return make_office(tmp_path_factory.mktemp("an office"))


def _typed(shown: str) -> list[str]:
    """The words of the command behind `next`, as a shell would take them apart."""
    line = next(one for one in shown.splitlines() if one.startswith("next"))
    return shlex.split(line[line.index("residency ") :])


def test_a_path_is_one_word() -> None:
    for name in ("a b/c.key", "bündel 077", "it's", "$(x)", "-x;y"):
        assert shlex.split(quoted(Path(name))) == [name]
    assert quoted(Path("a/b.json")) == "a/b.json"


def test_loose_permissions_are_mended_by_what_is_printed(tmp_path: Path) -> None:
    key = tmp_path / "agent kyoto" / "agent.key"
    key.parent.mkdir()
    key.write_text("x")
    key.chmod(0o640)
    with pytest.raises(InputError, match="RSD-6022") as e:
        must_be_private(key)
    assert shlex.split(e.value.next.partition(";")[0]) == ["chmod", "600", str(key)]


def test_the_invitations_next_command_has_all_that_it_needs(office: Office, tmp_path: Path) -> None:
    kit = tmp_path / "einladung münchen.json"
    shown = run("consortium", "invite", "munich", "--jurisdiction", "DE", "--home", office.home, "--out", kit).stdout
    words = _typed(shown)
    assert words[:4] == ["residency", "agent", "enroll", kit.name]
    for role in ("signatory", "dpo"):
        ok("key", "new", "--role", role, "--holder", "munich", "--out", tmp_path)
    by_name = {word: tmp_path / word for word in (kit.name, "signatory.pub.json", "dpo.pub.json")}
    args = [str(by_name.get(word, word)) for word in words[1:]]
    done = CliRunner().invoke(cli, [*args, "--home", str(tmp_path / "home"), "--out", str(tmp_path / "request.json")])
    assert done.exit_code == 0, done.output


def test_the_draft_to_be_signed_is_quoted(office: Office, tmp_path: Path) -> None:
    draft = tmp_path / "a draft.json"
    requests = [office.root / site / "request.json" for site in ("berlin", "leeds")]
    shown = run("consortium", "admit", *requests, "--home", office.home, "--out", draft).stdout
    assert _typed(shown)[:4] == ["residency", "consortium", "sign", str(draft)]


def test_an_invitation_to_another_country_says_so(office: Office, tmp_path: Path) -> None:
    invite = ("consortium", "invite", "kyoto", "--home", office.home)
    first = ok(*invite, "--jurisdiction", "JP", "--out", tmp_path / "1.json")
    assert first["earlier_jurisdictions"] == []
    shown = run(*invite, "--jurisdiction", "DE", "--out", tmp_path / "2.json").stdout
    assert "changed    kyoto was in JP until now; this invitation places it in DE" in shown
    again = run(*invite, "--jurisdiction", "DE", "--out", tmp_path / "3.json").stdout
    assert "changed" not in again
    assert ok(*invite, "--jurisdiction", "FR", "--out", tmp_path / "4.json")["earlier_jurisdictions"] == ["DE"]
