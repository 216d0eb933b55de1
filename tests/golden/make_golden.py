"""Makes the golden bundle of this version, once, at a release:

    python -m pytest tests/golden/make_golden.py -n0

A real run of five small sites in one process, with an evaluation, released and verified. What exists is never written
over: a form that has to change makes a new bundle beside the old ones; an old one is deleted by hand, with a reason.
"""

from __future__ import annotations

import io
import json
import tarfile
from contextlib import ExitStack
from pathlib import Path

from compliance.clock import parse_time
from compliance.release.build import build_bundle
from compliance.release.bundle_folder import read_folder
from compliance.release.case import Contents
from compliance.release.verify import verify_bundle
from compliance.software import VERSION
from tests.federation import consortium
from tests.local_run import World

HERE = Path(__file__).parent
EVALUATION = {"noise_multiplier_micro": 4_000_000, "bins": 10}


def test_make_the_golden_bundle_of_this_version(tmp_path: Path) -> None:
    packed, facts = HERE / f"bundle-{VERSION}.tar.xz", HERE / f"bundle-{VERSION}.json"
    assert not packed.exists(), f"{packed.name} exists: a golden bundle is never made again by itself"
    signed = consortium().sign_study(model={**consortium().model, "adapters": None}, evaluation=EVALUATION)
    with ExitStack() as stack:
        run = World(tmp_path, signed).open(stack).run()
        files = build_bundle(read_folder(run.path), consortium().operator, consortium().anchor)
    at = Contents(files).manifest.created
    report = verify_bundle(files, consortium().anchor, parse_time(at))
    assert report.error is None, report.error
    trust = {"trust.json": (consortium().hub / "trust.json").read_bytes()}
    packed.write_bytes(_archive({**{f"bundle/{path}": data for path, data in files.items()}, **trust}))
    facts.write_text(json.dumps({**report.facts, "files": len(files)}, indent=1, sort_keys=True) + "\n")


def _archive(files: dict[str, bytes]) -> bytes:
    """One sequence of bytes for one set of files: sorted, without times, owners or modes."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:xz", format=tarfile.USTAR_FORMAT, preset=9) as archive:
        for path in sorted(files):
            member = tarfile.TarInfo(path)
            member.size = len(files[path])
            archive.addfile(member, io.BytesIO(files[path]))
    return out.getvalue()
