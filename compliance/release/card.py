"""The model card: Hugging Face form, generated from the bundle's own evidence and from nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence

from compliance.release.case import Contents
from compliance.release.model_files import DIFFERENCE_FILE, NETWORK_FILE, LayoutFile
from compliance.release.verify_decisions import denial_rules
from compliance.roster import RosterRow
from compliance.task_spec import TaskSpec, labels_of

CARD_FILE = "model/README.md"
PIPELINES = {
    "sequence_classification": "text-classification",
    "token_classification": "token-classification",
    "causal_lm": "text-generation",
    "image_classification": "image-classification",
    "tabular": "tabular-classification",
}

_ASSERTED = (
    "that the events describe what was run, the record counts, that the software was unmodified, and where the data are"
)


def card(contents: Contents) -> bytes:
    """The bytes of model/README.md. A function of study, layout, rosters, logs, packs and privacy.json alone.

    It says what the evidence shows and what is not known; it never says that a law is complied with.
    """
    parts = (_front_matter(contents), _heading(contents), _sites(contents), _privacy(contents))
    return ("\n".join((*parts, *_evaluation(contents), _law(contents), _limits(contents))) + "\n").encode()


def _front_matter(contents: Contents) -> str:
    """The card's metadata as the Hub reads it. Texts are JSON strings, which YAML reads as they are."""
    study = contents.study
    base = (
        []
        if study.model.built_in
        else [f"base_model: {json.dumps(study.model.name)}", f"base_model_relation: {_relation(contents)}"]
    )
    lines = [
        "---",
        *base,
        "library_name: peft" if study.model.adapters else "library_name: safetensors",
        f"pipeline_tag: {PIPELINES[study.task.kind]}",
        "tags:",
        "- federated-learning",
        "- differential-privacy",
        "- residency",
        *_model_index(contents),
        "---",
    ]
    return "\n".join(lines) + "\n"


def _relation(contents: Contents) -> str:
    return "adapter" if contents.study.model.adapters else "finetune"


def _model_index(contents: Contents) -> list[str]:
    """The published figures in the Hub's form; nothing where there are none."""
    study, record = contents.study, contents.evaluation[0] if contents.evaluation else None
    figures = [f for f in (record.figures or ()) if f.value_micro is not None] if record else []
    if not figures:
        return []
    name = json.dumps(study.name)
    lines = [
        "model-index:",
        f"- name: {name}",
        "  results:",
        "  - task:",
        f"      type: {PIPELINES[study.task.kind]}",
        "    dataset:",
        f"      name: {json.dumps(f'{study.dataset}: records of the sites, those trained on among them')}",
        f"      type: {json.dumps(study.dataset)}",
        "    metrics:",
    ]
    for f in figures:
        label = f"{f.name} ({f.label})" if f.label else f.name
        lines += [f"    - type: {f.name}", f"      name: {json.dumps(label)}", f"      value: {_number(f.value_micro)}"]
    return lines


def _number(micro: int | None) -> str:
    return f"{(micro or 0) / 1e6:.6f}"


def _heading(contents: Contents) -> str:
    study = contents.study
    last = study.aggregation.average_last_rounds
    what = (
        "the global model after the last round" if last == 1 else f"the mean of the globals of the last {last} rounds"
    )
    lines = [
        f"# {study.name}",
        "",
        _plain(study.description),
        "",
        f"- Task: {_task(study.task)}",
        f"- Purpose named in the study: {study.purpose.replace('_', ' ')}",
        *_model(contents),
        f"- Training: {study.training.rounds} rounds of {study.training.steps} noisy steps, {study.aggregation.rule}",
        f"- Released: {what}",
        f"- Study digest: `{contents.study_digest}`; run `{contents.rosters[0].roster.run}`",
        f"- Last entry shown in the logs: {contents.last_logged}",
        "- Check it: `residency verify BUNDLE --trust trust.json`, with a trust file from another source than this",
    ]
    return "\n".join(lines) + "\n"


def _model(contents: Contents) -> list[str]:
    model, layout = contents.study.model, contents.layout
    if model.built_in:
        name = f"{_plain(model.name)}, {model.built_in.kind.replace('_', ' ')} (digest of its description"
        return [f"- Model: {name} `{model.sha256}`)", f"- Trained: all its {layout.size} parameters (`{NETWORK_FILE}`)"]
    base = f"- Base model: {_plain(model.name)} (folder digest `{model.sha256}`), frozen"
    return [base, f"- Trained: {_trained(layout)}"]


def _task(task: TaskSpec) -> str:
    labels = ", ".join(_plain(x) for x in labels_of(task))
    return task.kind.replace("_", " ") + (f" into {labels}" if labels else "")


def _trained(layout: LayoutFile) -> str:
    adapters, whole = sum(e.size for e in layout.lora), sum(e.size for e in layout.whole)
    text = f"{layout.size - adapters - whole} parameters of a linear head, {adapters} of LoRA adapters"
    if not whole:
        return text
    return f"{text}, {whole} of whole layers (`{DIFFERENCE_FILE}`: to be added to the base model's tensors)"


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
    else:
        privacy = contents.study.privacy
        column = _plain(privacy.group_column or "")
        lines.append(f"- A patient is all rows of a site with one value in the column {column}; in a step at most")
        lines.append(f"  {privacy.records_per_unit} of them count in a step, and they make one clipped gradient.")
    table = _table(("Site", "eps spent", "eps allowed by the study", "Charged attempts"), rows)
    return "\n".join(lines) + f"\n\n{table}\n{_overlap(contents)}"


