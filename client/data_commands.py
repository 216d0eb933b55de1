"""`residency agent dataset` and `residency agent model`: what a site has to train on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from client.command_options import FILE, HOME, at_home
from compliance.canonical import Json
from compliance.cli import Result, command, table

PURPOSES = ("scientific_research", "public_health", "quality_improvement")


@click.group()
def dataset() -> None:
    """Extracts of this site's data.

    \b
    Example: residency agent dataset list --home /srv/residency
    """


@dataset.command("add")
@click.argument("name")
@HOME
@click.option("--path", type=FILE, required=True, help="CSV, Parquet or JSON Lines file.")
@click.option("--source", required=True, help="The patient population whose ledger the extract spends from.")
@click.option("--id-column", "id_columns", multiple=True, required=True, help="What identifies a row (repeatable).")
@click.option("--patient-column", "patient_columns", multiple=True, help="What identifies the person, if not the same.")
@click.option("--legal-basis", required=True, help="The article that the use rests on, such as 9(2)(j).")
@click.option("--purpose", "purposes", multiple=True, required=True, type=click.Choice(PURPOSES), help="Repeatable.")
@click.option("--expires", required=True, help="Until when it may be used: a day, such as 2027-12-31.")
@command("residency.agent.dataset.add/1")
def dataset_add(
    name: str,
    home: Path,
    path: Path,
    source: str,
    id_columns: tuple[str, ...],
    patient_columns: tuple[str, ...],
    **terms: Any,
) -> Result:
    """Register an extract. Rows that are known already bring their ledger with them, under new pseudonyms too.

    \b
    Example: residency agent dataset add thyroid --path thyroid.csv --source clinic --id-column patient_id \\
               --legal-basis "9(2)(j)" --purpose scientific_research --expires 2027-12-31
    """
    from client import registration  # noqa: PLC0415 - loads pandas
    from client.dataset_views import declared_text  # noqa: PLC0415

    ground = registration.Terms(**terms)
    added = registration.add_dataset(at_home(home), name, path, source, id_columns, ground, patient_columns)
    record, known = added.record, added.known
    lines = [f"dataset {name} registered; it spends from data source {record.source}"]
    if known.sources:
        how = "its identifiers are known" if known.by_identifier else "its rows say the same under other identifiers"
        lines.append(f"{how}: it inherits the ledger of {record.source}, not a new one")
    lines.append(f"declared {declared_text(record)}; commitment {record.commitment[:12]}")
    fields = {
        "dataset": name,
        "source": record.source,
        "inherited": bool(known.sources),
        "declared": record.declared,
        "declared_patients": record.declared_patients,
        "several_rows": record.several_rows,
        "commitment": record.commitment,
    }
    return Result(fields, lines)


@dataset.command("list")
@HOME
@command("residency.agent.dataset.list/1")
def dataset_list(home: Path) -> Result:
    """All registered extracts: source, rounded numbers of rows and people, purposes, expiry, state.

    \b
    Example: residency agent dataset list --home /srv/residency
    """
    from client.dataset_views import dataset_fields, state_of  # noqa: PLC0415

    opened = at_home(home)
    records = opened.registry().datasets
    header = ["dataset", "source", "rows", "patients", "purposes", "expires", "state"]
    rows = [
        [r.name, r.source, r.declared, r.declared_patients, ", ".join(r.purposes), r.expires, state_of(r)]
        for r in records
    ]
    return Result({"datasets": [dataset_fields(opened, r) for r in records]}, table(header, rows))


@dataset.command("show")
@click.argument("name")
@HOME
@command("residency.agent.dataset.show/1")
def dataset_show(name: str, home: Path) -> Result:
    """One extract: columns and their types, rounded numbers, commitment, ground, and which studies used it.

    \b
    Example: residency agent dataset show thyroid --home /srv/residency
    """
    from client.dataset_views import dataset_fields, dataset_rows  # noqa: PLC0415
    from client.registration import find_dataset  # noqa: PLC0415

    opened = at_home(home)
    record = find_dataset(opened.registry(), name)
    return Result(dataset_fields(opened, record), table(["dataset", ""], dataset_rows(opened, record)))


@dataset.command("retire")
@click.argument("name")
@HOME
@command("residency.agent.dataset.retire/1")
def dataset_retire(name: str, home: Path) -> Result:
    """No new study may use the extract. What it spent stays spent; what was cached of it is removed.

    \b
    Example: residency agent dataset retire thyroid --home /srv/residency
    """
    from client import registration  # noqa: PLC0415

    record = registration.retire_dataset(at_home(home), name)
    lines = [
        f"dataset {name} is retired since {record.retired}; caches removed, the ledger of {record.source} is unchanged",
        "a study that was joined before may end; the extract's file is yours to delete",
    ]
    return Result({"dataset": name, "source": record.source, "retired": record.retired}, lines)


@click.group()
def model() -> None:
    """Base models in local folders.

    \b
    Example: residency agent model add /models/minilm --home /srv/residency
    """


@model.command("add")
@click.argument("folder", type=click.Path(path_type=Path))
@HOME
@click.option("--name", help="A name for people; default: the folder's.")
@command("residency.agent.model.add/1")
def model_add(folder: Path, home: Path, name: str | None) -> Result:
    """Register a model folder by the digest of its files.

    \b
    Example: residency agent model add /models/all-MiniLM-L6-v2
    """
    from client import registration  # noqa: PLC0415

    digest = registration.add_model(at_home(home), folder, name or folder.name)
    lines = [f"model {name or folder.name} registered", f"digest {digest}"]
    return Result({"model": name or folder.name, "sha256": digest}, lines)


@model.command("list")
@HOME
@command("residency.agent.model.list/1")
def model_list(home: Path) -> Result:
    """The registered model folders and their digests, by which a study and a policy name them.

    \b
    Example: residency agent model list --home /srv/residency
    """
    found = at_home(home).registry().models
    rows = [(m.name, m.sha256, m.path) for m in found]
    fields: list[Json] = [{"name": name, "sha256": digest, "path": path} for name, digest, path in rows]
    return Result({"models": fields}, table(["model", "digest", "folder"], rows))


@model.command("convert")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The folder to write.")
@click.option("--groups", default=32, show_default=True, help="Groups of channels that are normalised together.")
@command("residency.agent.model.convert/1")
def model_convert(folder: Path, out: Path, groups: int) -> Result:
    """Write a ResNet with GroupNorm in place of BatchNorm, which would mix the records of a batch. Reads no data.

    \b
    Example: residency agent model convert /models/resnet-50 --out /models/resnet-50-gn
    """
    from client.training.group_norm import convert  # noqa: PLC0415 - torch
    from client.training.model_folder import model_digest  # noqa: PLC0415

    digest = model_digest(convert(folder, out, groups))
    lines = [f"model {out}", f"digest {digest}", "its running means are gone: train its last layers (whole_layers)"]
    return Result({"folder": str(out), "groups": groups, "sha256": digest}, lines)
