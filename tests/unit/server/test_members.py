"""Who may take part now: the trust file and the suspensions, read again when they change."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from compliance.clock import now
from compliance.errors import CheckFailed, Refused
from compliance.files import write_durably
from compliance.pki import SiteCertificate, read_site_certificate
from server import members as module
from server.members import Members
from tests.desk import ok
from tests.doorstep import Founded, found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Founded:
    base = tmp_path_factory.mktemp("members")
    (base / "hub").mkdir()
    return found(base, base / "hub", ["berlin", "leeds"])


@pytest.fixture
def home(made: Founded, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made.home, tmp_path / "hub"))


def certificate(made: Founded, name: str = "berlin") -> SiteCertificate:
    return read_site_certificate((made.base / f"{name}.crt").read_bytes())


def code(members: Members, shown: SiteCertificate) -> str:
    """Why this certificate opens no door; empty if it does."""
    try:
        assert members.site_of(shown) == shown.site
    except Refused as e:
        return e.code
    return ""


def test_a_member_is_known_by_its_certificate(made: Founded, home: Path) -> None:
    members = Members(home)
    assert (code(members, certificate(made)), members.removed("berlin")) == ("", None)
    assert members.node_keys() == {n: certificate(made, n).public_key for n in ("berlin", "leeds")}


def test_before_the_first_trust_file_nobody_is(made: Founded, home: Path) -> None:
    kept = (home / "trust.json").read_bytes()
    (home / "trust.json").unlink()
    members = Members(home)
    assert (members.anchor(), members.node_keys(), code(members, certificate(made))) == (None, {}, "RSD-6210")
    write_durably(home / "trust.json", kept)
    assert (members.anchor() is not None, code(members, certificate(made))) == (True, "")


def test_strangers_other_keys_and_other_consortia(made: Founded, home: Path) -> None:
    members, good = Members(home), certificate(made)
    fields = {f: getattr(good, f) for f in ("public_key", "not_before", "not_after", "serial")}
    assert code(members, SiteCertificate("lyon", "flower", **fields)) == "RSD-6205"
    assert code(members, SiteCertificate("berlin", "other", **fields)) == "RSD-6205"
    assert code(members, SiteCertificate("leeds", "flower", **fields)) == "RSD-6206"
    for start, end in ((now() + timedelta(days=1), good.not_after), (good.not_before, now() - timedelta(days=1))):
        late = {**fields, "not_before": start, "not_after": end}
        assert code(members, SiteCertificate("berlin", "flower", **late)) == "RSD-6208"


def test_a_suspension_and_its_lifting_hold_at_once(made: Founded, home: Path) -> None:
    members, shown = Members(home), certificate(made)
    assert code(members, shown) == ""
    ok("consortium", "revoke", "berlin", "--reason", "drill", "--home", home)
    removed = members.removed("berlin")
    assert (code(members, shown), removed and removed.code) == ("RSD-6207", "RSD-6207")
    assert members.removed("leeds") is None
    (home / "suspended" / "berlin.json").write_bytes(b"damaged")  # must not let the site in again
    assert code(members, shown) == "RSD-6207"
    ok("consortium", "revoke", "berlin", "--lift", "--reason", "over", "--home", home)
    assert code(members, shown) == ""


def test_a_site_that_left_the_trust_file_is_out(made: Founded, home: Path) -> None:
    members = Members(home)
    assert members.removed("leeds") is None
    write_durably(home / "trust.json", made.without("leeds"))
    assert code(members, certificate(made, "leeds")) == "RSD-6205"
    removed = members.removed("leeds")
    assert removed is not None
    assert removed.code == "RSD-6205"
    assert members.removed("berlin") is None


def test_an_agent_key_that_is_over_takes_its_site_out(
    made: Founded, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = Members(home)
    assert members.removed("berlin") is None
    view = members._look()
    start, _ = view.agents["berlin"][0]
    view.agents["berlin"] = ((start, now() - timedelta(seconds=1)),)
    assert code(members, certificate(made)) == "RSD-6209"


def test_a_damaged_forged_or_expired_trust_file_admits_nobody(
    made: Founded, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members, kept = Members(home), (home / "trust.json").read_bytes()
    start = kept.index(b'"signatures"')
    for data in (b"", b"{}", kept[:start] + b'"signatures":[]}'):
        write_durably(home / "trust.json", data)
        removed = members.removed("berlin")
        assert (code(members, certificate(made)), removed and removed.code) == ("RSD-6210", "RSD-6210")
        assert members.node_keys() == {}
    with pytest.raises(CheckFailed) as e:
        members.anchor()
    assert e.value.code == "RSD-6002"
    write_durably(home / "trust.json", kept)
    assert code(members, certificate(made)) == ""
    monkeypatch.setattr(module, "now", lambda: now() + timedelta(days=30))
    removed = members.removed("berlin")
    assert removed is not None
    assert removed.code == "RSD-6013"
    with pytest.raises(Refused):
        members.anchor()
