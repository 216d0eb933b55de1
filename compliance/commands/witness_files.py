"""Cosigning by file: a request or evidence goes to the witness, a cosigned checkpoint comes back, into its place."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from compliance.canonical import canonical, parse_json
from compliance.clock import now
from compliance.commands.elsewhere import part
from compliance.commands.log_home import log_of, signer_of
from compliance.errors import CheckFailed, Refused
from compliance.files import read_bytes, refuse_existing, write_durably, write_new
from compliance.log import checkpoint, cosign, note
from compliance.log.alarms import add_cosignature
from compliance.log.cosign import WitnessKeys
from compliance.log.evidence import LogEvidence
from compliance.log.store import LogStore
from compliance.log.witness import WitnessStore
from compliance.log.witness_home import WitnessHome, known_logs
from compliance.log.witness_protocol import Request, parse_request, proved_from, with_lines
from compliance.trust.root import Anchor, load_anchor
from compliance.trust.witnesses import owners, witness_keys
from compliance.validation import load_model


class Done(NamedTuple):
    """A checkpoint that was cosigned, and the file of it."""

    origin: str
    size: int
    line: str
    file: Path


class Taken(NamedTuple):
    """A cosignature that was put in place."""

    origin: str
    size: int
    witness: str


def cosign_files(home: Path, trust_files: Iterable[Path], files: Iterable[Path], out: Path) -> list[Done]:
    """Cosign the checkpoint of each of `files`, and write each with the cosignature into `out`.

    Raises Refused RSD-5111 (unknown log), and what `WitnessStore.cosign` raises: then the files before are cosigned.
    """
    place = WitnessHome(home)
    signer = place.signer()
    keys = known_logs([load_anchor(path, now()) for path in trust_files], signer)
    done = []
    with place.store(signer) as store:
        for file in files:
            request = _request(read_bytes(file, "what is to be cosigned"), str(file), store)
            origin = checkpoint.parse_text(note.parse(request.note).text).origin
            if origin not in keys:
                raise _unknown(origin, keys)
            made = store.cosign(request.note, keys[origin], request.old, request.proof, origin=origin)
            path = out / f"{origin.rpartition('/')[2]}-{made.size}-{store.name}.txt"
            write_durably(path, store.last_note(origin).encode())
            done.append(Done(origin, made.size, made.line, path))
    return done


def ask(home: Path, trust_file: Path, witness: str, old: int, out: Path) -> tuple[int, int]:
    """Write a request to `witness` for the log in `home` as it is now; its size, and the entry that allows it.

    The file is made for somebody to carry: decided by the law set of the home, and logged, before there is one. Raises
    Refused RSD-5110, RSD-3100 (denied; logged as well), InputError RSD-5012, RSD-2009, RSD-5060.
    """
    refuse_existing(out)
    role = signer_of(home).identity.role
    may_show: Callable[[Path, LogStore, str], int] = part(
        f"show_{role}", "log witness ask", "server" if role == "operator" else "agent"
    )
    with _log(home, load_anchor(trust_file, now())) as log:
        decision = may_show(home, log, witness)
        size = log.size
        proof = log.consistency_proof(old, size)
        write_new(out, Request(old, proof, log.checkpoint(size)).encode())
    return size, decision


def take(files: Iterable[Path], into: Path, trust_file: Path) -> list[Taken]:
    """Put the cosignatures of each of `files` into the log or the evidence at `into`.

    Raises Refused RSD-5111 (not a member's log), CheckFailed RSD-5002 (no witness of the trust file), RSD-5115 (of
    another checkpoint), InputError RSD-5034.
    """
    anchor = load_anchor(trust_file, now())
    done = []
    for file in files:
        data = read_bytes(file, "a cosigned checkpoint", note.MAX_NOTE_SIZE)
        signed = note.parse(data.decode("utf-8", errors="replace"))
        found = checkpoint.parse_text(signed.text)
        member = owners(anchor.trust).get(found.origin)
        if member is None:
            raise _unknown(found.origin, owners(anchor.trust))
        keys = witness_keys(anchor.trust, member, now())
        lines = tuple(cosign.counted(signed, keys))
        if not lines:
            held = ", ".join(s.name for s in signed.signatures)
            raise note.bad_signature(f"no known witness cosigned {file}", held, ", ".join(sorted(keys)))
        _put(into, anchor, member, note.Note(signed.text, lines), keys)
        done += [Taken(found.origin, found.size, name) for name in sorted({s.name for s in lines})]
    return done


def _put(into: Path, anchor: Anchor, member: str, cosigned: note.Note, keys: WitnessKeys) -> None:
    found = checkpoint.parse_text(cosigned.text)
    if (into / "log.db").exists():
        with _log(into, anchor) as log:
            if log.origin != found.origin:
                raise _another(found.origin, log.origin)
            for line in cosigned.signatures:
                add_cosignature(log, found.size, line.line(), keys)
        return
    file = into / "evidence" / f"{member}.json" if into.is_dir() else into
    evidence = load_model(LogEvidence, parse_json(read_bytes(file, "evidence"), str(file)), "RSD-9041", str(file))
    end = note.parse(evidence.checkpoint)
    if end.text != cosigned.text:
        raise _another(_shown(cosigned.text), _shown(end.text))
    changed = evidence.model_copy(update={"checkpoint": with_lines(end, cosigned.signatures).encode()})
    write_durably(file, canonical(changed.model_dump(mode="json")))


def _request(data: bytes, what: str, store: WitnessStore) -> Request:
    if data.startswith(b"old "):
        return parse_request(data)
    evidence = load_model(LogEvidence, parse_json(data, what), "RSD-9041", what)
    last = store.last(evidence.origin)
    old, size = last[0] if last else 0, len(evidence.leaf_hashes)
    proof = proved_from(evidence.hashes(), old) if old < size else ()
    lines = note.parse(evidence.checkpoint)
    by_log = tuple(s for s in lines.signatures if s.name == evidence.origin)
    return Request(old, proof, note.Note(lines.text, by_log).encode())


def _log(home: Path, anchor: Anchor) -> LogStore:
    signer = signer_of(home)
    return LogStore.open(log_of(home), anchor.trust.log_origin(signer.identity.holder), signer.private)


def _shown(text: str) -> str:
    found = checkpoint.parse_text(text)
    return f"{found.origin}, {found.size} entries, root {found.root.hex()[:16]}"


def _unknown(origin: str, known: Iterable[str]) -> Refused:
    return Refused(
        "RSD-5111",
        f"{origin} is no log of the trust file",
        rule="the logs of the members are witnessed, and no others",
        found=origin,
        limit=", ".join(sorted(known)),
        next="give the trust file of the log's consortium",
    )


def _another(found: str, limit: str) -> CheckFailed:
    return CheckFailed(
        "RSD-5115",
        "this is cosigned on another checkpoint than the one here",
        rule="a cosignature belongs to one checkpoint of one log",
        found=found,
        limit=limit,
        next="give the log or the evidence that went to the witness, or have what is here cosigned",
    )
