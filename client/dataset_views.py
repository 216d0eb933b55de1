"""What may be told of registered datasets: never a value, never an exact number of rows."""

from __future__ import annotations

from client.home import AgentHome, DatasetRecord
from client.studies import held_studies
from compliance.canonical import Json
from compliance.clock import now, parse_time


def state_of(record: DatasetRecord) -> str:
    """ "in use", "expired" or "retired"."""
    if record.retired:
        return "retired"
    return "expired" if parse_time(record.expires) <= now() else "in use"


def declared_text(record: DatasetRecord) -> str:
    """The declared numbers, for people."""
    several = "several rows of one patient" if record.several_rows else "one row a patient"
    return f"{record.declared} rows of {record.declared_patients} patients (rounded), {several}"


def dataset_fields(home: AgentHome, record: DatasetRecord) -> dict[str, Json]:
    """One dataset for `agent dataset show --json`."""
    studies = [{"study": s.digest, "name": s.name} for s in held_studies(home) if s.dataset == record.name]
    return {
        "dataset": record.name,
        "state": state_of(record),
        "source": record.source,
        "declared": record.declared,
        "declared_patients": record.declared_patients,
        "several_rows": record.several_rows,
        "columns": [c.model_dump() for c in record.columns],
        "id_columns": list(record.id_columns),
        "patient_columns": list(record.patient_columns),
        "commitment": record.commitment,
        "legal_basis": record.legal_basis,
        "purposes": list(record.purposes),
        "expires": record.expires,
        "added": record.added,
        "retired": record.retired,
        "studies": studies,
    }


def dataset_rows(home: AgentHome, record: DatasetRecord) -> list[list[object]]:
    """The same for people."""
    fields = dataset_fields(home, record)
    columns = ", ".join(f"{c.name} ({c.type})" for c in record.columns)
    plain = {
        **fields,
        "declared": declared_text(record),
        "columns": columns,
        "studies": ", ".join(f"{s['name']} {s['study'][:12]}" for s in fields["studies"]) or "none",
        "retired": record.retired or "no",
    }
    del plain["declared_patients"], plain["several_rows"]  # told with the rows
    return [[k, ", ".join(map(str, v)) if isinstance(v, list) else v] for k, v in plain.items()]
