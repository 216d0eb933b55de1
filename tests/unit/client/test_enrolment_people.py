"""`agent enroll` with the wrong person's file, or with an invitation that a newer one took the place of."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.desk import ok, refused


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An operator in `hub`, its first invitation of berlin in `old.json`, the newer one in `new.json`, and people."""
    root = tmp_path_factory.mktemp("people")
    ok("consortium", "init", "small", "--operator", "hub", "--jurisdiction", "IE", "--threshold", 1,
       "--server", "127.0.0.1:9092", "--home", root / "hub")  # fmt: skip
    for name in ("old.json", "new.json"):
        ok("consortium", "invite", "berlin", "--jurisdiction", "DE", "--home", root / "hub", "--out", root / name)
    for role in ("signatory", "dpo"):
        ok("key", "new", "--role", role, "--holder", "berlin", "--out", root)
    return root


def enrol(
    place: Path, home: Path, kit: str = "new.json", *, signatory: str = "signatory.pub.json", dpo: str = "dpo.pub.json"
) -> tuple[object, ...]:
    people = ("--signatory", place / signatory, "--dpo", place / dpo)
    return ("agent", "enroll", place / kit, *people, "--home", home, "--out", home.with_suffix(".request.json"))


@pytest.mark.parametrize(
    ("people", "words", "found"),
    [
        ({"signatory": "dpo.pub.json", "dpo": "signatory.pub.json"}, "are swapped", "--signatory: dpo key, --dpo: si"),
        ({"dpo": "signatory.pub.json"}, "do not both", "--signatory: signatory key, --dpo: signatory key"),
    ],
)
def test_a_key_of_another_role_makes_no_home(
    place: Path, tmp_path: Path, people: dict[str, str], words: str, found: str
) -> None:
    error = refused(3, "RSD-1236", *enrol(place, tmp_path / "home", **people))
    assert words in error["message"]
    assert error["found"].startswith(found)
    assert list(tmp_path.iterdir()) == []


def test_a_private_key_where_a_public_one_belongs_is_named_and_not_shown(place: Path, tmp_path: Path) -> None:
    error = refused(3, "RSD-6005", *enrol(place, tmp_path / "home", signatory="signatory.key"))
    assert "is the private key" in error["message"]
    assert error["next"] == f"give {place / 'signatory.pub.json'}"
    secret = (place / "signatory.key").read_text().splitlines()[1]
    assert not any(secret[:12] in text for text in error.values())
    assert list(tmp_path.iterdir()) == []


def test_a_retired_invitation_leads_to_a_new_home(place: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    ok(*enrol(place, first, "old.json"))
    admit = ("--home", place / "hub", "--out", tmp_path / "draft.json")
    error = refused(4, "RSD-6223", "consortium", "admit", tmp_path / "first.request.json", *admit)
    assert "the newest invitation in another --home" in error["next"]
    (tmp_path / "first.request.json").unlink()
    error = refused(3, "RSD-1208", *enrol(place, first))
    assert "RSD-6223" in error["next"]
    assert "remove this folder" in error["next"]
    assert error["found"] != error["limit"]
    ok(*enrol(place, second))
    ok("consortium", "admit", tmp_path / "second.request.json", *admit)


def test_a_home_with_a_certificate_is_kept(place: Path, tmp_path: Path) -> None:
    home = tmp_path / "a home"
    ok(*enrol(place, home))
    (home.with_suffix(".request.json")).unlink()
    (home / "certs").mkdir(exist_ok=True)
    (home / "certs" / "site.crt").write_text("issued")
    error = refused(3, "RSD-1208", *enrol(place, home))
    assert error["next"].startswith("keep this folder")
    assert error["next"].endswith(f"residency agent status --home '{home}'")
