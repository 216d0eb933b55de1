"""A log that is handed out to somebody: decided by the law set of whose log it is, and logged, before it is made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from compliance.log.view import read_views
from compliance.release.bodies import read_decision
from residency import cli
from tests.federation import OPERATOR, consortium

PARTS = {"clear_agent": "client.handing_out:clear", "clear_operator": "server.handing_out:clear"}


@pytest.fixture
def homes(tmp_path: Path) -> dict[str, Path]:
    """The operator's home and that of a German site, before any run."""
    hub = Path(shutil.copytree(consortium().hub, tmp_path / "hub", ignore=shutil.ignore_patterns("runs", "studies")))
    return {OPERATOR: hub, "a": consortium().copy_home("a", tmp_path / "sites")}


def export(home: Path, to: str, out: Path, *more: str) -> Result:
    key = home / "keys" / ("operator.key" if home.name == "hub" else "agent.key")
    words = ["log", "export", str(home), "--key", str(key), "--to", to, "--out", str(out), "--json", *more]
    return CliRunner().invoke(cli, words, obj=PARTS)


def shown(done: Result) -> dict[str, Any]:
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("member", [OPERATOR, "a"])
@pytest.mark.parametrize(("to", "name", "code"), [("d", "d", "FR"), ("authority:US", "authority", "US")])
def test_it_is_decided_and_logged_before_it_is_made(
    homes: dict[str, Path], tmp_path: Path, member: str, to: str, name: str, code: str
) -> None:
    home, out = homes[member], tmp_path / "out"
    made = shown(export(home, to, out))
    assert (made["error"], made["to"]["name"], made["to"]["jurisdiction"]) == (None, name, code)
    (view,) = read_views(home)
    decided = read_decision(view.entries[made["decision"]], "the log").decision
    assert (decided.allow, decided.transfer.artifact, decided.transfer.purpose) == (True, "log_export", "audit")
    assert (decided.transfer.exporter.name, decided.recipient.jurisdiction) == (member, code)
    recorded = view.entries[made["logged"]]
    assert (recorded.kind, recorded.body["to"], recorded.body["decision"]) == ("export", name, made["decision"])
    assert made["decision"] < made["size"] <= made["logged"]  # the export itself shows the decision
    verify = ["verify", str(out), "--trust", str(consortium().trust), "--log", str(home), "--json"]
    report = shown(CliRunner().invoke(cli, verify))
    assert [s["status"] for s in report["steps"]] == ["ok"] * 6
    assert any(f"for {name} ({code})" in text for text in report["asserted"][member])


@pytest.mark.parametrize("member", [OPERATOR, "a"])
def test_a_denial_is_logged_and_makes_nothing(homes: dict[str, Path], tmp_path: Path, member: str) -> None:
    home, out = homes[member], tmp_path / "out"
    before = read_views(home)[0].size
    done = export(home, "authority:ZZ", out)  # no country: no rule can tell where it is
    assert (done.exit_code, shown(done)["error"]["code"]) == (4, "RSD-3100")
    (view,) = read_views(home)
    added = [view.entries[i] for i in range(before, view.size)]
    assert [(e.kind, e.body["allow"]) for e in added] == [("decision", False)]
    assert not out.exists()


def test_without_a_law_set_or_with_a_recipient_that_is_none_nothing_leaves(
    homes: dict[str, Path], tmp_path: Path
) -> None:
    home, out = homes["a"], tmp_path / "out"
    before = read_views(home)[0].size
    for to in ("nobody", "d:DE", "D:FR", "authority:", ":FR", "../x:FR", "authority:fr"):
        done = export(home, to, out)
        assert (done.exit_code, shown(done)["error"]["code"]) == (2, "RSD-5143"), to
    (home / "law.json").unlink()
    done = export(home, "d", out)
    assert (done.exit_code, shown(done)["error"]["code"]) == (3, "RSD-3034")
    assert read_views(home)[0].size == before
    assert not out.exists()
