"""The reference cases themselves: all come out, each full regime has every kind, and a mistake in a file is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from compliance.errors import InputError
from compliance.law.cases import load_cases, load_folder, run_cases
from compliance.law.pack import builtin_packs, load_pack
from compliance.law.regions import load_regions

PACKS = builtin_packs()
FILES = load_folder()
RESULTS = run_cases(FILES, PACKS, load_regions())

GOOD = """\
schema: residency.law-cases/1
pack: eu
cases:
  - id: eu.one
    kind: region
    cites: [GDPR Art 44]
    says: A case of its own, to see what is refused.
    transfer: {artifact: dp_update, from: DE, to: CN, documents: [dpia]}
    expect: {effect: deny, rule: eu.no-basis, missing: [scc]}
"""


def _write(folder: Path, text: str, name: str = "eu.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_every_case_comes_out_as_it_was_written():
    assert [(r.case.id, r.wrong) for r in RESULTS if not r.passed] == []
    assert len(RESULTS) >= 120


@pytest.mark.parametrize("pack", sorted(name for name, pack in PACKS.items() if pack.kind == "full"))
def test_each_full_regime_has_every_kind_of_case(pack):
    kinds = {r.case.kind for r in RESULTS if r.pack == pack}
    assert {"allow", "region", "document", "guarantee"} <= kinds
    over = any(rule.over for rule in PACKS[pack].rules)
    assert "threshold" in kinds or not over


@pytest.mark.parametrize("pack", sorted(PACKS))
def test_each_pack_has_cases(pack):
    assert pack in {file.pack for file in FILES}


def test_where_a_count_decides_both_sides_of_the_edge_are_there():
    for pack in PACKS.values():
        if any(rule.over for rule in pack.rules):
            edges = {r.case.expect.effect for r in RESULTS if r.pack == pack.id and r.case.kind == "threshold"}
            assert edges == {"allow", "deny"}, pack.id


def test_a_good_file_is_read_and_decided(tmp_path):
    (result,) = run_cases([load_cases(_write(tmp_path, GOOD))], PACKS)
    assert result.passed
    assert result.outcome == "deny by eu.no-basis"


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("kind: region", "kind: regoin", 5, "kind"),
        ("artifact: dp_update", "artifact: dp_updat", 8, "artifact"),
        ("documents: [dpia]", "documents: [dpai]", 8, "documents"),
        ("from: DE", "from: Germany", 8, "from"),
        ("cites: [GDPR Art 44]", "cites: []", 6, "cites"),
        ("    kind: region\n", "    kind: region\n    colour: blue\n", 6, "unknown field"),
        ("id: eu.one", "id: uk.one", 4, "begin with eu."),
        ("kind: region", "kind: allow", 4, "expects an allow"),
        ("rule: eu.no-basis, missing: [scc]", "missing: [scc]", 9, "missing"),
    ],
)
def test_a_mistake_is_shown_with_file_and_line(tmp_path, old, new, line, said):
    assert old in GOOD
    with pytest.raises(InputError, match="RSD-3002") as caught:
        load_cases(_write(tmp_path, GOOD.replace(old, new)))
    assert "eu.yaml" in caught.value.message
    assert f"line {line}:" in caught.value.message
    assert said in caught.value.message


def test_a_case_stands_once_in_the_file_of_its_pack(tmp_path):
    case = GOOD[GOOD.index("  - id") :]
    with pytest.raises(InputError, match="stands twice"):
        load_cases(_write(tmp_path, GOOD + case))
    with pytest.raises(InputError, match="another pack"):
        load_cases(_write(tmp_path, GOOD, "uk.yaml"))


@pytest.mark.parametrize(
    ("old", "new", "wrong"),
    [
        ("effect: deny", "effect: allow", "deny by eu.no-basis, expected allow by eu.no-basis"),
        ("rule: eu.no-basis", "rule: eu.never-raw", "deny by eu.no-basis, expected deny by eu.never-raw"),
        ("missing: [scc]", "missing: [cac_assessment]", "cac_assessment is not named as missing"),
        ("pack: eu\n", "pack: xx\n", "there is no pack xx"),
    ],
)
def test_a_case_that_comes_out_otherwise_says_how(tmp_path, old, new, wrong):
    name = "xx.yaml" if "xx" in new else "eu.yaml"
    text = GOOD.replace(old, new).replace("id: eu.one", "id: xx.one" if "xx" in new else "id: eu.one")
    (result,) = run_cases([load_cases(_write(tmp_path, text, name))], PACKS)
    assert wrong in result.wrong


def test_a_pack_that_is_offered_and_not_adopted_denies(tmp_path):
    text = GOOD.replace("    transfer", "    packs: [uk]\n    offered: [eu]\n    transfer").replace(
        "rule: eu.no-basis, missing: [scc]", "rule: engine.pack-not-adopted"
    )
    assert run_cases([load_cases(_write(tmp_path, text))], PACKS)[0].passed


def test_a_weaker_pack_fails_its_cases():
    eu = PACKS["eu"]
    weaker = load_pack(eu.raw.replace(b"epsilon_milli_at_most: 8000", b"epsilon_milli_at_most: 80000"))
    results = run_cases([f for f in FILES if f.pack == "eu"], {**PACKS, "eu": weaker})
    assert any(not r.passed for r in results)
