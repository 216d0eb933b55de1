"""The operator's way to outside witnesses: c2sp.org/tlog-witness requests, for the logs of all members.

Which witness listens where is the operator's word. What may be shown to it is decided before it is asked, and only its
own cosignature is taken from there. A witness that is away, slow or wrong costs a run nothing but a moment: what came
of asking is returned, not raised.
"""

from __future__ import annotations

import http.client
import re
import ssl
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, NamedTuple, Protocol
from urllib.parse import urlsplit

from pydantic import Field

from compliance.canonical import canonical, parse_canonical
from compliance.clock import now
from compliance.errors import CheckFailed, InputError, PeerUnreachable, Refused, ResidencyError
from compliance.files import absolute, read_bytes, write_durably
from compliance.log import checkpoint, cosign, note
from compliance.log.alarms import Alarm, alarm
from compliance.log.witness_protocol import MOST_PROOF, PATH, SIZE_TYPE, Request, parse_lines
from compliance.log.witness_server import LOOPBACK
from compliance.messages import CosignedLine
from compliance.training_spec import Frozen
from compliance.trust.root import NAME, Trust
from compliance.trust.witnesses import outside_keys
from compliance.validation import load_model

Prove = Callable[[int], tuple[bytes, ...] | None]
"""The proof from a tree of so many entries to the checkpoint; None if it cannot be made here."""

LIMIT_S: Final = 5.0  # to connect, and for each answer
AWAY_S: Final = 60.0  # before a witness that did not answer is asked again, unless it must be
_MOST_ANSWER: Final = 64 << 10
_TRIES: Final = 2  # the second from the size that the witness names


class Address(NamedTuple):
    """Where a witness listens: TLS but on the loopback."""

    host: str
    port: int
    path: str
    tls: bool

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{self.path}"


class Named(NamedTuple):
    """A witness of the trust file, and where it listens."""

    witness: str
    address: Address

    def __str__(self) -> str:
        return f"{self.witness}={self.address}"


class Config(Frozen):
    """witnesses.json of the operator's home: NAME=ADDRESS, and a CA of their doors if it is none of the system's."""

    addresses: tuple[str, ...] = ()
    ca: str = ""

    def named(self) -> list[Named]:
        """Each witness and its address, which is no other's. Raises InputError RSD-5116."""
        found = [parse_named(text) for text in self.addresses]
        by_address: dict[Address, str] = {}
        for witness, address in found:
            other = by_address.setdefault(address, witness)
            if other != witness:
                raise _shared(address, other, witness)
        return found


class Gate(Protocol):
    """Who decides what a witness may be shown."""

    def check(self, witness: str, origin: str) -> None:
        """Returns if the checkpoint of the log `origin` may go to `witness`, decided and logged. Raises Refused."""


class _Sizes(Frozen):
    """exchange/witnesses.json: address -> origin -> the size that it cosigned last."""

    sizes: dict[str, dict[str, Annotated[int, Field(ge=0)]]]


class Shown(NamedTuple):
    """A checkpoint to be cosigned: its log, its note, and how to prove that it continues an earlier one."""

    origin: str
    note: str
    prove: Prove


@dataclass
class Came:
    """What came of asking: cosignatures that verified, errors by address, alarms. `asked`: somebody was.

    `ahead`: address, origin, the size that the witness says it cosigned, and the smaller one that was shown to it.
    """

    lines: list[CosignedLine] = field(default_factory=list)
    errors: list[tuple[str, ResidencyError]] = field(default_factory=list)
    alarms: list[Alarm] = field(default_factory=list)
    ahead: list[tuple[str, str, int, int]] = field(default_factory=list)
    asked: bool = False


def parse_named(text: str) -> Named:
    """NAME=ADDRESS. Raises InputError RSD-5116."""
    name, equals, address = text.partition("=")
    if not equals or not re.fullmatch(NAME, name):
        raise InputError(
            "RSD-5116",
            f"{text!r} does not say which witness listens there",
            rule="what a witness may be shown is decided before it is asked, by its name in the trust file",
            found=text[:200],
            limit="NAME=HOST:PORT",
            next="residency server start --witness NAME=HOST:PORT",
        )
    return Named(name, parse_address(address))


