"""Regimes are data: read strictly, each article with its reading and its gaps, and described in the docs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from compliance.dossier import regime as regimes
from compliance.dossier.regime import builtin_regimes, load_regime, regime_called
from compliance.errors import InputError

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "compliance" / "dossier" / "regimes"
ASKED = {
    "gdpr": {"art-30", "art-32", "art-35-annex", "art-44-49"},
    "hipaa": {"164.312-b", "164.316-b-2"},
    "us-202": {"202.1001", "202.1101"},
    "pipl": {"art-38-40", "art-55-56"},
    "ai-act": {"art-10", "art-11-annex-iv", "art-15", "art-18", "art-12-19-26"},
    "nist-800-226": {"unit", "epsilon", "trust-model", "implementation", "side-channels", "exposure"},
}
SMALL = """schema: residency.regime/1
id: small
title: Small
version: 1
reviewer: none
verified_on: 2026-11-22
not_covered: [everything else]
articles:
  - id: one
    citation: Law 1 Art 1
    title: One article
    asks: It asks something.
    confidence: low
    source_kind: memory
    source: made up for a test
    shows:
      - {shows}
    not_covered: [a gap]
"""


def test_the_articles_that_auditors_ask_for_are_there() -> None:
    assert set(builtin_regimes()) == set(ASKED)
    for name, articles in ASKED.items():
        found = regime_called(name)
        assert articles <= {a.id for a in found.articles}
        assert found.draft, "no counsel has read it: every page says so"


def test_what_no_record_speaks_to_is_not_covered_as_a_whole() -> None:
    whole = {a.id: bool(a.shows) for a in regime_called("ai-act").articles}
    assert [name for name, shown in whole.items() if not shown] == ["art-12-19-26"]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda p: p.stem)
def test_no_reading_claims_that_a_law_is_met(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"complian|fulfil|satisf", text, re.IGNORECASE)
    assert "unreviewed" in text


@pytest.mark.parametrize(
    ("shows", "why"),
    [
        ("{table: flows, caption: What left, kinds: [charge]}", "takes no kinds"),
        ("{table: flows, caption: What left, artifacts: [record]}", "no artifact record"),
        ("{table: entries, caption: Some entries, fields: {A: b}}", "needs kinds"),
        ("{table: entries, caption: Some entries, kinds: [chargee], fields: {A: b}}", "no kind chargee"),
        ("{table: retention, caption: How long, pack: eu, classes: [decisions]}", "classes"),
        ("{table: everything, caption: Everything}", "table"),
        ("{table: study, caption: The study, fields: {A: b, B: c/d}}", "fields"),
    ],
)
def test_a_setting_that_does_nothing_is_a_mistake(shows: str, why: str) -> None:
    with pytest.raises(InputError, match=why) as e:
        load_regime(SMALL.replace("{shows}", shows).encode(), "small.yaml")
    assert e.value.code == "RSD-3002"


def test_memory_is_never_more_than_low_confidence() -> None:
    good = SMALL.replace("{shows}", "{table: logs, caption: The logs}")
    assert load_regime(good.encode(), "small.yaml").articles[0].shows[0].table == "logs"
    with pytest.raises(InputError, match="confidence low"):
        load_regime(good.replace("confidence: low", "confidence: medium").encode(), "small.yaml")
    with pytest.raises(InputError, match="listed twice"):
        load_regime((good + good.partition("articles:\n")[2]).encode(), "small.yaml")


def test_an_unknown_regime_is_named() -> None:
    with pytest.raises(InputError) as e:
        regime_called("gdpr2")
    assert e.value.code == "RSD-9110"
    assert "gdpr" in str(e.value.limit)


def test_the_docs_list_every_article_with_its_tables() -> None:
    """docs/evidence.md: one row an article, with the tables that show it."""
    text = (ROOT / "docs" / "evidence.md").read_text()
    rows = {tuple(cell.strip() for cell in line.split("|")[1:4]) for line in text.splitlines() if line.startswith("| ")}
    for found in builtin_regimes().values():
        for article in found.articles:
            tables = ", ".join(dict.fromkeys(_told(shows) for shows in article.shows)) or "NOT COVERED"
            assert (f"`{found.id}`", article.citation, tables) in rows


def _told(shows: regimes.Shows) -> str:
    return f"entries ({', '.join(shows.kinds)})" if shows.kinds else shows.table
