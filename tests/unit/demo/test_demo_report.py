"""What a demo tells: the JSON object of the issue, the last screens, and a page that needs nothing outside itself."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from demo.cast import Folders
from demo.outcome import Arrow, Findings, arrows, denial, merge_baselines
from demo.report import Cell, matrix, render
from demo.screen import NOT_SHOWN, last_lines, result_lines
from tests.finished_demo import STUDY, finished


@pytest.fixture
def findings() -> Findings:
    """A finished demo."""
    return finished()


def test_the_json_object_has_what_the_issue_lists(findings: Findings, tmp_path: Path) -> None:
    told = findings.as_json(Folders(tmp_path), 250.0, 4000)
    listed = {
        "rounds", "sites", "denial", "stopped", "accuracy", "auc", "trained_parameters", "seconds_s", "peak_rss_mib",
        "tamper_caught", "verified", "bundle", "trust",
    }  # fmt: skip
    assert listed <= set(told)
    assert set(told["sites"][0]) == {"name", "jurisdiction", "outcome", "eps", "eps_budget", "alone"}
    assert set(told["denial"]) == {"rule", "citation"}
    assert {"attack", "site", "code"} <= set(told["stopped"][0])
    assert set(told["accuracy"]) == {"federated", "pooled", "site_alone_mean", "majority"}
    assert set(told["auc"]) == {"federated", "pooled", "site_alone_mean"}
    assert told["accuracy"]["site_alone_mean"] == pytest.approx(0.715)
    json.dumps(told)


def test_nothing_unmeasured_is_told(findings: Findings, tmp_path: Path) -> None:
    assert "head_only" not in findings.as_json(Folders(tmp_path), 1.0, 1)
    assert not any("head alone" in line for line in result_lines(findings))
    findings.head_only = {"accuracy": 0.83, "auc": 0.87}
    assert findings.as_json(Folders(tmp_path), 1.0, 1)["head_only"] == {"accuracy": 0.83, "auc": 0.87}
    assert any("head alone" in line for line in result_lines(findings))


def test_the_page_needs_nothing_outside_itself(findings: Findings) -> None:
    page = render(findings, STUDY)
    outside = re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?(?!#)([^\"')>\s]+)", page)
    assert outside == []
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert page.count("<svg") == 4


def test_the_page_and_the_screens_say_what_is_not_shown(findings: Findings, tmp_path: Path) -> None:
    page = render(findings, STUDY)
    last = "\n".join(last_lines(findings, Folders(tmp_path), 1.0, 1))
    for line in NOT_SHOWN:
        assert line.split(":")[0] in page
        assert line in last
    assert "Invented" in page
    assert "residency verify" in last


def test_a_refused_site_shows_rule_and_citation(findings: Findings) -> None:
    row = next(line for line in result_lines(findings) if line.startswith("svhd"))
    assert "REFUSED" in row
    assert "eu.no-basis, GDPR Art 44" in row


def test_decisions_become_arrows_once_and_the_denial_is_found() -> None:
    def body(exporter: str, peer: str, effect: str, rule: str) -> dict[str, object]:
        transfer = {"exporter": {"name": exporter}, "artifact": "aggregate"}
        told = {"law": ["GDPR Art 44"], "plain": "p", "would_allow": "w"}
        return {"transfer": transfer, "peer": peer, "effect": effect, "rule": rule, **told}

    bodies = [body("hub", "svi", "allow", "eu.x")] * 3 + [body("hub", "svhd", "deny", "eu.no-basis")]
    assert len(arrows(bodies)) == 2
    found = denial(bodies)
    assert found is not None
    assert (found.rule, found.citation) == ("eu.no-basis", "GDPR Art 44")
    assert denial(bodies[:3]) is None
    columns, rows = matrix(arrows(bodies))
    assert columns[-1] == "coordinator"
    assert rows == []  # "hub" is nobody in the cast


def test_what_one_rule_decided_alike_stands_once() -> None:
    told = [("aggregate", "deny", "eu.no-basis"), ("answer", "allow", "eu.a"), ("log_checkpoint", "allow", "eu.a")]
    columns, rows = matrix([Arrow("coordinator", "svi", *one) for one in told])
    assert [row["name"] for row in rows] == ["coordinator"]
    cells = rows[0]["cells"]
    assert cells[columns.index("svi")] == [
        Cell("deny", "eu.no-basis", ("aggregate",)), Cell("allow", "eu.a", ("answer", "log checkpoint")),
    ]  # fmt: skip
    assert not any(cell for name, cell in zip(columns, cells, strict=True) if name != "svi")


def test_baselines_of_several_processes_become_one() -> None:
    score = {"accuracy": 0.7, "auc": 0.7}
    first = {"majority": 0.74, "alone": {"svi": score}, "pooled": None, "head_only": None}
    second = {"majority": 0.74, "alone": {"other": score}, "pooled": score, "head_only": None}
    merged = merge_baselines([first, second])
    assert set(merged["alone"]) == {"svi", "other"}
    assert (merged["pooled"], merged["head_only"], merged["majority"]) == (score, None, 0.74)
