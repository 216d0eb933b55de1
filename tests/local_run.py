"""A run in one process: the coordinator and five sites; everything real but the network and the training process.

`LocalGrid` hands each request to the site's session and the reply, or the error as it would travel, back; a test may
change a reply on its way, as a broken or dishonest site would.
"""

import functools
import json
import shutil
from pathlib import Path

from client import session
from compliance.canonical import parse_canonical
from compliance.clock import now
from compliance.error_reply import decode_error, encode_error
from compliance.errors import ResidencyError
from compliance.identity import parse_envelope
from compliance.release.build import build_bundle
from compliance.release.bundle_folder import read_folder
from compliance.release.verify import verify_bundle
from compliance.study import open_study
from server import coordinator, desk
from tests.federation import JURISDICTIONS, consortium, open_home


class LocalGrid:
    """Sites by node number; `tamper(site, kind, reply)` may return another reply or raise what the site would."""

    def __init__(self, sites, tamper=None):
        self._sites = sites
        self.tamper = tamper or (lambda _site, _kind, reply: reply)

    def ask(self, requests, timeout_s, patience_s, stop, names):
        assert timeout_s > 0
        assert set(names) == set(requests)
        assert max(patience_s.values(), default=0.0) <= timeout_s
        for node, request in requests.items():
            site, over = self._sites[node], stop()
            if over is not None:
                yield node, over
                continue
            try:
                yield node, self.tamper(site.name, request.kind, session.answer(site, request))
            except ResidencyError as e:
                yield node, decode_error(encode_error(e))


@functools.cache
def head_only(*names):
    """The main study without adapters, as the stand-in for the training process trains it; of `names` only, if given.

    What a run in one process costs grows with the square of its sites.
    """
    model = {**consortium().model, "adapters": None}
    sites = [s for s in consortium().study()["sites"] if not names or s["name"] in names]
    return consortium().sign_study(model=model, sites=sites, controllers=[s["name"] for s in sites])


class World:
    """A hub and the sites, as they are before the first run."""

    def __init__(self, root, study=None, names=tuple(JURISDICTIONS)):
        self.signed, self.names = study or head_only(), names
        self.hub = Path(
            shutil.copytree(
                consortium().hub,
                root / "hub",
                ignore=shutil.ignore_patterns("runs", "studies", "log*", "witness*", "flower"),
            )
        )
        self.homes = [consortium().copy_home(name, root / "sites") for name in names]
        self.study, self.answers = self.signed.write(root / "study")
        self.sites = {}

    def open(self, stack):
        """Open the sites in this process; `stack` closes them."""
        self.sites = {n + 1: stack.enter_context(open_home(home)) for n, home in enumerate(self.homes)}
        return self

    def site(self, name):
        return next(s for s in self.sites.values() if s.name == name)

    def begin(self):
        """Hand a run over, as `run start` and the keeper do; its folder."""
        data = self.study.read_bytes()
        study, digest = open_study(consortium().anchor, data.rstrip(b"\n"), "study")
        self.folder = desk.new_run(self.hub, study, digest, data, self.answers, b"bundle")
        self.folder.write_json("nodes.json", {name: str(n + 1) for n, name in enumerate(self.names)})
        return self.folder

    def go_on(self, tamper=None):
        """Coordinate the run from where it stands to its end. Raises what ends it."""
        coordinator.run(LocalGrid(self.sites, tamper), self.hub, self.signed.digest)

    def run(self, tamper=None):
        """One run to its end; its folder."""
        self.begin()
        self.go_on(tamper)
        return self.folder

    def result(self):
        return self.folder.result()

    def events(self, name):
        lines = (self.folder.path / "events.jsonl").read_text().splitlines()
        return [e for e in map(json.loads, lines) if e["event"] == name]

    def rows(self, number):
        data = (self.folder.path / "rosters" / f"round-{number:03d}.json").read_bytes()
        envelope = parse_envelope(data, "roster")
        rows = parse_canonical(envelope.payload, "roster")["rows"]
        return {r["site"]: r for r in rows}, {k for k, _ in envelope.signatures}

    def verify(self):
        files = build_bundle(read_folder(self.folder.path), consortium().operator, consortium().anchor)
        return verify_bundle(files, consortium().anchor, now())
