"""The process of a witness: its door, until a signal ends it; follows the trust files that it was started with."""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from compliance.clock import now, parse_time
from compliance.errors import ResidencyError
from compliance.identity import Signer
from compliance.log.witness_home import WitnessHome, known_logs
from compliance.log.witness_protocol import LogKeys, WitnessPart
from compliance.log.witness_server import WitnessDoor, no_door, tls_context
from compliance.trust.root import Anchor, check_successor, load_anchor

_LOOK_S: Final = 1.0


def run(home: Path, trust_files: tuple[Path, ...], address: tuple[str, int], tls: tuple[Path, Path] | None) -> None:
    """Answer until SIGTERM or SIGINT; call it in the main thread. Prints {"ready": true, ...} when it listens.

    Raises what opening the folder, the trust files and the door raises.
    """
    place = WitnessHome(home)
    signer = place.signer()
    trusted = _Trusted(trust_files, signer)
    with place.store(signer) as store:
        part = WitnessPart(store, trusted.keys)
        door = WitnessDoor(address, part.answer, tls_context(*tls) if tls else None)
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        serving = threading.Thread(target=door.serve_forever, name="witness-door", daemon=True)
        serving.start()
        ready = {"ready": True, "name": store.name, "port": door.port, "logs": sorted(part.keys)}
        print(json.dumps(ready), flush=True)  # noqa: T201 - the line that whoever started this process waits for
        while not stop.wait(_LOOK_S):
            part.keys = trusted.look()
            if not serving.is_alive():
                raise no_door(f"{address[0]}:{door.port}", OSError("the door closed by itself"))
        door.shutdown()
        door.server_close()


class _Trusted:
    """The logs that the trust files name now; a file that was replaced counts from its next version on."""

    def __init__(self, files: tuple[Path, ...], signer: Signer) -> None:
        self._signer, self._said = signer, set[str]()
        self._anchors: dict[Path, Anchor] = {path: load_anchor(path, now()) for path in files}
        self._stamps = {path: self._stamp(path) for path in files}
        self.keys: LogKeys = known_logs(self._anchors.values(), signer)

    def look(self) -> LogKeys:
        """Take up what was replaced; what cannot be taken up is said once, and what stood before stands."""
        for path, before in self._anchors.items():
            stamp = self._stamp(path)
            if stamp == self._stamps[path]:
                continue
            self._stamps[path] = stamp
            try:
                after = load_anchor(path, now())
                if after.digest != before.digest:
                    check_successor(before, after)
                self._anchors[path] = after
            except ResidencyError as e:
                self._say(f"{path} is not taken up: {e}")
        return self._known()

    def _known(self) -> LogKeys:
        """None at all of a consortium whose trust file has expired, or in which this witness has no valid key."""
        found: dict[str, Ed25519PublicKey] = {}
        for path, anchor in self._anchors.items():
            try:
                if now() > parse_time(anchor.trust.expires):
                    self._say(f"{path} has expired: its logs are not cosigned")
                else:
                    found |= known_logs([anchor], self._signer)
            except ResidencyError as e:
                self._say(f"{path}: {e}")
        return found

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            print(f"witness: {text}", file=sys.stderr, flush=True)  # noqa: T201

    @staticmethod
    def _stamp(path: Path) -> tuple[int, int]:
        try:
            found = path.stat()
        except OSError:
            return (0, 0)
        return (found.st_mtime_ns, found.st_ino)
