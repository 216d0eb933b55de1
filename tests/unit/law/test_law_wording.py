"""Nowhere does this product claim that anything complies with a law: it says which control yields which evidence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from compliance.commands.law import _check_lines
from compliance.law.cases import load_folder
from compliance.law.check import Checked, load_files
from compliance.law.pack import builtin_packs
from compliance.law.proofs import STATEMENTS, Proof
from tests.desk import ok, run

ROOT = Path(__file__).parents[3]
_LAWS = (
    "(?:GDPR|DSGVO|HIPAA|PIPL|APPI|FADP|CCPA|CMIA|LGPD|PIPEDA|POPIA|PDPA|PDPL|PIPA|EHDS|AI Act|28 CFR 202"
    "|laws?|legally|regulatory|statutes?)"
)
CLAIMS = tuple(
    re.compile(claim, re.IGNORECASE)
    for claim in (
        rf"{_LAWS}[ -]?(?:compliant|conformant|proof|safe|certified)\b",
        rf"\b(?:compl(?:y|ies|iant)|conforms?|in (?:full )?compliance|accordance) with (?:the |all )?{_LAWS}",
        rf"\b(?:ensures?|guarantees?|achieves?|proves?) (?:(?:legal|full) )?(?:{_LAWS} )?(?:compliance|lawfulness)",
        r"\b(?:is|are|be|becomes?) (?:fully |truly |provably )?(?:lawful|legal(?! advice)|anonymous|anonymised)\b",
    )
)
# What says the contrary, or asks: "whether a model is anonymous".
_ASKED = re.compile(
    r"\b(?:whether|not|never|no|nothing|if|until|unless|neither|nobody|claim\w*)\b[^.;:]*$", re.IGNORECASE
)
_FOLDERS = ("compliance", "client", "server", "strategies", "demo", "bench", "docs", "examples")
TEXTS = sorted(
    path
    for path in (*ROOT.glob("*.md"), *(p for folder in _FOLDERS for p in (ROOT / folder).rglob("*")))
    if path.suffix in {".py", ".yaml", ".md", ".txt", ".toml", ".html", ".svg"} and "__pycache__" not in path.parts
)


def claims(text: str) -> list[str]:
    """Each claim of lawfulness that is not part of a question or a denial."""
    flat = re.sub(r"\s+", " ", text)
    return [
        flat[max(m.start() - 60, 0) : m.end()]
        for claim in CLAIMS
        for m in claim.finditer(flat)
        if not _ASKED.search(flat[max(m.start() - 160, 0) : m.start()])
    ]


def test_no_file_claims_it():
    assert len(TEXTS) > 300
    found = {str(p.relative_to(ROOT)): c for p in TEXTS if (c := claims(p.read_text(encoding="utf-8")))}
    assert found == {}


@pytest.mark.parametrize(
    "text",
    [
        "Residency is GDPR compliant.", "a HIPAA-compliant store", "This complies with the GDPR.",
        "It ensures legal compliance.", "in compliance with all laws", "The transfer is lawful.",
        "The update is anonymous.",
    ],
)  # fmt: skip
def test_claims_are_seen(text):
    assert claims(text)


@pytest.mark.parametrize(
    "text",
    [
        "whether a model or aggregate is anonymous",
        "It is no finding of lawfulness.",
        "An ALLOW does not say that it is lawful.",
    ],
)
def test_what_is_no_claim_is_not(text):
    assert not claims(text)


def test_no_command_prints_it():
    shown = [run("law", "list").output, run("law", "matrix", "dp_update", "--from", "DE", "--to", "CN").output]
    shown += [run("law", "show", name).output for name in builtin_packs()]
    shown += [run("audit", "retention", "--jurisdiction", code).output for code in ("DE", "US")]
    proofs = tuple(Proof(name, says, True) for name, (says, _) in STATEMENTS.items())
    shown += _check_lines(Checked(load_files(None), (), proofs, 1))
    assert [c for text in shown for c in claims(text)] == []


def test_packs_and_cases_are_read_whole():
    texts = [p.model_dump_json() for p in (*builtin_packs().values(), *load_folder())]
    assert [c for text in texts for c in claims(text)] == []


def test_whoever_sees_a_pack_sees_that_it_is_a_draft():
    for pack in builtin_packs().values():
        if pack.draft:
            assert "DRAFT, no counsel" in run("law", "show", pack.id).output
    assert all(p["draft"] == builtin_packs()[p["id"]].draft for p in ok("law", "list")["packs"])
