"""How long a decision takes: by both evaluators, every pack loaded and adopted, for exporters wherever a pack binds."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import cycle, islice

from compliance.law.cases import CaseFile, noon
from compliance.law.decide import Engine
from compliance.law.model import Transfer
from compliance.law.pack import Pack
from compliance.law.regions import Regions

SAMPLES = 2_100
_WARM_UP = 100


def decision_seconds(
    packs: Mapping[str, Pack], files: Iterable[CaseFile], regions: Regions | None = None
) -> list[float]:
    """Seconds of each of `SAMPLES` decisions, after a warm-up; empty if no full pack has a case."""
    engine = Engine(packs, {name: pack.digest for name, pack in packs.items()}, regions=regions)
    sent = list(_everywhere(packs, files))
    for transfer in islice(cycle(sent), _WARM_UP):
        engine.decide(transfer)
    out = []
    for transfer in islice(cycle(sent), SAMPLES):
        start = time.perf_counter()
        engine.decide(transfer)
        out.append(time.perf_counter() - start)
    return out


def _everywhere(packs: Mapping[str, Pack], files: Iterable[CaseFile]) -> Iterator[Transfer]:
    """The cases of each full pack from each of its jurisdictions, so that each jurisdiction weighs the same."""
    cases = {file.pack: file.cases for file in files}
    homes = [(p, code) for p in packs.values() if p.kind == "full" and p.id in cases for code in p.jurisdictions]
    for number in range(max((len(cases[pack.id]) for pack, _ in homes), default=0)):
        for pack, code in homes:
            case = cases[pack.id][number % len(cases[pack.id])]
            sent = case.transfer.transfer(case.at or noon([pack]))
            yield sent.model_copy(update={"exporter": sent.exporter.model_copy(update={"jurisdiction": code})})
