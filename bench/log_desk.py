"""Pages of the auditor's desk over one site's log of many entries, a tenth of them decisions."""

from __future__ import annotations

from importlib.util import find_spec
from itertools import cycle, islice
from pathlib import Path
from typing import Final

from compliance.identity import Signer, new_signer, seal
from compliance.log.store import Draft, LogStore
from compliance.trust.root import Anchor, open_trust

ENTRIES: Final = 100_000
_NEEDED: Final = ("starlette", "uvicorn", "matplotlib")  # the extra `desk`
_SITE, _OPERATOR = "clinic", "hub"
_PERIOD: Final = ("2026-01-01T00:00:00Z", "2036-01-01T00:00:00Z")
_BATCH: Final = 1000


def page_ms_p95(folder: Path, drafts: list[Draft], entries: int) -> float | None:
    """What 95 of 100 pages take at most; `drafts` fill the log beside the decisions. None without the extra `desk`."""
    if not all(find_spec(name) for name in _NEEDED):
        return None
    from compliance.desk.timing import page_p95_ms  # noqa: PLC0415 - loads the desk

    anchor, key = _consortium()
    path = folder / "log.db"
    folder.mkdir()
    with LogStore.open(path, anchor.trust.log_origin(_SITE), key.private) as store:
        filled = cycle([*drafts, *_decisions(len(drafts) // 9)])
        while store.size < entries:
            store.append_many(list(islice(filled, min(_BATCH, entries - store.size))))
        store.checkpoint()
    return round(page_p95_ms([path], anchor), 1)


def _consortium() -> tuple[Anchor, Signer]:
    """A trust file of one site, and the key of its log."""
    operator, agent = new_signer("operator", _OPERATOR, *_PERIOD), new_signer("agent", _SITE, *_PERIOD)
    signatory, dpo = new_signer("signatory", _SITE, *_PERIOD), new_signer("dpo", _SITE, *_PERIOD)
    trust = {
        "schema": "residency.trust/1", "consortium": "bench", "version": 1, "previous": "", "issued": _PERIOD[0],
        "expires": _PERIOD[1], "threshold": 1, "operator": {"name": _OPERATOR, "jurisdiction": "IE", "node_key": ""},
        "sites": [{"name": _SITE, "jurisdiction": "DE", "node_key": ""}],
        "keys": [signer.identity.as_json() for signer in (operator, agent, signatory, dpo)],
    }  # fmt: skip
    return open_trust(seal(trust, signatory).encode() + b"\n", "trust.json"), agent


def _decisions(count: int) -> list[Draft]:
    """Decisions of the reference cases, made with every pack loaded and adopted."""
    from compliance.law.cases import load_folder, noon  # noqa: PLC0415 - loads the law engine
    from compliance.law.decide import Engine  # noqa: PLC0415
    from compliance.law.pack import builtin_packs  # noqa: PLC0415
    from compliance.release.bodies import decision_body  # noqa: PLC0415

    packs = builtin_packs()
    engine = Engine(packs, {name: pack.digest for name, pack in packs.items()})
    cases = [(packs[file.pack], case) for file in load_folder() for case in file.cases]
    sent = (case.transfer.transfer(case.at or noon([pack])) for pack, case in islice(cycle(cases), count))
    return [Draft("decision", decision_body(engine.decide(one), 1, _OPERATOR)) for one in sent]
