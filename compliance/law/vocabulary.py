"""The closed word lists of law packs: a word outside them is a mistake in the pack, never a silent mismatch."""

from __future__ import annotations

from typing import Literal, get_args

Artifact = Literal[
    "raw_record",
    "embedding",
    "gradient",
    "plain_update",
    "dp_update",
    "masked_update",
    "aggregate",
    "released_model",
    "metric",
    "answer",
    "roster",
    "log_checkpoint",
    "log_export",
]
Purpose = Literal[
    "scientific_research", "public_health", "quality_improvement", "study_administration", "audit", "publication"
]
DocumentKind = Literal[
    "dpia",
    "art6_basis",
    "art9_basis",
    "ethics",
    "adequacy_confirmation",
    "scc",
    "bcr",
    "tia",
    "idta",
    "uk_addendum",
    "pipl_contract",
    "cac_assessment",
]
Confidence = Literal["high", "medium", "low"]
Effect = Literal["allow", "deny"]
Unit = Literal["none", "record", "patient"]

# What no pack may ever let out: records, or values from which records are read back with ordinary means.
NEVER_LEAVES: frozenset[str] = frozenset({"raw_record", "embedding", "gradient"})
# Adequacy holds for a recipient, not for a country as such (PIPEDA, DPF, APPI): these papers must name the recipient.
NAMES_ITS_RECIPIENT: frozenset[str] = frozenset({"adequacy_confirmation"})
ARTIFACTS: tuple[str, ...] = get_args(Artifact)
PURPOSES: tuple[str, ...] = get_args(Purpose)
DOCUMENT_KINDS: tuple[str, ...] = get_args(DocumentKind)
