"""What a prepared study leaves in its cache folder, so that a task trains without table, tokenizer and trunk.

The files are patient data: they are readable by their owner only and stay at the site. No torch here: the agent asks
whether they are whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from client.work import Prepared, WorkSpec
from compliance.canonical import canonical, parse_canonical, sha256_hex
from compliance.errors import ResidencyError
from compliance.files import read_bytes, sync_folder, write_durably
from compliance.software import VERSION
from compliance.training_spec import Frozen
from compliance.validation import load_model

OURS: Final = ("prepared.json", "trunk-*.safetensors", "top.safetensors", "config.json")  # first what counts the others


class Kept(Frozen):
    """prepared.json, written last: without it nothing else in the folder counts. File name -> size in bytes."""

    key: str
    trunk: str
    sizes: dict[str, int]
    prepared: Prepared


def prepared_key(spec: WorkSpec) -> str:
    """Digest of what the files depend on (software, task, model, table, units, the rows left out) and of what was tried
    with them: threads and the size of the passes."""
    names = {"task", "model", "table_sha256", "group_column", "threads", "first_round"}
    parts = spec.model_dump(mode="json", include=names)
    return sha256_hex(canonical({**parts, "v": 1, "software": VERSION, "excluded": sorted(set(spec.excluded))}))


def find_prepared(spec: WorkSpec) -> Kept | None:
    """What was kept for exactly this `spec`; None if anything is missing, of another size, or of another spec."""
    folder = Path(spec.cache_dir)
    try:
        data = parse_canonical(read_bytes(folder / "prepared.json", "prepared"), "prepared.json")
        kept = load_model(Kept, data, "RSD-4502", "prepared.json")
        whole = all((folder / name).stat().st_size == size for name, size in kept.sizes.items())
    except (ResidencyError, OSError):
        return None  # it is prepared again
    return kept if whole and kept.key == prepared_key(spec) else None


def keep(spec: WorkSpec, trunk: str, others: tuple[str, ...], prepared: Prepared) -> None:
    """Declare the trunk's file and the `others` whole. Raises EnvironmentFault RSD-7001."""
    folder = Path(spec.cache_dir)
    sizes = {name: (folder / name).stat().st_size for name in (trunk, *others)}
    kept = Kept(key=prepared_key(spec), trunk=trunk, sizes=sizes, prepared=prepared)
    write_durably(folder / "prepared.json", canonical(kept.model_dump(mode="json")), private=True)


def forget(folder: Path, *, but: str = "") -> None:
    """Remove what was prepared in the cache, except the file named `but`."""
    found = [p for name in OURS for p in sorted(folder.glob(name)) if p.name != but]
    for path in found:
        path.unlink(missing_ok=True)
    if found:
        sync_folder(folder)
