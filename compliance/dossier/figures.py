"""Tables of the privacy figures: eps from all charges, what was run, which checks of the noise passed."""

from __future__ import annotations

from compliance.dossier.material import Held, Material, refs
from compliance.dossier.model import Row, Table
from compliance.dossier.regime import Shows
from compliance.privacy.accounting import epsilon
from compliance.privacy.events import PrivacyEvent
from compliance.release import bodies

Charges = list[tuple[Held, bodies.ChargeBody]]


def _charges(material: Material) -> dict[str, Charges]:
    """All charges of the study by whose log they stand in, failed attempts too."""
    out: dict[str, Charges] = {}
    for held, body in material.bodies("charge", bodies.ChargeBody):
        out.setdefault(held.member, []).append((held, body))
    return out


def epsilons(material: Material, shows: Shows) -> Table:
    """One row a site: eps over all charges, computed again here, beside what the study or the reservation allows."""
    columns = ("Site", "Protected", "eps spent, at most", "eps allowed", "delta", "Charges", "Repeated attempts")
    rows = []
    for member, charges in _charges(material).items():
        limit, inverse_delta = _limit(material, member)
        told = ("not known, no delta is here", "not known", "not known")
        if inverse_delta:
            spent = epsilon([body.event for _, body in charges], inverse_delta)
            told = (_milli(spent), _milli(limit), f"1/{inverse_delta}")
        repeated = sum(body.attempt > 1 for _, body in charges)
        cells = (member, f"one {charges[0][1].event.unit}", *told, str(len(charges)), str(repeated))
        rows.append(Row(cells=cells, rests_on=refs(held for held, _ in charges)))
    return Table(caption=shows.caption, columns=columns, rows=tuple(rows))


def _limit(material: Material, member: str) -> tuple[int, int]:
    """Milli-eps and 1/delta that the study allows the member; without the study, those of its reservation."""
    terms = material.study.site(member) if material.study else None
    if material.study and terms:
        return terms.epsilon_milli, material.study.privacy.inverse_delta
    reserved = [b for h, b in material.bodies("reservation", bodies.ReservationBody) if h.member == member]
    return (reserved[-1].study_epsilon_milli, reserved[-1].inverse_delta) if reserved else (0, 0)


def _milli(value: int) -> str:
    return f"{value / 1000:.3f}"


def mechanism(material: Material, shows: Shows) -> Table:
    """One row a site and mechanism: noise, sampling, steps, neighbours, the bound on the sampler's error."""
    columns = ("Site", "Mechanism", "Noise multiplier", "Sampling rate", "Steps", "Neighbours", "Sampler's error",
               "Charges")  # fmt: skip
    rows = []
    for member, charges in _charges(material).items():
        by_event: dict[PrivacyEvent, list[Held]] = {}
        for held, body in charges:
            by_event.setdefault(body.event, []).append(held)
        rows += [Row(cells=(member, *_event(e), str(len(held))), rests_on=refs(held)) for e, held in by_event.items()]
    return Table(caption=shows.caption, columns=columns, rows=tuple(rows))


def _event(event: PrivacyEvent) -> tuple[str, ...]:
    return (
        "Gaussian noise, Poisson sampling",
        f"{event.noise_multiplier_micro / 1e6:.6f}",
        f"{event.sample_numerator}/{event.sample_denominator}",
        str(event.steps),
        f"add or remove one {event.unit}",
        f"at most {event.tv_error_femto}e-15 in total variation",
    )


def conformance(material: Material, shows: Shows) -> Table:
    """One row a site and check of the noise: on how many finished updates or histograms it passed."""
    found: dict[tuple[str, str], list[tuple[Held, bool]]] = {}
    checked = [(h, b.conformance) for h, b in material.bodies("commit", bodies.CommitBody)]
    checked += [(h, b.conformance) for h, b in material.bodies("evaluation", bodies.EvaluationBody)]
    for held, checks in checked:
        for check, passed in checks.items():
            found.setdefault((held.member, check), []).append((held, passed))
    rows = tuple(
        Row(
            cells=(member, check, f"{sum(passed for _, passed in seen)} of {len(seen)}"),
            rests_on=refs(held for held, _ in seen),
        )
        for (member, check), seen in sorted(found.items())
    )
    return Table(caption=shows.caption, columns=("Site", "Check", "Passed"), rows=rows)
