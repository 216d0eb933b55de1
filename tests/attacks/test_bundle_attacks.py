"""Bundles that try to bring code to a site, or to exhaust it: nothing is run, written or inflated beyond a bound."""

import hashlib
import io
import struct
import sys
import tracemalloc
import warnings
import zipfile

import pytest

from client.bundle_guard import MAX_FILE_BYTES, check_bundle
from client.node import check_settings
from compliance.errors import Refused
from server.bundle_build import build_bundle


def _with(*files, compression=zipfile.ZIP_STORED):
    """The real bundle and further files; zipfile itself only warns about a name that occurs twice."""
    out = io.BytesIO()
    content, _ = build_bundle()
    with warnings.catch_warnings(), zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(out, "w") as target:
        warnings.simplefilter("ignore", UserWarning)
        for name in source.namelist():
            target.writestr(name, source.read(name))
        for name, data in files:
            target.writestr(name, data, compression)
    return out.getvalue()


def _refusal(content):
    """The refusal of a bundle that the site was even talked into approving."""
    digest = hashlib.sha256(content).hexdigest()
    with pytest.raises(Refused) as refused:
        check_bundle(digest, content, frozenset({digest}))
    return refused.value


@pytest.mark.parametrize(
    "name",
    [
        "client/app.py",
        "client/session.py",
        "opacus.pth",
        "sitecustomize.py",
        "conf/run.json",
        "../../etc/cron.d/x",
        "/etc/passwd",
        "README.md/",
        "readme.md",
        "PYPROJECT.TOML",
        "README.md ",
        "./README.md",
        "x/../README.md",
        "README.md\\x.py",
        "weights.pkl",
        "lib.so",
    ],
)
def test_no_file_beyond_the_four_texts(name):
    error = _refusal(_with((name, "import os")))
    assert error.code == "RSD-1103"
    assert ascii(name)[:200] in error.found


def test_a_name_cut_by_a_nul_byte_is_refused():
    content = _with(("README.md#evil.py", "import os")).replace(b"README.md#evil.py", b"README.md\0evil.py")
    assert _refusal(content).code == "RSD-1103"


def test_a_second_file_of_the_same_name_is_refused():
    error = _refusal(_with(("pyproject.toml", zipfile.ZipFile(io.BytesIO(build_bundle()[0])).read("pyproject.toml"))))
    assert (error.code, error.message) == ("RSD-1102", "a file occurs twice in the bundle")


def test_a_local_name_that_differs_from_the_directory_is_refused():
    content = build_bundle()[0]
    local = content.index(b"README.md")
    assert _refusal(content[:local] + b"client.py" + content[local + 9 :]).code == "RSD-1102"


def test_a_zip_bomb_is_refused_without_being_inflated():
    bomb = _with(("LICENSE", b"\0" * 2**26), compression=zipfile.ZIP_DEFLATED)
    assert len(bomb) < 2**17
    error, peak = _refusal_and_peak(bomb)
    assert (error.code, error.found) == ("RSD-1102", str(2**26))
    assert peak < 2**20


def _refusal_and_peak(content):
    tracemalloc.start()
    try:
        return _refusal(content), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_an_understated_size_does_not_help_a_bomb():
    bomb = bytearray(_with(("LICENSE", b"\0" * 2**26), compression=zipfile.ZIP_DEFLATED))
    for signature, at in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        header = bomb.rindex(signature)
        struct.pack_into("<I", bomb, header + at, 100)
    error, peak = _refusal_and_peak(bytes(bomb))
    assert error.code == "RSD-1102"
    assert peak < 8 * MAX_FILE_BYTES


def test_an_encrypted_file_is_refused():
    content = bytearray(build_bundle()[0])
    for signature, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(signature) + at] |= 1
    assert _refusal(bytes(content)).code == "RSD-1102"


def test_nothing_is_written_and_nothing_imported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    _refusal(_with(("evil_payload.py", "open('owned', 'w')"), ("client/app.py", "open('owned', 'w')")))
    content, digest = build_bundle()
    check_bundle(digest, content, frozenset({digest}))
    assert list(tmp_path.iterdir()) == []
    assert not {m for m in set(sys.modules) - before if "evil" in m}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"study": ""},
        {"study": "A" * 64},
        {"study": "1" * 63},
        {"study": "1" * 64 + "\n"},
        {"study": 10**63},
        {"Study": "1" * 64},
        {"study": "1" * 64, "sigma": 0.0},
        {"study": "1" * 64, "home": "elsewhere"},
    ],
)
def test_no_run_setting_but_the_study(settings):
    with pytest.raises(Refused) as refused:
        check_settings(settings)
    assert refused.value.code == "RSD-1105"


def test_the_study_alone_is_allowed():
    check_settings({"study": "0a" * 32})
