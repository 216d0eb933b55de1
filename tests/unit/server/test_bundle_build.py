import hashlib
import os
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

from flwr.cli.config_utils import get_fab_config, get_fab_metadata

from client.bundle_guard import check_bundle
from server import bundle_build

ROOT = Path(__file__).parents[3]


def test_the_digest_is_the_same_in_another_process_time_zone_and_umask(tmp_path):
    code = "import os; os.umask(0o77); from server.bundle_build import build_bundle; print(build_bundle()[1])"
    env = {
        **os.environ,
        "TZ": "Pacific/Auckland",
        "SOURCE_DATE_EPOCH": "0",
        "PYTHONHASHSEED": "7",
        "PYTHONPATH": str(ROOT),
    }
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    content, digest = bundle_build.build_bundle()
    assert out.stdout.strip() == digest == hashlib.sha256(content).hexdigest()


def test_times_and_modes_of_the_sources_do_not_matter(tmp_path, monkeypatch):
    _, digest = bundle_build.build_bundle()
    for name in bundle_build.FILES:
        copy = tmp_path / name
        copy.write_bytes((bundle_build._FOLDER / name).read_bytes())
        os.utime(copy, (1, 1))
        copy.chmod(0o600)
    monkeypatch.setattr(bundle_build, "_FOLDER", tmp_path)
    assert bundle_build.build_bundle()[1] == digest


def test_nothing_in_the_archive_depends_on_the_machine():
    with zipfile.ZipFile(BytesIO(bundle_build.build_bundle()[0])) as archive:
        for info in archive.infolist():
            assert (info.date_time, info.create_system, info.compress_type) == ((1980, 1, 1, 0, 0, 0), 3, 0)


def test_flower_reads_the_bundle_and_the_site_accepts_it():
    content, digest = bundle_build.build_bundle()
    assert get_fab_config(content)["tool"]["flwr"]["app"]["components"]["clientapp"] == "client.app:app"
    assert get_fab_metadata(content) == ("residency/residency-app", "0.1.0")
    facts = check_bundle(digest, content, frozenset({digest}))
    assert facts.files == ("pyproject.toml", "README.md", ".info/CONTENT")
