"""The study file: one clear mistake for each thing wrong, and what is filled in."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compliance.canonical import sha256_hex
from compliance.errors import InputError
from compliance.privacy.accounting import epsilon
from compliance.study import Study, study_mistakes
from compliance.study_event import study_event
from compliance.study_file import check_file, complete, noise_for
from compliance.validation import load_model, try_model
from tests.desk import day, full_study, study_raw, write_yaml


def setter(*path: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(raw: dict[str, Any]) -> None:
        target: Any = raw
        for part in path[:-1]:
            target = target[part]
        target[path[-1]] = value

    return change


def remover(*path: str | int) -> Callable[[dict[str, Any]], None]:
    def change(raw: dict[str, Any]) -> None:
        target: Any = raw
        for part in path[:-1]:
            target = target[part]
        del target[path[-1]]

    return change


def twice(raw: dict[str, Any]) -> None:
    raw["sites"].append(copy.deepcopy(raw["sites"][0]))


PAPER = {"id": "dpia", "kind": "dpia", "title": "t", "expires": "2099-01-01"}
MISTAKES: list[tuple[Callable[[dict[str, Any]], None], str, str]] = [
    (setter("extra", value=1), "extra", "unknown field"),
    (setter("privacy", "epsilon", value=1), "privacy.epsilon", "unknown field"),
    (remover("purpose"), "purpose", "missing"),
    (remover("sites", 1, "batch"), "sites[1].batch", "missing"),
    (setter("sites", 0, "epsilon_milli", value=0), "sites[0].epsilon_milli", "found 0"),
    (setter("sites", 0, "epsilon_milli", value=-1), "sites[0].epsilon_milli", "found -1"),
    (setter("sites", 0, "epsilon_milli", value=0.5), "sites[0].epsilon_milli", "found 0.5"),
    (setter("sites", 0, "epsilon_milli", value="8"), "sites[0].epsilon_milli", "found '8'"),
    (setter("sites", 0, "epsilon_milli", value=True), "sites[0].epsilon_milli", "found True"),
    (setter("privacy", "inverse_delta", value=9_999), "privacy.inverse_delta", "1/9999 is above"),
    (setter("privacy", "inverse_delta", value=0), "privacy.inverse_delta", "found 0"),
    (twice, "sites[3].name", "listed twice (first as sites[0])"),
    (setter("sites", 2, "batch", value=1001), "sites[2].batch", "1001 is above records_public 1000"),
    (setter("quorum", "sites", value=4), "quorum.sites", "4 is above the 3 sites"),
    (setter("quorum", "sites", value=1), "quorum.sites", "found 1"),
    (setter("documents", 1, "expires", value="2020-01-01"), "documents[1].expires", "before the end of the study"),
    (setter("documents", 1, "expires", value="2030-02-30"), "documents[1].expires", "no day of the calendar"),
    (setter("documents", 1, "id", value="dpia"), "documents[1].id", "listed twice"),
    (setter("starts", value="2030-13-01"), "starts", "no day of the calendar"),
    (setter("starts", value="tomorrow"), "starts", "found 'tomorrow'"),
    (setter("ends", value="2020-01-01"), "ends", "2020-01-01 is not after starts"),
    (setter("aggregation", "average_last_rounds", value=6), "aggregation.average_last_rounds", "6 is above"),
    (setter("purpose", value="marketing"), "purpose", "found 'marketing'"),
    (setter("task", "label_other", value="what"), "task", "which labels does not list"),
    (setter("model", "sha256", value="AB" * 32), "model.sha256", "match pattern"),
    (setter("schema", value="residency.study/2"), "schema", "found 'residency.study/2'"),
    (setter("sites", value=[]), "sites", "at least 1 item"),
    (setter("sites", value="many"), "sites", "found 'many'"),
    (setter("documents", 0, value=PAPER | {"file": "no.txt"}),
     "documents[0].file", "cannot read document"),
    (setter("documents", 0, value=PAPER | {"file": 3}),
     "documents[0].file", "found 3"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "field", "words"), MISTAKES)
def test_each_mistake_is_told_once_with_field_and_line(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], field: str, words: str
) -> None:
    raw = study_raw()
    change(raw)
    mistakes, study = check_file(write_yaml(tmp_path / "study.yaml", raw))
    assert study is None
    assert [m.field for m in mistakes] == [field], mistakes
    assert words in mistakes[0].message
    top = re.split(r"[.\[]", field)[0]
    assert mistakes[0].line == (list(raw).index(top) + 1 if top in raw else 1)


def test_many_mistakes_come_at_once(tmp_path: Path) -> None:
    raw = study_raw()
    for change, _, _ in MISTAKES[:3] + MISTAKES[9:10] + MISTAKES[15:16]:
        change(raw)
    mistakes, _ = check_file(write_yaml(tmp_path / "study.yaml", raw))
    assert {m.field for m in mistakes} == {
        "extra", "privacy.epsilon", "purpose", "privacy.inverse_delta", "documents[1].expires",
    }  # fmt: skip
    assert [m.line for m in mistakes] == sorted(m.line or 0 for m in mistakes)


def test_a_delta_too_large_for_many_sites_is_one_mistake() -> None:
    raw = full_study()
    raw["sites"][1]["records_public"] = 60_000
    raw["sites"][2]["records_public"] = 50_000
    (mistake,) = study_mistakes(raw)
    assert "1/600000 at site leeds" in mistake.message


def test_a_paper_must_outlive_the_study_to_the_second() -> None:
    raw = full_study(ends="2030-01-01T12:00:00Z", starts="2029-01-01")
    raw["documents"] = [{**d, "expires": "2030-01-01"} for d in raw["documents"]]
    assert [m.field for m in study_mistakes(raw)] == [f"documents[{i}].expires" for i in range(4)]


def test_more_steps_than_the_accounting_takes() -> None:
    raw = full_study()
    raw["training"] |= {"steps": 10_000, "rounds": 1000}
    (mistake,) = study_mistakes(raw)
    assert mistake.field == "training.steps"
    assert "10010000" in mistake.message


def test_complete_fills_in_what_the_file_leaves_out(tmp_path: Path) -> None:
    raw = study_raw()
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "dpia.txt").write_bytes(b"paper")
    raw["documents"][0] = {"id": "dpia", "kind": "dpia", "title": "t", "file": "papers/dpia.txt", "expires": day(200)}
    raw["sites"][1]["noise_multiplier_micro"] = 3_000_000
    before = copy.deepcopy(raw)
    done = complete(raw, tmp_path)
    assert raw == before
    study = load_model(Study, done, "RSD-2007", "study")
    assert study.documents[0].sha256 == sha256_hex(b"paper")
    assert "file" not in done["documents"][0]
    assert study.sites[1].noise_multiplier_micro == 3_000_000
    for terms in (study.sites[0], study.sites[2]):
        event = study_event(study, terms, study.charged_rounds)
        assert epsilon([event], 100_000) <= terms.epsilon_milli
        least = event.model_copy(update={"noise_multiplier_micro": int(terms.noise_multiplier_micro * 0.99)})
        assert epsilon([least], 100_000) > terms.epsilon_milli


def test_a_paper_whose_digest_is_another(tmp_path: Path) -> None:
    raw = study_raw()
    (tmp_path / "dpia.txt").write_bytes(b"paper")
    raw["documents"][0]["file"] = "dpia.txt"
    with pytest.raises(InputError) as e:
        complete(raw, tmp_path)
    assert e.value.code == "RSD-2007"
    assert sha256_hex(b"paper") in e.value.message


def test_noise_that_does_not_keep_its_epsilon(tmp_path: Path) -> None:
    raw = study_raw()
    for site in raw["sites"]:
        site["noise_multiplier_micro"] = 1_500_000
    raw["sites"][2]["noise_multiplier_micro"] = 300_000
    (mistake,), study = check_file(write_yaml(tmp_path / "study.yaml", raw))
    assert study is None
    assert mistake.field == "sites[2].noise_multiplier_micro"
    assert "300000 gives" in mistake.message
    assert "above epsilon_milli 8000" in mistake.message


def test_epsilon_fifty_can_be_written_down() -> None:
    """No site accepts it; but what is refused must be there to be refused."""
    _, study = try_model(Study, full_study())
    assert study is not None
    noise = noise_for(study, study.sites[0].model_copy(update={"epsilon_milli": 50_000}))
    assert 200_000 <= noise < noise_for(study, study.sites[0])


@pytest.mark.parametrize("text", ["", "- a", "just text", "3"])
def test_a_file_without_fields(tmp_path: Path, text: str) -> None:
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(InputError) as e:
        check_file(tmp_path / "study.yaml")
    assert e.value.code == "RSD-2007"
