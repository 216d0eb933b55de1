"""Registering what a site has: data extracts and model folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from client.admission import file_digest
from client.books import Books
from client.data.coincidence import read_content
from client.data.commitment import commit_rows, commitment_key
from client.data.damage import must_be_a_file
from client.data.forgotten import forgotten_columns
from client.data.identity import subject_keys
from client.data.row_index import Changes, Extract, Known
from client.data.schema import columns_of, declared_count
from client.data.table import load_table
from client.data.withdrawals import open_index, purge_cache
from client.home import AgentHome, DatasetRecord, ModelRecord, Registry
from client.studies import studies_of
from client.training.model_admission import check_folder
from client.training.model_folder import model_digest
from compliance.canonical import Json
from compliance.clock import now, parse_time, rfc3339
from compliance.errors import InputError, Refused
from compliance.files import absolute
from compliance.validation import load_model


@dataclass(frozen=True)
class Terms:
    """On what ground an extract may be used: the article that it rests on, for which purposes, until when (a date)."""

    legal_basis: str
    purposes: tuple[str, ...]
    expires: str


@dataclass(frozen=True)
class Added:
    """A registered extract, and the data sources that its rows were known to belong to."""

    record: DatasetRecord
    known: Known


def add_dataset(
    home: AgentHome,
    name: str,
    path: Path,
    source: str,
    id_columns: Sequence[str],
    terms: Terms,
    patient_columns: Sequence[str] = (),
) -> Added:
    """Register an extract under the ledger of its data source. It is in the site's log before it is in effect.

    An extract that shares people with a registered source inherits that source's ledger, whatever name was asked for:
    by the values of `id_columns` or `patient_columns` (default: the same), in that order, whatever the columns are
    called; or, under new pseudonyms, because the rows say the same (`client.data.coincidence`). One that belongs to
    two sources is refused (RSD-1231): no flag overrides either. Rows of withdrawn subjects are left out of training.
    Raises InputError RSD-1230, RSD-1235, RSD-23xx, RSD-2400, RSD-2401, RSD-2402, Refused RSD-1231, RSD-2422,
    CheckFailed RSD-2417 (an index that has lost a registered extract), EnvironmentFault RSD-2421.
    """
    with home.changing_registry() as registry:
        _refuse_taken(name, [d.name for d in registry.datasets])
        must_be_a_file(path)
        patients = tuple(patient_columns or id_columns)
        record = _asked(name, path, source, (tuple(id_columns), patients), terms)
        table = load_table(path, (), at_the_site=True)
        _require_columns(table, (*id_columns, *patients))
        record = _described(home, record, table, path)
        extract = _extract(home.secret(), record, table)
        record = _counted(record, extract)
        index, books = open_index(home), Books(home)
        try:
            for held in registry.datasets:
                index.excluded(held.name, held.sha256)  # raises RSD-2417: an index that forgot one would mint a ledger
            with index.writing() as changes:
                known = changes.known(extract)
                _check_forgotten(home.secret(), record, registry, table, changes)
                record = record.model_copy(update={"source": _target(known, source)})
                _remember(changes, extract, record)
                books.record("dataset", _entry(record, inherited=bool(known.sources)), "")
        finally:
            index.close()
            books.close()
        home.save_registry(Registry(datasets=(*registry.datasets, record), models=registry.models))
    return Added(record, known)


def _refuse_taken(name: str, names: Sequence[str]) -> None:
    if name in names:
        raise InputError(
            "RSD-1230", f"dataset {name} is registered already", rule="a name stands for one extract for ever",
            found=name, limit="a new name", next="choose another name for the new extract",
        )  # fmt: skip


def _asked(
    name: str, path: Path, source: str, columns: tuple[tuple[str, ...], tuple[str, ...]], terms: Terms
) -> DatasetRecord:
    """What was asked for, with places for what the file tells. Raises InputError RSD-1235, RSD-2402."""
    asked = {
        "name": name, "path": str(absolute(path, "the dataset's file")), "source": source, "id_columns": columns[0],
        "patient_columns": columns[1], "sha256": "0" * 64, "added": rfc3339(now()), "columns": (), "declared": 10,
        "declared_patients": 10, "several_rows": True, "commitment": "0" * 64, "nonce": os.urandom(16).hex(),
        "legal_basis": terms.legal_basis, "purposes": terms.purposes, "expires": terms.expires,
    }  # fmt: skip
    record = load_model(DatasetRecord, asked, "RSD-1235", "dataset")
    if parse_time(record.expires, "expires") <= now():
        raise InputError(
            "RSD-2402", f"dataset {name} would have expired already", rule="a dataset is used until it expires",
            found=record.expires, limit=f"after {rfc3339(now())}", next="give the day until which it may be used",
        )  # fmt: skip
    return record


def _require_columns(table: pd.DataFrame, names: Sequence[str]) -> None:
    if missing := sorted(set(names) - set(table.columns)):
        raise InputError(
            "RSD-2303", "the dataset lacks a column that is asked for", rule="--id-column and --patient-column",
            found=f"missing: {', '.join(missing)}", limit=f"{len(table.columns)} columns present",
            next="name the columns as the header does",
        )  # fmt: skip


def _described(home: AgentHome, record: DatasetRecord, table: pd.DataFrame, path: Path) -> DatasetRecord:
    root = commit_rows(commitment_key(home.secret(), bytes.fromhex(record.nonce)), table)
    return record.model_copy(
        update={
            "sha256": file_digest(path),
            "columns": columns_of(table),
            "commitment": root.hex(),
        }
    )


def _counted(record: DatasetRecord, extract: Extract) -> DatasetRecord:
    """The declared disclosure: rows and people, rounded, and whether somebody has several rows."""
    rows, people = len(extract.subjects), len(set(extract.subjects))
    counts = {"declared": declared_count(rows), "declared_patients": declared_count(people)}
    return record.model_copy(update={**counts, "several_rows": people < rows})


def _extract(secret: bytes, record: DatasetRecord, table: pd.DataFrame) -> Extract:
    return Extract(
        name=record.name,
        sha256=record.sha256,
        rows=subject_keys(secret, table, record.id_columns),
        subjects=subject_keys(secret, table, record.patient_columns),
        content=read_content(secret, table, (*record.id_columns, *record.patient_columns)),
    )


def _remember(changes: Changes, extract: Extract, record: DatasetRecord) -> None:
    """A crash may have come between the index and the registry: then the same file is taken up as it is asked for now.

    Its ledger stays: what the index holds of the name has made the extract's people known already.
    """
    held = changes.holds(record.name)
    if held not in {None, extract.sha256}:
        _refuse_taken(record.name, [record.name])
    changes.add(extract, record.source)


def _check_forgotten(
    secret: bytes, record: DatasetRecord, registry: Registry, table: pd.DataFrame, changes: Changes
) -> None:
    """No column but the patient columns holds identifiers by which people withdraw. Raises Refused RSD-2422."""
    named = {*record.patient_columns} if len(record.patient_columns) == 1 else set()
    rows = set(record.id_columns) if record.id_columns != record.patient_columns else set()  # rows, as was said
    used = frozenset(c.casefold() for d in registry.datasets for c in d.patient_columns)
    others = [str(c) for c in table.columns if c not in named | rows]
    found = forgotten_columns(secret, table, others, used, lambda keys: changes.known_subjects(keys, record.name))
    if found:
        raise Refused(
            "RSD-2422",
            f"column {found[0]} of dataset {record.name} identifies people whom this site knows",
            rule="whoever withdraws is found in every extract, by the column that identifies people",
            found=f"people known by {', '.join(record.patient_columns)}",
            limit=f"the patient column {', '.join(found)}",
            next=f"register the extract with --patient-column {found[0]}",
        )


def _target(known: Known, asked: str) -> str:
    """The source whose ledger pays: the one that holds rows already, or the one asked for. Raises Refused RSD-1231."""
    found = known.sources
    if len(found) > 1:
        raise Refused(
            "RSD-1231",
            "this extract shares rows with more than one data source",
            rule="an extract spends from one ledger",
            found=", ".join(sorted(found)),
            limit="one data source",
            next="split it by data source; if rows coincide by chance, export the columns that tell them apart",
        )
    return next(iter(found), asked)


def _entry(record: DatasetRecord, *, inherited: bool) -> dict[str, Json]:
    """What the log keeps: no column, no digest of the file, no exact number."""
    return {
        "action": "register",
        "dataset": record.name,
        "source": record.source,
        "inherited": inherited,
        "declared": record.declared,
        "declared_patients": record.declared_patients,
        "several_rows": record.several_rows,
        "commitment": record.commitment,
        "legal_basis": record.legal_basis,
        "purposes": list(record.purposes),
        "expires": record.expires,
    }


def retire_dataset(home: AgentHome, name: str) -> DatasetRecord:
    """No new study may use the dataset from now on; what it spent stays, its caches are purged. Logged first.

    A study that was joined before may end. Asked again, it purges again. Raises InputError RSD-2403.
    """
    with home.changing_registry() as registry:
        record = find_dataset(registry, name)
        if not record.retired:
            books = Books(home)
            try:
                books.record("dataset", {"action": "retire", "dataset": name, "source": record.source}, "")
            finally:
                books.close()
            record = record.model_copy(update={"retired": rfc3339(now())})
            others = tuple(record if d.name == name else d for d in registry.datasets)
            home.save_registry(Registry(datasets=others, models=registry.models))
    for study in studies_of(home, {name}):
        purge_cache(study.folder / "cache")
    return record


def find_dataset(registry: Registry, name: str) -> DatasetRecord:
    """The dataset of this name. Raises InputError RSD-2403."""
    for record in registry.datasets:
        if record.name == name:
            return record
    raise InputError(
        "RSD-2403",
        "no dataset of this name is registered",
        found=name[:64],
        limit=", ".join(d.name for d in registry.datasets) or "no dataset",
        next="residency agent dataset list",
    )


def add_model(home: AgentHome, folder: Path, name: str) -> str:
    """Register a model folder by its digest; returns the digest. Idempotent.

    A model that no study could train on is refused here already. Raises InputError RSD-23xx.
    """
    digest = model_digest(folder)
    check_folder(folder)
    record = ModelRecord(name=name, path=str(absolute(folder, "the model's folder")), sha256=digest)
    with home.changing_registry() as registry:
        others = tuple(m for m in registry.models if m.sha256 != digest)
        home.save_registry(Registry(datasets=registry.datasets, models=(*others, record)))
    return digest
