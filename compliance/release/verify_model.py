"""Steps 13 and 14: the model's files and its card, made again from the evidence and compared byte for byte."""

from __future__ import annotations

from compliance.errors import CheckFailed
from compliance.release import bodies
from compliance.release.card import CARD_FILE, card
from compliance.release.case import Contents, Context
from compliance.release.model_files import check_layout, model_files, released_mean, snapshot
from compliance.release.model_signature import SIGNATURE_FILE
from compliance.release.report import Found


def released(contents: Contents) -> dict[str, bytes]:
    """Path -> bytes of the model that the last snapshots give. Raises InputError RSD-9042 naming what does not fit."""
    check_layout(contents.layout, contents.study)
    last = contents.rosters[-contents.study.aggregation.average_last_rounds :]
    paths = [f"snapshots/round-{r.roster.round:03d}.f32" for r in last]
    return model_files(
        contents.study,
        contents.layout,
        released_mean([snapshot(contents.file(p), contents.layout, p) for p in paths]),
    )


def model(contents: Contents, context: Context) -> Found:
    """Step 13: the same bytes come out again; no other file lies beside them."""
    _layout_of_the_sites(contents)
    wanted = released(contents)
    present = {f"model/{name}" for name in contents.under("model")} - {CARD_FILE, SIGNATURE_FILE}
    if present != set(wanted):
        raise _false("RSD-9013", "the model's files are not those of the study", sorted(present), sorted(wanted))
    for path, data in wanted.items():
        if contents.file(path) != data:
            at = next((i for i, (a, b) in enumerate(zip(contents.files[path], data, strict=False)) if a != b), -1)
            message = f"{path} is not the mean of the last globals (first difference at byte {at})"
            raise _false("RSD-9013", message, f"{len(contents.files[path])} bytes", f"{len(data)} bytes, recomputed")
    rounds, rule = contents.study.aggregation.average_last_rounds, contents.study.aggregation.rule
    proved = (
        f"the model's {contents.layout.size} trained parameters are the mean of the last {rounds} globals",
        "the layout of the parameters is the one that every contributing site logged when it joined",
    )
    text = f"that each global model follows from the sites' updates by {rule}: no single update is in the bundle"
    return Found(proved, ((context.anchor.trust.operator.name, text),))


def _layout_of_the_sites(contents: Contents) -> None:
    """What each part of the flat vector means, the sites have logged: the operator cannot rename or reorder it."""
    for site in contents.contributing:
        for entry, body in contents.bodies(site, "join", bodies.JoinBody):
            if body.run == contents.manifest.run and body.layout_sha256 != contents.layout.digest:
                message = f"layout.json is not the layout with which {site} joined ({contents.log(site).where(entry)})"
                raise _false("RSD-9013", message, contents.layout.digest, body.layout_sha256)


def model_card(contents: Contents, context: Context) -> Found:
    """Step 14: the card says what the evidence says."""
    del context
    wanted, found = card(contents), contents.file(CARD_FILE)
    if wanted != found:
        ours, theirs = wanted.decode().split("\n"), found.decode(errors="replace").split("\n")
        line = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), len(ours))
        shown = theirs[line][:120] if line < len(theirs) else "no line"
        limit = ours[line][:120] if line < len(ours) else "no line"
        message = f"{CARD_FILE} does not follow from the evidence (line {line + 1})"
        raise _false("RSD-9014", message, shown, limit)
    return Found(("the model card follows from study, logs, rosters and packs",))


def _false(code: str, message: str, found: object, limit: object) -> CheckFailed:
    return CheckFailed(code, message, rule="made again from the evidence", found=found, limit=limit)
