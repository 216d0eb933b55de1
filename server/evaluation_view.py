"""A run's evaluation, for JSON and for people."""

from __future__ import annotations

from compliance.canonical import Json
from compliance.cli import table
from compliance.errors import RunFailed
from compliance.evaluation.record import EvaluationRecord
from server.run_folder import RunFolder


def below_quorum(record: EvaluationRecord, quorum: int) -> RunFailed | None:
    """RSD-1266 if too few sites are in it for anything to be published."""
    if record.figures is not None:
        return None
    told = "; ".join(f"{w.site}: {w.reason.code} {w.reason.message}" for w in record.rows if w.reason)
    return RunFailed(
        "RSD-1266",
        f"no evaluation is published, too few sites took part: {told or 'no reason known'}",
        rule="study.quorum.sites",
        found=len(record.contributed),
        limit=quorum,
        next="the run's model can be released without figures: residency release build",
    )


def evaluation_error(folder: RunFolder) -> RunFailed | None:
    """Why the run's evaluation is not published; None if it is, or if there is none. Raises InputError RSD-8213."""
    found = folder.evaluation()
    return below_quorum(found[0], folder.quorum()) if found else None


def shown(folder: RunFolder) -> tuple[Json, list[str]]:
    """The record with its outcome ("published" or "below quorum"), and its lines; (None, []) without one."""
    found, error = folder.evaluation(), evaluation_error(folder)
    if found is None:
        return None, []
    record, envelope = found
    sites = [{"name": w.site, "outcome": w.outcome, "code": w.reason.code if w.reason else ""} for w in record.rows]
    fields: dict[str, Json] = {
        "outcome": "below quorum" if error else "published",
        "digest": envelope.digest,
        "model_sha256": record.model_sha256,
        "sites": sites,
        "figures": [f.model_dump(mode="json") for f in record.figures or ()],
        "error": error.as_json() if error else None,
    }
    head = f"evaluation on the sites' records: {fields['outcome']}, {len(record.contributed)} of {len(sites)} sites"
    rows = [[f.name, f.label, *f.texts()] for f in record.figures or ()]
    return fields, ["", head, *(table(["figure", "class", "value", "95 % interval"], rows) if rows else [])]
