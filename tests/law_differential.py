"""The two evaluators against each other, over packs with random changes and random transfers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from compliance.law.cedar_eval import CedarPack
from compliance.law.facts import facts_of, legs_of
from compliance.law.pack import builtin_packs
from compliance.law.python_eval import evaluate
from tests.law_random import CODES, changed_pack, source, transfer

EACH = 40  # legs decided with one pack before another is made


@dataclass
class Tally:
    """What was compared. `differ`: pack, transfer and both verdicts, of each disagreement."""

    legs: int = 0
    packs: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    differ: list[str] = field(default_factory=list)


def compare(cases: int, seed: int) -> Tally:
    """Decide at least `cases` legs by each evaluator on its own."""
    rng, tally = source(seed), Tally()
    packs = [pack for pack in builtin_packs().values() if pack.kind == "full"]
    while tally.legs < cases:
        pack = changed_pack(rng.choice(packs), rng)
        if pack is None:
            continue
        tally.packs += 1
        cedar = CedarPack(pack)
        here = tuple(code for code in CODES if code in pack.jurisdictions) or pack.jurisdictions[:1]
        for _ in range(EACH):
            sent = transfer(rng, here)
            for party, _via in legs_of(sent):
                facts = facts_of(sent, party)
                ours, theirs = evaluate(pack, facts), cedar.evaluate(facts)
                tally.legs += 1
                tally.verdicts[ours.effect] += 1
                if ours != theirs:
                    tally.differ.append(f"{pack.id}: {ours} {theirs} {sent.model_dump_json()} {pack.model_dump_json()}")
    return tally
