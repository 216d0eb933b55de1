"""The manifest: every file of a bundle by digest, under the operator's signature."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from compliance.canonical import Json, sha256_hex
from compliance.errors import CheckFailed
from compliance.identity import parse_envelope
from compliance.study import SHA256
from compliance.training_spec import Frozen
from compliance.trust.root import NAME

SCHEMA, PATH = "residency.manifest/1", "manifest.json"
_NAME = "[a-z0-9][a-z0-9-]{0,62}"
# Nothing else may lie in a bundle: no code, no pickle, nothing that a reader would take for evidence.
ALLOWED = re.compile(
    r"study\.json|layout\.json|privacy\.json"
    rf"|answers/{_NAME}\.(advice|approval|refusal)\.json"
    rf"|law/{_NAME}\.(adoption|advice)\.json|regions\.yaml"
    rf"|packs/{_NAME}(\.[0-9a-f]{{12}})?\.yaml"
    r"|rosters/round-[0-9]{3,4}\.json|snapshots/round-[0-9]{3,4}\.f32"
    rf"|evidence/{_NAME}\.json|evaluation\.json|histograms/{_NAME}\.json"
    r"|model/((adapter_model|head|difference|network)\.safetensors|(adapter_config|network)\.json|README\.md|model\.sig)"
    r"|attestations/((provenance|privacy|verification)\.intoto\.jsonl|model-signing\.pem)|bom\.cdx\.json"
    rf"|proofs/{_NAME}\.(close|roster|commit|transfer)\.tlog-proof"
)

ATTACHED = ("attestations/", "bom.cdx.json", "model/model.sig", "proofs/")  # what is there for other people's tools


class TrustRef(Frozen):
    """The trust file under which the bundle was made."""

    sha256: str = Field(pattern=SHA256)
    version: int = Field(ge=1)


class ManifestFile(Frozen):
    """One file of the bundle."""

    path: str
    sha256: str = Field(pattern=SHA256)
    size: int = Field(ge=0)


class Manifest(Frozen):
    """manifest.json. `created` is the time of the last log entry shown, so that a bundle follows from its inputs.

    `cleared`: the sites of the study that may have the release, by the logged decisions of the operator and of every
    site whose records are in it.
    """

    schema_: Literal["residency.manifest/1"] = Field(alias="schema")
    study: str = Field(pattern=SHA256)
    trust: TrustRef
    run: str
    created: str
    cleared: tuple[Annotated[str, Field(pattern=NAME)], ...]
    files: tuple[ManifestFile, ...] = Field(min_length=1, max_length=20_000)

    @model_validator(mode="after")
    def _in_order(self) -> Manifest:
        paths = [f.path for f in self.files]
        if paths != sorted(set(paths)):
            raise ValueError("files are not ordered by path, or one stands twice")
        unknown = [p for p in paths if not ALLOWED.fullmatch(p)]
        if unknown:
            raise ValueError(f"{unknown[0]!r} does not belong into a bundle")
        return self

    def as_json(self) -> dict[str, Json]:
        """JSON form, with `schema` under its public name."""
        return self.model_dump(mode="json", by_alias=True)


def listed(files: Mapping[str, bytes]) -> list[dict[str, Json]]:
    """The `files` of a manifest over these contents, itself left out."""
    return [{"path": p, "sha256": sha256_hex(files[p]), "size": len(files[p])} for p in sorted(files) if p != PATH]


def check_form(data: bytes) -> None:
    """`data`, the manifest's bytes, are the one form in which it is written. Raises CheckFailed RSD-9001."""
    written = parse_envelope(data, PATH).encode() + b"\n"
    if data != written:
        found, limit = (f"{sha256_hex(d)} ({len(d)} bytes)" for d in (data, written))
        raise _wrong(f"{PATH} was changed", found, limit)


def check_files(manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """Every listed file is there with its digest, and none else. Raises CheckFailed RSD-9001 naming the file."""
    claimed = {f.path: f for f in manifest.files}
    present = set(files) - {PATH}
    for path in sorted(claimed.keys() - present):
        raise _wrong(f"{path} is missing from the bundle", "no file", claimed[path].sha256)
    for path in sorted(present - claimed.keys()):
        raise _wrong(f"{path} is not listed in the manifest", "an extra file", "only listed files")
    for path, entry in claimed.items():
        digest = sha256_hex(files[path])
        if (digest, len(files[path])) != (entry.sha256, entry.size):
            raise _wrong(
                f"{path} was changed", f"{digest} ({len(files[path])} bytes)", f"{entry.sha256} ({entry.size})"
            )


def _wrong(message: str, found: str, limit: str) -> CheckFailed:
    return CheckFailed(
        "RSD-9001",
        message,
        rule="the manifest lists every file by its SHA-256",
        found=found,
        limit=limit,
        next="obtain the bundle again; if it stays so, somebody changed it after it was signed",
    )