def parse_address(text: str) -> Address:
    """HOST:PORT or a URL, with a path if there is one. Raises InputError RSD-5116."""
    try:
        url = urlsplit(text if "://" in text else f"//{text}")
        host, port = url.hostname or "", url.port
    except ValueError:
        url, host, port = urlsplit(""), "", None
    scheme = url.scheme or ("http" if host in LOOPBACK else "https")
    extra = url.username or url.password or url.query or url.fragment
    plain = scheme == "http" and host in LOOPBACK
    if not host or extra or port == 0 or not (plain or scheme == "https"):
        raise InputError(
            "RSD-5116",
            f"{text!r} is no address of a witness",
            rule="a witness is reached over TLS, or on this machine's loopback",
            found=text[:200],
            limit="HOST:PORT or https://HOST:PORT/PATH",
            next="give the address that the witness told",
        )
    return Address(host, port or (80 if plain else 443), url.path.rstrip("/"), tls=not plain)


def _shared(address: Address, one: str, other: str) -> InputError:
    return InputError(
        "RSD-5116",
        f"{address} is given for {one} and {other}",
        rule="what is sent to an address is decided for one witness",
        found="two witnesses at one address",
        limit="NAME=HOST:PORT, each address once",
        next="ask both where they listen, then: residency server start --witness NAME=HOST:PORT",
    )


def install(home: Path, addresses: Iterable[str], ca: Path | None) -> None:
    """Write witnesses.json: these, as NAME=ADDRESS, and no others. Raises InputError RSD-5116, RSD-2005."""
    named = Config(addresses=tuple(addresses)).named()
    found = tuple(dict.fromkeys(str(n) for n in named))
    if ca is not None:
        read_bytes(ca, "the CA of the witnesses")
    config = Config(addresses=found, ca=str(absolute(ca, "the CA file")) if ca else "")
    file = home / "witnesses.json"
    if found or file.exists():
        write_durably(file, canonical(config.model_dump(mode="json")))


def configured(home: Path) -> Config:
    """witnesses.json; no witness if there is none. Raises InputError RSD-5116."""
    file = home / "witnesses.json"
    if not file.exists():
        return Config()
    return load_model(Config, parse_canonical(read_bytes(file, "the witnesses"), str(file)), "RSD-5116", str(file))