def _overlap(contents: Contents) -> str:
    """The sites' populations may overlap: nobody has compared them."""
    claims = contents.claims
    if not claims.overlap:
        return ""
    rows = [(str(row.sites), row.text) for row in claims.overlap]
    head = (
        f"The sites have not compared their patients. For a {claims.unit} that several of them hold, the events of\n"
        "those sites compose; the bound is that of the sites for which it is largest, at the same delta. For a number\n"
        "of sites between two rows the larger one holds.\n"
    )
    return f"{head}\n{_table((f'Sites that hold the {claims.unit}', 'eps'), rows)}"


def _evaluation(contents: Contents) -> tuple[str, ...]:
    """Nothing without an evaluation."""
    terms, found = contents.study.evaluation, contents.evaluation
    if terms is None or found is None:
        return ()
    record, unit = found[0], contents.study.privacy.unit
    given = ", ".join(record.contributed) or "no site"
    if record.figures is None:
        text = f"Nothing is published: {given} took part, and the study asks for {contents.study.quorum.sites} sites."
        return (f"## Evaluation\n\n{text}\n",)
    lines = [
        "## Evaluation",
        "",
        f"Of this model on the sites' own records, THOSE THAT IT WAS TRAINED ON AMONG THEM, by {given}. One count a",
        f"{unit}; each site added Gaussian noise of {terms.noise_multiplier_micro / 1e6:g} counts to every cell, and",
        "the eps above includes it. Intervals are of 95 %, for the noise and for the sampling of the records together.",
    ]
    if terms.bins:
        lines.append(f"Scores were counted in {terms.bins} bins; AUROC, AUPRC and calibration are of the binned score.")
    rows = [(f.name.replace("_", " "), _plain(f.label), *f.texts()) for f in record.figures]
    table = _table(("Figure", "Class", "Value", "95 % interval"), rows)
    return ("\n".join(lines) + f"\n\n{table}",)


def _law(contents: Contents) -> str:
    packs = sorted(
        f"- {p.id} version {p.version} ({_plain(p.title)}), verified {p.verified_on}, expires {p.expires_on}: "
        f"{'DRAFT, no counsel has reviewed it' if p.draft else 'reviewed by ' + _plain(p.reviewer)}; "
        f"{_adopted_by(contents, p.digest)}"
        for p in contents.packs.values()
    )
    denied = [
        f"- {site.name} ({site.jurisdiction}) was refused by {_plain(rule)}"
        for site in contents.study.sites
        for rule in denial_rules(contents, site.name)
    ]
    lines = [
        "## Law packs",
        "",
        "Transfers were decided by these packs, each by those who adopted or applied it:",
        "",
        *packs,
    ]
    if denied:
        lines += ["", *denied]
    note = "An ALLOW means that no adopted rule objects and that the required documents are on file. It is no finding"
    return "\n".join([*lines, "", note, "of lawfulness, and nothing here is legal advice."]) + "\n"


def _adopted_by(contents: Contents, digest: str) -> str:
    """Whose signed law sets hold the pack; the operator may also apply packs that nobody adopted."""
    holders = [m for m, a in sorted(contents.adoptions.items()) if digest in a.law_set.adopted.values()]
    operator = contents.study.operator.name
    applied = any(digest in x.decision.packs.values() for _, x in contents.decisions(operator))
    said = [f"adopted by {', '.join(holders)}"] if holders else []
    said += [f"applied by {operator}"] if applied and operator not in holders else []
    return "; ".join(said) or "named by a decision"


def _limits(contents: Contents) -> str:
    return "\n".join(("## Limitations", "", *(f"- {line}" for line in limitations(contents))))


def limitations(contents: Contents) -> list[str]:
    """What the model is not, and what nobody can check; in the card and in the bill of materials."""
    lines = [
        _measured(contents),
        "Not a medical device; not assessed for clinical use, for bias, or for other hospitals' patients.",
        "The operator saw every site's noised update: aggregation is not masked in this version.",
        f"What sites assert and nobody can check from outside: {_ASSERTED}.",
        "No licence is stated in the study: ask the operator under which terms the model may be used.",
    ]
    if any(row.outcome != "contributed" for r in contents.rosters for row in r.roster.rows):
        lines.append("Not every site contributed in every round: see the table of sites.")
    return lines


def _measured(contents: Contents) -> str:
    if contents.study.evaluation is None:
        return "No accuracy is stated here: nothing in the evidence measures it."
    return "The evaluation is of records that the model was trained on; it says nothing of other hospitals' patients."


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines) + "\n"


def _plain(text: str) -> str:
    """Text from a signed file, on one line and without markup of its own."""
    return "".join(" " if c.isspace() else c for c in text if c not in "<>|`[]*_#\\").strip()
