"""What `study check` finds beyond the schema, and the values that its JSON tells."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compliance.canonical import b64encode
from compliance.errors import InputError
from compliance.study import Study
from compliance.study_file import check_file
from compliance.validation import try_model
from tests.desk import day, full_study, ok, policy_raw, refused, run, signer, study_raw, write_yaml

Raw = dict[str, Any]


def template(text: str) -> Callable[[Raw], Raw]:
    """The study with this template."""
    return lambda raw: {**raw, "task": {**raw["task"], "template": text}}


def paper(**changes: str) -> Callable[[Raw], Raw]:
    """The study with one paper more."""
    more = {"id": "more", "kind": "adequacy_confirmation", "title": "t", "sha256": "cd" * 32, "expires": day(200)}
    return lambda raw: {**raw, "documents": [*raw["documents"], {**more, **changes}]}


def patients(column: str, **task: Any) -> Callable[[Raw], Raw]:
    """The study per patient."""
    return lambda raw: {
        **raw,
        "privacy": {**raw["privacy"], "unit": "patient", "group_column": column},
        "task": {**raw["task"], **task},
    }


def site_named(name: str) -> Callable[[Raw], Raw]:
    """The study whose last site has this name."""
    return lambda raw: {**raw, "sites": [*raw["sites"][:-1], {**raw["sites"][-1], "name": name}]}


FOUND: dict[str, tuple[Callable[[Raw], Raw], str, str]] = {
    "the operator as a site": (site_named("hub"), "sites[2].name", "hub"),
    "a controller without name": (lambda raw: {**raw, "controllers": ["a", " "]}, "controllers[1]", "an empty name"),
    "a controller twice": (lambda raw: {**raw, "controllers": ["a", "b", "a"]}, "controllers[2]", "a"),
    "a paper to elsewhere": (paper(covers="osaka", to_jurisdiction="CN"), "documents[4].to_jurisdiction", "CN"),
    "a paper of the operator": (paper(covers="hub", to_jurisdiction="DE"), "documents[4].to_jurisdiction", "DE"),
    "a paper from nobody": (
        paper(covers="osaka", from_jurisdiction="US", to_jurisdiction="JP"), "documents[4].from_jurisdiction", "US"),
    "a paper from itself": (paper(covers="osaka", from_jurisdiction="JP"), "documents[4].from_jurisdiction", "JP"),
    "the label in the text": (template("[age {age}.][ is {target}]"), "task.template", "{target}"),
    "the person in the text": (patients("nhs", template="{age} {nhs}"), "task.template", "{nhs}"),
    "a person as label": (patients("target"), "task.label_column", "target"),
    "open": (template("[age {age"), "task.template", "{ at character 5"),
    "not closed": (template("[age {age}"), "task.template", "the end at character 10"),
    "nested": (template("[a [{age}]]"), "task.template", "[ at character 3"),
    "unnamed": (template("{} {age}"), "task.template", "{ at character 0"),
    "no column": (template("hello"), "task.template", "no column at character 5"),
    "an attribute": (template("{age.__class__}"), "task.template", "{age.__class__}"),
    "a conversion": (template("{age!r}"), "task.template", "{age!r}"),
    "a format": (template("{age:>10}"), "task.template", "{age:>10}"),
    "digits": (template("{age:.2f}"), "task.template", "{age:.2f}"),
    "a place": (template("{0}"), "task.template", "{0}"),
    "an item": (template("{age[0]}"), "task.template", "{ at character 0"),
    "a blank": (template("{ }"), "task.template", "{ }"),
}  # fmt: skip


@pytest.mark.parametrize("what", FOUND)
def test_check_finds_it_and_says_both_values(tmp_path: Path, what: str) -> None:
    change, field, found = FOUND[what]
    (mistake,), study = check_file(write_yaml(tmp_path / "study.yaml", change(study_raw())))
    assert study is None
    assert (mistake.field, mistake.found) == (field, found)
    assert mistake.limit
    assert mistake.line


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: {**raw, "controllers": ["A university that is no member"]},
        paper(covers="osaka", from_jurisdiction="DE", to_jurisdiction="JP"),
        paper(covers="osaka"),
        paper(covers="an-outside-witness", to_jurisdiction="CH"),
        template("{t.stage} {1:12345} {rs9: alleles} {age (years)}"),
        patients("nhs"),
    ],
    ids=["controller", "paper", "paper anywhere", "witness", "columns", "patients"],
)
def test_what_it_must_let_pass(tmp_path: Path, change: Callable[[Raw], Raw]) -> None:
    mistakes, study = check_file(write_yaml(tmp_path / "study.yaml", change(study_raw())))
    assert study is not None, mistakes


def test_a_study_signed_before_these_rules_can_still_be_read() -> None:
    """A bundle of an earlier version keeps verifying: these are no rules of the schema."""
    for change, _, _ in FOUND.values():
        mistakes, study = try_model(Study, change(full_study()))
        assert study is not None, mistakes


def test_a_term_that_is_over_is_refused_at_check(tmp_path: Path) -> None:
    path = write_yaml(tmp_path / "study.yaml", study_raw(starts="2020-01-01", ends="2020-02-01"))
    error = refused(4, "RSD-2008", "study", "check", path)
    assert error["limit"] == "2020-02-01"
    assert error["found"].startswith(day(0)[:4])


# --- the values in JSON ---------------------------------------------------------------------------------------------


def test_the_first_mistake_s_values_stand_in_the_error_and_each_one_s_in_the_list(tmp_path: Path) -> None:
    raw = study_raw(purpose="sport", extra=1)
    raw["sites"][0]["batch"] = 1001
    del raw["dataset"]
    path = write_yaml(tmp_path / "study.yaml", raw)
    told = json.loads(run("study", "check", path, "--json").stdout)
    values = {m["field"]: (m["found"], m["limit"]) for m in told["mistakes"]}
    assert values == {
        "dataset": ("nothing", "a value"),
        "purpose": ("sport", "'scientific_research', 'public_health' or 'quality_improvement'"),
        "extra": ("1", "only fields of the schema"),
        "sites[0].batch": ("1001", "at most 1000"),
    }
    first = told["mistakes"][0]
    assert (told["error"]["found"], told["error"]["limit"]) == (first["found"], first["limit"])
    assert told["error"]["next"] == "correct the file, then check it again"


def test_a_policy_s_mistake_has_its_values(tmp_path: Path) -> None:
    path = write_yaml(tmp_path / "policy.yaml", policy_raw(epsilon_milli_at_most=0))
    error = refused(3, "RSD-2007", "policy", "check", path)
    assert (error["found"], error["limit"]) == ("0", "greater than or equal to 1")
    assert "[found" not in run("policy", "check", path).stderr, "the message says both already"


def test_yaml_that_cannot_be_read_has_its_values(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("a: 1\na: 2\n")
    error = refused(3, "RSD-2006", "study", "check", tmp_path / "study.yaml")
    assert error["found"] == "'a' stands twice"
    assert "YAML" in error["limit"]
    assert error["next"] == "correct the line"


def test_a_yaml_file_in_utf_16_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_bytes("a: 1\n".encode("utf-16"))
    error = refused(3, "RSD-2006", "study", "check", tmp_path / "study.yaml")
    assert (error["found"], error["next"]) == ("text that is not UTF-8", "save the file as UTF-8")


def test_fields_that_do_not_fit_are_told_in_words(tmp_path: Path) -> None:
    raw = study_raw()
    raw["task"]["label_other"] = "what"
    error = refused(3, "RSD-2007", "study", "check", write_yaml(tmp_path / "study.yaml", raw))
    assert (error["found"], error["limit"]) == (
        "label_values or label_other name ['what'], which labels does not list",
        "fields that fit each other",
    )


def test_an_unknown_country_is_one_mistake_and_its_papers_none(tmp_path: Path) -> None:
    raw = paper(covers="osaka", to_jurisdiction="JP")(study_raw())
    raw["sites"][2]["jurisdiction"] = "XX"
    mistakes, _ = check_file(write_yaml(tmp_path / "study.yaml", raw))
    assert [m.field for m in mistakes] == ["sites[2].jurisdiction"]


@pytest.mark.parametrize(
    ("code", "found", "words"),
    [
        ("RSD-6019", "A B", ("consortium", "init", "A B", "--operator", "hub", "--jurisdiction", "IE", "--threshold", 2,
                             "--server", "127.0.0.1:9092")),
        ("RSD-6003", "Berlin", ("key", "new", "--role", "dpo", "--holder", "Berlin")),
    ],
)  # fmt: skip
def test_a_name_that_is_none_is_told_with_what_one_is(
    tmp_path: Path, code: str, found: str, words: tuple[object, ...]
) -> None:
    flag = "--home" if words[0] == "consortium" else "--out"
    command = (*words, flag, tmp_path / "new")
    error = refused(3, code, *command)
    assert error["found"] == found
    assert "small letters" in error["limit"]
    assert f"next: {error['next']}" in run(*command).stderr
    assert error["next"]


def test_a_public_key_of_another_length_is_told_with_both() -> None:
    short = signer("dpo", "berlin").identity.model_copy(update={"public": b64encode(b"x" * 31)})
    with pytest.raises(InputError) as e:
        short.key()
    error = e.value
    assert (error.code, error.found) == ("RSD-6003", "31 bytes that are no Ed25519 key")
    assert error.limit
    assert error.next


def test_an_invitation_to_a_name_that_is_none(tmp_path: Path) -> None:
    ok("consortium", "init", "c", "--operator", "hub", "--jurisdiction", "IE", "--threshold", 2,
       "--server", "127.0.0.1:9092", "--home", tmp_path / "hub")  # fmt: skip
    command = ("consortium", "invite", "Lyon", "--jurisdiction", "FR", "--home", tmp_path / "hub", "--out",
               tmp_path / "i.json")  # fmt: skip
    error = refused(3, "RSD-6016", *command)
    assert (error["found"], "small letters" in error["limit"]) == ("Lyon", True)
    assert f"next: {error['next']}" in run(*command).stderr