class OutsideWitnesses:
    """The witnesses of one home. Remembers on disk the size of each log that each address cosigned last.

    Raises InputError RSD-5116 for addresses, RSD-5118 for a memory, that cannot be read.
    """

    def __init__(self, home: Path, trust: Trust, gate: Gate, clock: Callable[[], float] = time.monotonic) -> None:
        config = configured(home)
        self._trust, self._gate, self._clock = trust, gate, clock
        self._named = config.named()
        self._ca = config.ca
        self._told: set[tuple[Named, str, str]] = set()
        self._file = home / "exchange" / "witnesses.json"
        self._sizes: dict[str, dict[str, int]] = {}
        if self._file.exists():
            known = parse_canonical(read_bytes(self._file, "sizes at the witnesses"), str(self._file))
            self._sizes = load_model(_Sizes, {"sizes": known}, "RSD-5118", str(self._file)).sizes
        self._away: dict[Address, float] = {}

    def __bool__(self) -> bool:
        return bool(self._named)

    def ask(self, shown: Iterable[Shown], *, at_once: bool = False) -> Came:
        """Have each checkpoint cosigned by each witness that may be shown it: decided and logged before it is sent.

        What may not is told once. `at_once`: also by those that did not answer a moment ago.
        """
        came, wanted = Came(), list(shown)
        for named in self._named:
            if not at_once and self._clock() < self._away.get(named.address, 0.0):
                continue
            for one in wanted:
                try:
                    self._gate.check(named.witness, one.origin)
                    came.lines += self._asked(named, one, came)
                except PeerUnreachable as e:
                    self._away[named.address] = self._clock() + AWAY_S
                    came.errors.append((str(named.address), e))
                    break
                except Refused as e:
                    self._refuse(named, e, came)
                except ResidencyError as e:
                    came.errors.append((str(named.address), e))
        return came

    def _refuse(self, named: Named, error: Refused, came: Came) -> None:
        told = (named, error.code, error.message)
        if told not in self._told:
            self._told.add(told)
            came.errors.append((str(named.address), error))

    def _asked(self, named: Named, shown: Shown, came: Came) -> list[CosignedLine]:
        address, came.asked = named.address, True
        text = note.parse(shown.note).text
        size = checkpoint.parse_text(text).size
        old = self._sizes.get(str(address), {}).get(shown.origin, 0)
        for _ in range(_TRIES):
            status, kind, body = self._post(address, _request(shown, min(old, size)))
            if status != http.HTTPStatus.CONFLICT or kind != SIZE_TYPE:
                break
            told = _size(body, address)
            if told > size:
                came.ahead.append((str(address), shown.origin, told, size))
            if told < old:
                found, limit = f"{told} entries of {shown.origin}", f"{old} entries, which it cosigned"
                came.alarms.append(alarm("RSD-5104", str(address), found=found, limit=limit))
            old = told
        if status != http.HTTPStatus.OK:
            raise _refused(address, shown.origin, status, body)
        lines = self._verified(named, shown.origin, text, body)
        self._remember(address, shown.origin, size)
        return [CosignedLine(origin=shown.origin, size=size, witness=s.name, line=s.line()) for s in lines]

    def _verified(self, named: Named, origin: str, text: str, body: str) -> list[note.Signature]:
        """The lines by the witness that was asked; others are left out. Raises CheckFailed RSD-5103 for none."""
        keys = {name: held for name, held in outside_keys(self._trust, now()).items() if name == named.witness}
        good = []
        for line in parse_lines(body):
            known = cosign.key_of(line, keys)
            if known is not None:
                cosign.verify(text, line, known.key)
                good.append(line)
        if not good:
            raise CheckFailed(
                "RSD-5103",
                f"the witness at {named.address} did not cosign {origin} with the key of {named.witness}",
                rule="a witness is who stands in the trust file",
                found=", ".join(line.name for line in parse_lines(body)) or "no line",
                limit=f"a key of {named.witness} that stands in the trust file",
                next="compare the address and the trust file with what the witness says; have a new key admitted",
            )
        return good

    def _remember(self, address: Address, origin: str, size: int) -> None:
        known = self._sizes.setdefault(str(address), {})
        if known.get(origin) != size:
            known[origin] = size
            write_durably(self._file, canonical(self._sizes))

    def _post(self, address: Address, body: bytes) -> tuple[int, str, str]:
        """Status, type and body of the answer. Raises PeerUnreachable RSD-5102."""
        connection: http.client.HTTPConnection
        try:
            if address.tls:
                context = ssl.create_default_context(cafile=self._ca or None)
                connection = http.client.HTTPSConnection(address.host, address.port, timeout=LIMIT_S, context=context)
            else:
                connection = http.client.HTTPConnection(address.host, address.port, timeout=LIMIT_S)
            try:
                connection.request("POST", address.path + PATH, body, {"Content-Type": "text/plain"})
                answer = connection.getresponse()
                data = _read(answer, time.monotonic() + LIMIT_S)
                return answer.status, answer.headers.get("Content-Type", ""), data.decode("utf-8", errors="replace")
            finally:
                connection.close()
        except (OSError, http.client.HTTPException, ValueError) as e:
            raise PeerUnreachable(
                "RSD-5102",
                f"the witness at {address} does not answer",
                rule="c2sp.org/tlog-witness",
                found=getattr(e, "strerror", None) or str(e) or type(e).__name__,
                limit=f"an answer in {LIMIT_S:g} s",
                next="ask whoever runs it; a run goes on without it, a release may not",
            ) from e


def _read(answer: http.client.HTTPResponse, until: float) -> bytes:
    """The body, no longer than an answer can be and no slower than the limit. Raises OSError."""
    data = b""
    while len(data) <= _MOST_ANSWER:
        part = answer.read1(_MOST_ANSWER)
        if not part:
            return data
        data += part
        if time.monotonic() > until:
            raise TimeoutError("the answer takes too long")
    raise OSError("the answer is too long")


def _request(shown: Shown, old: int) -> bytes:
    proof = shown.prove(old) if old else ()
    if proof is None:
        raise InputError(
            "RSD-5105",
            f"no proof from {old} entries of {shown.origin} is here",
            rule="a witness cosigns what continues what it cosigned",
            found=f"last cosigned at {old} entries",
            limit="a size that the log's member proved from",
            next="nothing: it is asked again when the study closes, with the proof from the evidence",
        )
    return Request(old, proof[:MOST_PROOF], shown.note).encode()


def _size(body: str, address: Address) -> int:
    digits = body.removesuffix("\n")
    if not (digits.isascii() and digits.isdecimal()) or len(digits) > 16:
        raise _refused(address, "a log", http.HTTPStatus.CONFLICT, body)
    return int(digits)


def _refused(address: Address, origin: str, status: int, body: str) -> CheckFailed:
    return CheckFailed(
        "RSD-5103",
        f"the witness at {address} does not cosign {origin}",
        rule="c2sp.org/tlog-witness",
        found=f"status {status}: {' '.join(body.split())[:200]}",
        limit="status 200 and a cosignature",
        next="404: it has another trust file; 409 and 422: compare the log with what it cosigned before",
    )
