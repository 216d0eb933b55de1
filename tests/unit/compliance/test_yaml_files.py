"""YAML from people: every mistake with its line, nothing read otherwise than it was written."""

from __future__ import annotations

from pathlib import Path

import pytest

from compliance.errors import InputError
from compliance.files import write_new
from compliance.validation import Mistake, read_yaml, shown


def parsed(tmp_path: Path, text: str) -> object:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    return read_yaml(path, "x").value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: NO", {"a": "NO"}),
        ("a: yes", {"a": "yes"}),
        ("a: 2026-11-21", {"a": "2026-11-21"}),
        ("a: 010", {"a": "010"}),
        ("a: 1:30", {"a": "1:30"}),
        ("a: 0x10", {"a": "0x10"}),
        ("a: 100_000", {"a": 100_000}),
        ("a: -3", {"a": -3}),
        ("a: true", {"a": True}),
        ("a: ~", {"a": None}),
        ("", None),
    ],
)
def test_values_are_what_was_written(tmp_path: Path, text: str, value: object) -> None:
    assert parsed(tmp_path, text) == value


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("a: 1\na: 2", 2, "twice"),
        ("a: &x [1]\nb: *x", 2, "aliases"),
        ("a: &x [*x]", 1, "aliases"),
        ("a: 1\n? [b]\n: 2", 2, "word"),
        ("a: !!python/object/apply:os.system [x]", 1, "tags"),
        ("a: 1\nb: !!timestamp 2026-13-45", 2, "tags"),
        ("a: " + "9" * 5000, 0, "digits"),
        ("[" * 70 + "]" * 70, 1, "deep"),
        ("a: 1\n<<: {b: 2}", 2, ""),
        ("a: [1,\nb", 2, ""),
        ("a: 1\n---\nb: 2", 2, ""),
        ("a: \x00", 0, "special characters"),
        ("[" * 5000, 0, ""),
    ],
)
def test_what_is_refused_names_its_line(tmp_path: Path, text: str, line: int, word: str) -> None:
    with pytest.raises(InputError) as e:
        parsed(tmp_path, text)
    assert e.value.code == "RSD-2006"
    assert word in e.value.message
    assert not line or f"line {line}" in e.value.message


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"a: \xff")
    with pytest.raises(InputError, match=r"x\.yaml"):
        read_yaml(tmp_path / "x.yaml", "x")


def test_mistakes_find_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: 1\nsites:\n  - name: b\n    batch: 3\n")
    file = read_yaml(path, "x")
    fields = ["sites[0].batch", "sites[0].missing", "sites[3].name", "nothing", "(top)"]
    assert {m.field: m.line for m in file.located([Mistake(f, "m") for f in fields])} == {
        "nothing": 1, "(top)": 1, "sites[0].missing": 3, "sites[3].name": 2, "sites[0].batch": 4,
    }  # fmt: skip


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError) as e:
        read_yaml(tmp_path / "no.yaml", "study")
    assert (e.value.code, e.value.found) == ("RSD-2005", "No such file or directory")


def test_write_new_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("there", "link"):
        with pytest.raises(InputError) as e:
            write_new(tmp_path / name, b"new")
        assert e.value.code == "RSD-2009"
    assert (tmp_path / "there").read_text() == "old"
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("value", ["a\nb", "\x1b[2J", "\ud800", "x" * 500, {"k": "secret"}, ["secret"] * 9, None, 1])
def test_a_value_is_shown_short_and_printable_and_nothing_inside_of_it(value: object) -> None:
    """An error travels as printable text: with anything else the other side would not know it again."""
    text = shown(value)
    assert text.isprintable()
    assert len(text) <= 80
    assert "secret" not in text
