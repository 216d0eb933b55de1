"""Days, citations and reviewers: what passes for one and is none is refused, in every field that holds one, by line."""

from __future__ import annotations

import pytest

from compliance.errors import InputError
from compliance.law.cases import load_cases, load_folder
from compliance.law.pack import builtin_packs, load_pack
from tests.unit.law.small_packs import ALPHA_TEXT, REGIONS

NOBODY = ("None", "NONE", '" "', "n/a", "nobody", "TBD", "no", '"~"', "Counsel", '"N A"', "No One", "to be named (TBD)")
PERSONS = ("A. Counsel", "Ngozi Okonjo-Adeyemi", "山田 太郎", "Анна О'Лири", "प्रिया शर्मा", '"Erika Muster, LL.M."')
NO_CITATIONS = ('""', '"   "', "none", "x", "§§§§", '"1234"', "Act", "Statute")
CITATIONS = ("Act 6", "GDPR Art 9(2)(j)", "45 CFR 164.502", "C-311/18", "个人信息保护法 38")
HEAD, RULE = "reviewer: none", "    law: [Act 44]"
FACTS = """\
retention:
  - {classes: [transfer], floor_days: 3650, law: [Act 9], confidence: low, source_kind: memory, source: From memory.}
deadlines:
  - {event: a breach, within: 72 hours, who: controller, law: [Act 33], confidence: low, source_kind: memory, source: From memory.}
"""  # noqa: E501
WHOLE = ALPHA_TEXT + FACTS
CASE = """\
schema: residency.law-cases/1
pack: eu
cases:
  - id: eu.one
    kind: region
    cites: [GDPR Art 44]
    says: A case of its own, to see what is refused.
    transfer: {artifact: dp_update, from: DE, to: CN}
    expect: {effect: deny, rule: eu.no-basis}
"""


def _refused(folder, text: str, old: str, new: str) -> str:
    """The message for the file with `old` replaced once, on whose line the mistake must be told."""
    assert text.count(old) >= 1
    path = folder / "file.yaml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    line = text[: text.index(old)].count("\n") + 1 + new[: new.rfind("\n") + 1].count("\n")
    with pytest.raises(InputError, match="RSD-3002") as e:
        load_pack(path, REGIONS)
    assert e.value.message.startswith(f"law pack file.yaml: line {line}: ")
    return e.value.message


@pytest.mark.parametrize("name", NOBODY)
@pytest.mark.parametrize("field", [HEAD, RULE])
def test_a_word_for_nobody_is_no_reviewer(name, field, tmp_path):
    new = f"reviewer: {name}" if field == HEAD else f"{RULE}\n    reviewer: {name}"
    message = _refused(tmp_path, ALPHA_TEXT, field, new)
    assert message.count("a person's name in two words or more, or exactly none") == 1


@pytest.mark.parametrize("name", PERSONS)
def test_a_person_is_a_reviewer_in_any_script(name):
    by = load_pack(ALPHA_TEXT.replace(HEAD, f"reviewer: {name}").encode(), REGIONS)
    assert by.reviewer == name.strip('"')
    assert not by.draft
    assert load_pack(ALPHA_TEXT.encode(), REGIONS).draft


@pytest.mark.parametrize("text", NO_CITATIONS)
@pytest.mark.parametrize("field", ["law: [Act 44]", "law: [Act 9]", "law: [Act 33]"])
def test_what_names_no_place_in_a_statute_is_no_citation(text, field, tmp_path):
    message = _refused(tmp_path, WHOLE, field, f"law: [{text}]")
    assert message.count("this is no citation") == 1
    assert "law[0]" in message


@pytest.mark.parametrize("text", CITATIONS)
def test_citations_are_stripped(text):
    pack = load_pack(WHOLE.replace("law: [Act 9]", f'law: ["  {text} "]').encode(), REGIONS)
    assert pack.retention[0].law == (text,)


@pytest.mark.parametrize("text", NO_CITATIONS)
def test_a_case_cites_as_a_rule_does(text, tmp_path):
    path = tmp_path / "eu.yaml"
    path.write_text(CASE, encoding="utf-8")
    assert load_cases(path).cases[0].cites == ("GDPR Art 44",)
    path.write_text(CASE.replace("GDPR Art 44", text), encoding="utf-8")
    with pytest.raises(InputError, match=r"line 6: cases\[0\].cites\[0\]: this is no citation"):
        load_cases(path)


@pytest.mark.parametrize(
    ("old", "value"),
    [
        ("verified_on: 2018-05-25", "2026-13-22"),
        ("expires_on: 2027-06-30", "2027-06-31"),
        ("expires_on: 2026-12-01", "2026-02-29"),
        ("expires_on: 2026-12-01", "tomorrow"),
    ],
)
def test_a_day_that_is_none_is_told_once_with_its_value(old, value, tmp_path):
    name = old.split(":", maxsplit=1)[0]
    message = _refused(tmp_path, ALPHA_TEXT, old, f"{name}: {value}")
    assert message.count(f"(found '{value}')") == 1
    assert message.count("line ") == 1


def test_days_of_a_pack_in_the_wrong_order_are_told_once(tmp_path):
    text = ALPHA_TEXT.replace("    expires_on: 2026-12-01\n", "")
    message = _refused(tmp_path, text, "expires_on: 2027-06-30", "expires_on: 2018-05-25")
    assert message.count("verified_on must come before expires_on") == 1


def test_a_rule_is_primary_only_if_all_it_rests_on_was_read_there():
    """By their own `source`; and `url` says where that was."""
    part = ("secondary", "summar", "commentar", "described in", "law firm", "general knowledge")
    rules = [rule for pack in builtin_packs().values() for rule in pack.rules if rule.source_kind == "primary"]
    assert rules
    assert [rule.id for rule in rules if any(word in rule.source.lower() for word in part)] == []
    assert [rule.id for rule in rules if not rule.url.startswith("http")] == []


def test_every_shipped_file_keeps_to_the_fields():
    assert all(rule.law or rule.house.note for pack in builtin_packs().values() for rule in pack.rules)
    assert all(case.cites for file in load_folder() for case in file.cases)
