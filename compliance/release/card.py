"""The model card: Hugging Face form, generated from the bundle's own evidence and from nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence

from compliance.release.case import Contents
from compliance.release.model_files import LORA_B
from compliance.release.verify_decisions import denial_rules
from compliance.roster import RosterRow

CARD_FILE = "model/README.md"


def card(contents: Contents) -> bytes:
    """The bytes of model/README.md. A function of study, layout, rosters, logs, packs and privacy.json alone.

    It says what the evidence shows and what is not known; it never says that a law is complied with.
    """
    parts = (_front_matter(contents), _heading(contents), _sites(contents), _privacy(contents), _law(contents))
    return ("\n".join((*parts, _limits(contents))) + "\n").encode()


def _front_matter(contents: Contents) -> str:
    study = contents.study
    lines = [
        "---",
        f"base_model: {json.dumps(study.model.name)}",
        "library_name: peft" if study.model.adapters else "library_name: safetensors",
        "pipeline_tag: text-classification",
        "tags:",
        "- federated-learning",
        "- differential-privacy",
        "- residency",
        "---",
    ]
    return "\n".join(lines) + "\n"


def _heading(contents: Contents) -> str:
    study = contents.study
    adapters = sum(e.size for e in contents.layout.entries if e.name.endswith(LORA_B))
    last = study.aggregation.average_last_rounds
    what = (
        "the global model after the last round" if last == 1 else f"the mean of the globals of the last {last} rounds"
    )
    lines = [
        f"# {study.name}",
        "",
        _plain(study.description),
        "",
        f"- Task: {study.task.kind.replace('_', ' ')} into {', '.join(_plain(x) for x in study.task.labels)}",
        f"- Purpose named in the study: {study.purpose.replace('_', ' ')}",
        f"- Base model: {_plain(study.model.name)} (folder digest `{study.model.sha256}`), frozen",
        f"- Trained: {contents.layout.size - adapters} parameters of a linear head, {adapters} of LoRA adapters",
        f"- Training: {study.training.rounds} rounds of {study.training.steps} noisy steps, {study.aggregation.rule}",
        f"- Released: {what}",
        f"- Study digest: `{contents.study_digest}`; run `{contents.rosters[0].roster.run}`",
        f"- Last entry shown in the logs: {contents.last_logged}",
        "- Check it: `residency verify BUNDLE --trust trust.json`, with a trust file from another source than this",
    ]
    return "\n".join(lines) + "\n"


def _sites(contents: Contents) -> str:
    operator = contents.study.operator
    rows = []
    for site in contents.study.sites:
        found = [row for r in contents.rosters if (row := r.roster.row(site.name)) is not None]
        given = sum(row.outcome == "contributed" for row in found)
        rows.append((site.name, site.jurisdiction, f"{given} of {len(contents.rosters)}", _other(found)))
    head = f"## Sites\n\nCoordinated by {operator.name} ({operator.jurisdiction}).\n"
    return f"{head}\n{_table(('Site', 'Jurisdiction', 'Rounds contributed', 'Other outcomes'), rows)}"


def _other(rows: list[RosterRow]) -> str:
    outcomes: dict[str, int] = {}
    for row in rows:
        if row.reason is not None:
            text = f"{row.outcome}: {_plain(row.reason.rule or row.reason.code)}"
            outcomes[text] = outcomes.get(text, 0) + 1
    return "; ".join(f"{text} ({n} rounds)" for text, n in sorted(outcomes.items())) or "none"


def _privacy(contents: Contents) -> str:
    claims = contents.claims
    rows = [
        (s.site, f"{s.epsilon_milli / 1000:.3f}", f"{s.limit_milli / 1000:.3f}", str(s.charges)) for s in claims.sites
    ]
    lines = [
        "## Privacy",
        "",
        f"Differential privacy for each site's data on their own, per {claims.unit}; neighbours differ by adding or",
        f"removing one {claims.unit}. delta = 1/{claims.inverse_delta}. Upper bounds over all charged attempts.",
        "",
        f"- Accountant: {claims.accountant}",
        "- Measured lower bound: not measured",
    ]
    if claims.unit == "record":
        lines.append("- A patient with several records is protected less: the bound is per record.")
    table = _table(("Site", "eps spent", "eps allowed by the study", "Charged attempts"), rows)
    return "\n".join(lines) + f"\n\n{table}"


def _law(contents: Contents) -> str:
    packs = sorted(
        f"- {p.id} version {p.version} ({_plain(p.title)}), verified {p.verified_on}, expires {p.expires_on}: "
        f"{'DRAFT, no counsel has reviewed it' if p.draft else 'reviewed by ' + _plain(p.reviewer)}"
        for p in contents.packs.values()
    )
    denied = [
        f"- {site.name} ({site.jurisdiction}) was refused by {_plain(rule)}"
        for site in contents.study.sites
        for rule in denial_rules(contents, site.name)
    ]
    lines = ["## Law packs", "", "Transfers were decided by these packs, which the sites adopted:", "", *packs]
    if denied:
        lines += ["", *denied]
    note = "An ALLOW means that no adopted rule objects and that the required documents are on file. It is no finding"
    return "\n".join([*lines, "", note, "of lawfulness, and nothing here is legal advice."]) + "\n"


def _limits(contents: Contents) -> str:
    lines = [
        "## Limitations",
        "",
        "- No accuracy is stated here: nothing in the evidence measures it.",
        "- Not a medical device; not assessed for clinical use, for bias, or for other hospitals' patients.",
        "- The operator saw every site's noised update: aggregation is not masked in this version.",
        "- What sites assert and nobody can check from outside: that the events describe what was run, the record",
        "  counts, that the software was unmodified, and where the data are.",
    ]
    if any(row.outcome != "contributed" for r in contents.rosters for row in r.roster.rows):
        lines.append("- Not every site contributed in every round: see the table of sites.")
    return "\n".join(lines)


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines) + "\n"


def _plain(text: str) -> str:
    """Text from a signed file, on one line and without markup of its own."""
    return "".join(" " if c.isspace() else c for c in text if c not in "<>|`[]*_#\\").strip()
