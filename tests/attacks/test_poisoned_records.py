"""Invariant 6: a marker in every cell and every identifier of an extract, and a search of all that was written or said.

What holds patient data by design is left out of the search: the extract itself, and the study's cache folder.
"""

import pytest
from click.testing import CliRunner

from client import registration, session, subjects
from client.home import AgentHome
from client.site import Site
from compliance.errors import ResidencyError
from residency import cli
from tests.federation import DATA_TERMS, consortium, open_home

MARK = "zqxwvmark"
COLUMNS = ("TSH", "age", "target", "patient_id")
GROUND = ("--legal-basis", "9(2)(j)", "--purpose", "scientific_research", "--expires", "2099-12-31")
ROWS = 200


def _table(path, *, spoilt=False, first=0):
    """Every cell holds the mark. `spoilt`: some rows have no class, which ends the join."""
    lines = [",".join(COLUMNS)]
    for i in range(first, first + ROWS):
        cells = [f"{MARK}{name.upper()}{i}" for name in COLUMNS]
        lines.append(
            ",".join(
                "" if spoilt and name == "target" and i % 9 == 0 else c for name, c in zip(COLUMNS, cells, strict=True)
            )
        )
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def home(tmp_path):
    home = AgentHome(consortium().copy_home("a", tmp_path))
    registry = home.registry()
    home.save_registry(registry.model_copy(update={"datasets": ()}))
    for file in home.path.glob("rows.db*"):
        file.unlink()
    return home


def _said(home, *words, ids=""):
    """What a command prints, on both streams."""
    done = CliRunner().invoke(cli, ["agent", *map(str, words), "--home", str(home.path)], input=ids)
    return done.exit_code, done.output.encode()


def _search(home, said):
    """Where the mark stands, in letters of any case."""
    files = [f for f in home.path.rglob("*") if f.is_file() and "cache" not in f.parts]
    found = [str(f) for f in files if MARK.encode() in f.read_bytes().lower()]
    return found + [text.decode(errors="replace") for text in said if MARK.encode() in text.lower()]


def _asked(home, request, *, real=False):
    """The text of the error that a message ends with, as it would travel; "" for none."""
    try:
        if real:
            site = Site(home)
            try:
                session.answer(site, request)
            finally:
                site.close()
        else:
            with open_home(home.path) as opened:
                session.answer(opened, request)
    except ResidencyError as e:
        return str(e)
    return ""


def test_no_command_message_or_file_holds_a_cell_of_the_extract(home, tmp_path):
    study = consortium().sign_study()
    first, said = _table(tmp_path / "a.csv"), []

    def do(status, *words, ids=""):
        code, text = _said(home, *words, ids=ids)
        assert code == status, text
        said.append(text)

    def add(status, name, path, *more, ids=("patient_id",)):
        columns = [w for c in ids for w in ("--id-column", c)]
        do(status, "dataset", "add", name, "--path", path, "--source", "clinic", *columns, *GROUND, *more)

    add(3, "thyroid", first, ids=("missing",))
    add(3, "thyroid", _write(tmp_path / "noid.csv", first.read_text().replace(f"{MARK}PATIENT_ID3,", ",") + "a,b,c,\n"))
    add(3, "thyroid", _write(tmp_path / "broken.parquet", first.read_text()))
    add(3, "thyroid", _write(tmp_path / "broken.jsonl", first.read_text()))
    add(0, "thyroid", first)
    add(3, "thyroid", first)
    add(0, "copy", first, "--json")
    do(0, "dataset", "show", "thyroid")
    do(0, "dataset", "show", "thyroid", "--json")
    do(0, "dataset", "list", "--json")
    do(0, "status", "--json")
    do(0, "subject", "withdraw", "--ground", "erasure", ids=f"{MARK}PATIENT_ID3\n{MARK}nobody\n")
    do(3, "subject", "withdraw", "--ground", "consent", ids="\n")
    said.append(_asked(home, study.join()).encode())
    said.append(_asked(home, study.round()).encode())
    subjects.withdraw(home, [(f"{MARK}PATIENT_ID4",)], "consent")
    said.append(_asked(home, study.round()).encode())
    first.write_text(first.read_text().replace(f"{MARK}AGE5", f"{MARK}AGE55"))
    said.append(_asked(home, consortium().sign_study(name="changed").join()).encode())
    assert b"RSD-1226" in said[-1]
    do(0, "subject", "affected")
    do(0, "subject", "affected", "--json")
    do(0, "dataset", "retire", "thyroid")
    do(0, "backup", "--out", tmp_path / "backup.tar")
    said.append((tmp_path / "backup.tar").read_bytes())  # not compressed
    said += _handed_out(home, tmp_path)
    assert _search(home, said) == []


def _handed_out(home, folder):
    """Every byte of what a reader of the log is given, and what the commands say meanwhile."""
    done = [
        CliRunner().invoke(cli, ["log", *map(str, words)])
        for words in (
            ("export", home.path, "--out", folder / "jsonl"),
            ("export", home.path, "--format", "csv", "--out", folder / "csv"),
            ("export", home.path, "--format", "fhir", "--out", folder / "fhir"),
            ("tiles", home.path, "--out", folder / "tiles", "--entries"),
            ("fsck", home.path, "--json"),
        )
    ]
    assert [d.exit_code for d in done] == [0] * 5, [d.output for d in done]
    files = [f for name in ("jsonl", "csv", "fhir", "tiles") for f in (folder / name).rglob("*") if f.is_file()]
    assert len(files) >= 10
    return [f.read_bytes() for f in files] + [d.output.encode() for d in done]


def _write(path, text):
    path.write_text(text)
    return path


def test_a_join_that_fails_on_the_data_tells_none_of_it(home, tmp_path, forked):
    """With the real training process: it reads the rows, and refuses those without a class."""
    registration.add_dataset(
        home, "thyroid", _table(tmp_path / "a.csv", spoilt=True), "clinic", ["patient_id"], DATA_TERMS
    )
    text = _asked(home, consortium().sign_study().join(), real=True)
    assert "RSD-2304" in text
    assert _search(home, [text.encode()]) == []


def test_the_search_finds_what_is_there(home):
    (home.path / "note.txt").write_text(f"seen {MARK.upper()}AGE7")
    assert len(_search(home, [MARK.encode()])) == 2
