"""The Go program beside this file, compiled and running: what golang.org/x/mod/sumdb says of trees, notes and tiles."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from compliance.log import note

SOURCE = Path(__file__).parent / "go"
LIBRARIES = "/usr/share/gocode"  # where Debian's golang-golang-x-mod-dev lies

_TYPE = bytes([note.TYPE_ED25519])


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def verifier_key(name: str, key: Ed25519PublicKey) -> str:
    """The key as golang.org/x/mod/sumdb/note.NewVerifier reads it."""
    return f"{name}+{note.key_id(name, note.TYPE_ED25519, key).hex()}+{b64(_TYPE + key.public_bytes_raw())}"


def signer_key(name: str, key: Ed25519PrivateKey) -> str:
    """The key as golang.org/x/mod/sumdb/note.NewSigner reads it."""
    shown = note.key_id(name, note.TYPE_ED25519, key.public_key()).hex()
    return f"PRIVATE+KEY+{name}+{shown}+{b64(_TYPE + key.private_bytes_raw())}"


class Oracle:
    """Asks one question after the other."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """The answer; byte strings are sent as base64."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        sent = {"op": op} | {k: _sendable(v) for k, v in fields.items()}
        self._process.stdin.write(json.dumps(sent).encode() + b"\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def accepts(self, op: str, **fields: Any) -> bool:
        """Whether a check came out well."""
        return bool(self.ask(op, **fields)["ok"])

    def hashes(self, op: str, **fields: Any) -> list[bytes]:
        """The hashes of an answer, which must be a good one."""
        answer = self.ask(op, **fields)
        assert answer["ok"], answer["error"]
        return [base64.b64decode(h) for h in answer["hashes"] or []]

    def text(self, op: str, **fields: Any) -> str:
        """The text of an answer, which must be a good one."""
        answer = self.ask(op, **fields)
        assert answer["ok"], answer["error"]
        return str(answer["text"])


def _sendable(value: Any) -> Any:
    if isinstance(value, bytes):
        return b64(value)
    return [_sendable(v) for v in value] if isinstance(value, Sequence) and not isinstance(value, str) else value


@contextmanager
def running(folder: Path) -> Iterator[Oracle]:
    """Compile the program into `folder` and run it. Without Go, or its libraries, this fails."""
    environment = {
        **os.environ,
        "GO111MODULE": "off",
        "GOPATH": LIBRARIES,
        "GOCACHE": str(folder / "cache"),
        "GOFLAGS": "",
        "CGO_ENABLED": "0",
    }
    built = folder / "oracle"
    subprocess.run(["go", "build", "-o", str(built), "oracle.go"], cwd=SOURCE, env=environment, check=True, timeout=120)
    with subprocess.Popen([built], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield Oracle(process)
        process.communicate(timeout=10)
