"""`residency agent dataset` and `residency agent model`: what a site has to train on."""

from __future__ import annotations

from pathlib import Path

import click

from client.command_options import FILE, HOME, at_home
from compliance.cli import Result, command


@click.group()
def dataset() -> None:
    """Extracts of this site's data."""


@dataset.command("add")
@click.argument("name")
@HOME
@click.option("--path", type=FILE, required=True, help="CSV, Parquet or JSON Lines file.")
@click.option("--source", required=True, help="The patient population whose ledger the extract spends from.")
@click.option("--id-column", "id_columns", multiple=True, required=True, help="What identifies a patient or record.")
@command("residency.agent.dataset.add/1")
def dataset_add(name: str, home: Path, path: Path, source: str, id_columns: tuple[str, ...]) -> Result:
    """Register an extract. Rows that are known already bring their ledger with them.

    \b
    Example: residency agent dataset add thyroid --path thyroid.csv --source clinic --id-column patient_id
    """
    from client import registration  # noqa: PLC0415 - loads pandas

    known, shared = registration.add_dataset(at_home(home), name, path, source, id_columns)
    lines = [f"dataset {name} registered; it spends from data source {known}"]
    if known != source:
        lines.append(f"rows of it are known as {known}: it inherits that ledger, not a new one")
    return Result({"dataset": name, "source": known, "inherited": shared > 0}, lines)


@click.group()
def model() -> None:
    """Base models in local folders."""


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
    return Result({"model": name or folder.name, "sha256": digest}, [f"model {digest[:12]} registered"])
