"""Step 10, checkpoints: outside witnesses that cosigned a log whose owner denies them.

A cosignature says that the witness saw the checkpoint, not who showed it. It may have come from a run of another
study, whose decisions this bundle does not open, or from anybody who holds a bundle: so it is named, as the word of
whose log it is, and makes no step false (docs/adr/0036).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from compliance.clock import parse_time, rfc3339
from compliance.log import checkpoint, cosign, note
from compliance.log.entry import Entry
from compliance.release.bodies import LoggedDecision
from compliance.release.case import Contents, Logged
from compliance.release.verify_told import LOGGED_WITHIN
from compliance.study_transfer import SHOWN
from compliance.trust.root import Trust
from compliance.trust.witnesses import members, witness_keys

_Word = tuple[Entry, LoggedDecision]


def despite_denial(contents: Contents, trust: Trust) -> list[tuple[str, str]]:
    """(whose log, sentence) for each outside witness that cosigned it although its last word, by then, is DENY."""
    said = {}
    for member, log in contents.logs.items():
        told = [(e, d) for e, d in contents.decisions(member) if d.decision.transfer.artifact == SHOWN]
        for name, size, at in _outside_lines(contents, trust, log):
            denial = _stood([word for word in told if word[1].peer == name], size, at)
            if denial is not None:
                said[member, name] = (
                    f"that {name} saw its checkpoints by another decision than this study's, or from others: "
                    f"{log.where(denial)} denies it, and it cosigned {size} entries at {rfc3339(at)}"
                )
    return [(member, text) for (member, _), text in said.items()]


def _outside_lines(contents: Contents, trust: Trust, log: Logged) -> Iterator[tuple[str, int, datetime]]:
    """(witness, size, when) for every cosignature by who is no member; the members see checkpoints as such."""
    every = witness_keys(trust, log.member, parse_time(contents.last_logged))
    names = {k.holder for k in trust.keys_of("witness")} - set(members(trust))
    keys = {name: held for name, held in every.items() if name in names}
    for text in (*log.evidence.earlier, log.evidence.checkpoint):
        signed = note.parse(text)
        for line, second in cosign.counted(signed, keys).items():
            yield line.name, checkpoint.parse_text(signed.text).size, datetime.fromtimestamp(second, UTC)


def _stood(words: Sequence[_Word], size: int, at: datetime) -> Entry | None:
    """The denial that stood when a checkpoint of `size` was shown, at the latest `at` by the witness's clock, or None.

    Shown it was after the entries that it holds. An ALLOW that was logged before `at`, or by another clock may have
    been, is one by which it could be shown.
    """
    before = [w for w in words if w[0].index < size or parse_time(w[0].at) + LOGGED_WITHIN < at]
    meanwhile = [w for w in words if w not in before and parse_time(w[0].at) - LOGGED_WITHIN <= at]
    if not before or before[-1][1].decision.allow or any(w[1].decision.allow for w in meanwhile):
        return None
    return before[-1][0]
