"""Logs, signed studies and packs as they lie in bundles, run folders and homes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from compliance.canonical import parse_canonical, sha256_hex
from compliance.dossier.build import Files
from compliance.errors import InputError
from compliance.files import read_bytes
from compliance.identity import parse_envelope
from compliance.law.pack import builtin_packs
from compliance.law.regions import load_regions
from compliance.log.view import LogView, read_views


def views_at(paths: Sequence[Path]) -> tuple[LogView, ...]:
    """The logs at all `paths`. Raises what `read_views` raises."""
    return tuple(view for path in paths for view in read_views(path))


def files_at(paths: Sequence[Path], study: str) -> tuple[str, Files]:
    """The digest of the study that is meant, its signed form if it is at hand, packs and region sets by digest.

    `study`: a digest or at least 8 digits of it, a name, or the path of the signed study. Packs are those beside the
    logs and those of this package. Raises InputError RSD-9114 if it is not one study that is meant, RSD-2005.
    """
    given = Path(study)
    candidates = [given] if given.is_file() else [p for path in paths for p in _studies(path)]
    found = {digest: (name, data) for digest, name, data in map(_read, candidates)}
    meant = [d for d, (name, _) in found.items() if given.is_file() or study in {d, name} or _abbreviates(study, d)]
    packs = {sha256_hex(data): data for data in _packs(paths)}
    if len(meant) == 1:
        return meant[0], Files(found[meant[0]][1], packs)
    if not meant and len(study) == 64:
        return study, Files(b"", packs)
    raise InputError(
        "RSD-9114",
        f"{len(meant)} studies are called {study}" if meant else f"no study {study} is at hand",
        rule="--study names one study",
        found=", ".join(f"{name} {digest[:16]}" for digest, (name, _) in sorted(found.items())) or "no signed study",
        limit="one study",
        next="give the whole digest, or the file of the signed study",
    )


def _abbreviates(study: str, digest: str) -> bool:
    return len(study) >= 8 and digest.startswith(study)


def _studies(path: Path) -> Iterator[Path]:
    """A bundle or run folder holds one signed study, a home those that it took part in."""
    yield from (p for p in (path / "study.json",) if p.is_file())
    yield from sorted((path / "studies").glob("*/study.json"))


def _read(path: Path) -> tuple[str, str, bytes]:
    data = read_bytes(path, "study").removesuffix(b"\n")
    envelope = parse_envelope(data, str(path))
    payload = parse_canonical(envelope.payload, str(path))
    return envelope.digest, str(payload.get("name", "")) if isinstance(payload, dict) else "", data


def _packs(paths: Sequence[Path]) -> Iterator[bytes]:
    for path in paths:
        found = [path / "regions.yaml", *sorted((path / "packs").glob("*.yaml"))]
        yield from (read_bytes(p, "law pack") for p in found if p.is_file())
    yield from (pack.raw for pack in builtin_packs().values())
    yield load_regions().raw
