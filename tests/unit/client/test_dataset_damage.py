"""A dataset that cannot be read: at `agent dataset add` the cause, the line and the next step; elsewhere no line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from client.data.table import load_table
from client.home import AgentHome
from compliance.errors import InputError
from tests.desk import refused
from tests.federation import consortium

HEADER = b"patient_id,TSH,target\n"
ROWS = b"".join(b"p%d,%d,-\n" % (i, i % 7) for i in range(20))
CUT = "a last row with fewer fields than the header"
CAUSES: dict[str, tuple[str, bytes, str, str]] = {
    "ragged": ("t.csv", HEADER + ROWS + b"Mueller,1,K,x,9\n",
               "a row with more fields than the header: line 22 has 5, the header 3", "as many fields"),
    "cut": ("t.csv", HEADER + ROWS + b"Mueller,1", f"{CUT}: line 22 has 2, the header 3", "export the dataset again"),
    "cut line": ("t.csv", HEADER + ROWS + b"Mueller\n\n", f"{CUT}: line 22 has 1, the header 3", "export the dataset"),
    "NUL": ("t.csv", HEADER + b"Mueller,\0,K\n" + ROWS, "a zero byte: line 2", "export the dataset again"),
    "NUL quoted": ("t.csv", HEADER + ROWS + b'"Mueller\n\0",1,K\n', "a zero byte: line 23", "export the dataset again"),
    "one name": ("t.csv", b"patient_id,Mueller,Mueller\n" + ROWS,
                 "two columns of one name: columns 2 and 3", "a name of its own"),
    "latin-1": ("t.csv", HEADER + ROWS + b"M\xfcller,1,K\n", "text that is not UTF-8: line 22", "save the file as UTF"),
    "UTF-16": ("t.csv", (HEADER + ROWS).decode().encode("utf-16"), "text in UTF-16", "save the file as UTF-8"),
    "quote": ("t.csv", HEADER + ROWS + b'p1,"Mueller,K\n', "a quote that does not fit: line 22", "close the quote"),
    "long": ("t.csv", HEADER + b"Mueller," + b"7" * 140_000 + b",K\n", "a field that is too long: line 2", "shorten"),
    "no object": ("t.jsonl", b'{"patient_id": 1}\n\n["Mueller"]\n', "a line that is no JSON object: line 3", "correct"),
    "no JSON": ("t.jsonl", b'{"patient_id": 1}\nMueller\n', "a line that is no JSON object: line 2", "correct"),
    "latin-1 JSON": ("t.jsonl", b'{"patient_id": "M\xfcller"}\n', "text that is not UTF-8: line 1", "as UTF-8"),
    "no parquet": ("t.parquet", b"Mueller", "ArrowInvalid", "export the dataset"),
    "suffix": ("t.xlsx", b"Mueller", "another suffix", "export the dataset"),
}  # fmt: skip


def added(home: Path, path: Path, name: str = "extra") -> tuple[object, ...]:
    """The command that registers `path`."""
    return ("agent", "dataset", "add", name, "--home", home, "--path", path, "--source", "x", "--id-column",
            "patient_id", "--legal-basis", "9(2)(j)", "--purpose", "scientific_research",
            "--expires", "2099-12-31")  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site's home; nothing here changes it."""
    return consortium().copy_home("a", tmp_path_factory.mktemp("home"))


@pytest.mark.parametrize("cause", CAUSES)
def test_the_engineer_is_told_cause_and_line_and_no_cell(home: Path, tmp_path: Path, cause: str) -> None:
    name, data, found, remedy = CAUSES[cause]
    (tmp_path / name).write_bytes(data)
    error = refused(3, "RSD-2301", *added(home, tmp_path / name))
    assert error["found"] == found
    assert error["limit"]
    assert remedy in error["next"]
    assert "ller" not in str(error)
    assert not [d for d in AgentHome(home).registry().datasets if d.name == "extra"]


@pytest.mark.parametrize("cause", CAUSES)
def test_what_leaves_the_site_tells_no_line(tmp_path: Path, cause: str) -> None:
    name, data, found, _ = CAUSES[cause]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError) as e:
        load_table(tmp_path / name, ["patient_id"])
    assert e.value.found == found.partition(":")[0]
    said = str(e.value)
    assert "line 2" not in said
    assert "columns 2" not in said
    assert "has 5" not in said


def test_what_is_no_file_is_named_with_what_it_is(home: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    (tmp_path / "lost.csv").symlink_to("nowhere.csv")
    kinds = {
        tmp_path / "folder.csv": "a folder",
        tmp_path / "pipe.csv": "a pipe",
        Path("/dev/zero"): "a device",
        tmp_path / "none.csv": "nothing",
        tmp_path / "lost.csv": "a link to nothing",
        tmp_path / "loop.csv": "Too many levels of symbolic links",
    }
    for path, found in kinds.items():
        error = refused(3, "RSD-2300", *added(home, path))
        assert error["found"] == found
        assert str(path) in error["message"]
        assert "--path" in error["next"]


def test_a_name_that_is_none_is_told_in_words(home: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(HEADER + ROWS)
    error = refused(3, "RSD-1235", *added(home, tmp_path / "t.csv", "A b"))
    assert error["found"] == "A b"
    assert error["limit"].startswith("small letters, digits and hyphens")
    assert error["next"] == "residency explain RSD-1235"
