"""Access, covered persons, categories and region groups: what a study may say, and each mistake."""

import pytest

from compliance.study import Study, study_mistakes
from compliance.study_template import kinds, template
from compliance.validation import load_model
from tests.desk import full_study, ok, run, write_yaml


def _fields(**changes):
    return {str(m.field) for m in study_mistakes(full_study(**changes))}


def _site(**changes):
    first, *rest = full_study()["sites"]
    return [{**first, **changes}, *rest]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"sites": _site(access=["DE"])}, "sites[0].access[0]"),
        ({"sites": _site(access=["US", "US"])}, "sites[0].access[1]"),
        ({"sites": _site(access=["US", "XX"])}, "sites[0].access[1]"),
        ({"operator": {"name": "hub", "jurisdiction": "IE", "access": ["IE"]}}, "operator.access[0]"),
        ({"sites": _site(jurisdiction="XX")}, "sites[0].jurisdiction"),
        ({"operator": {"name": "hub", "jurisdiction": "ZZ"}}, "operator.jurisdiction"),
        ({"data_categories": ["health", "health"]}, "data_categories[1]"),
        ({"groups": [{"name": "x", "sites": ["berlin", "nowhere"]}]}, "groups[0].sites[1]"),
        ({"groups": [{"name": "x", "sites": ["berlin", "leeds", "berlin"]}]}, "groups[0].sites[2]"),
        ({"groups": [{"name": "x", "sites": ["berlin"]}]}, "groups[0].sites"),
        (
            {"groups": [{"name": "x", "sites": ["berlin", "leeds"]}, {"name": "y", "sites": ["leeds", "osaka"]}]},
            "groups[1].sites[0]",
        ),
        (
            {"groups": [{"name": "x", "sites": ["berlin", "leeds"]}, {"name": "x", "sites": ["osaka"]}]},
            "groups[1].name",
        ),
    ],
    ids=[
        "own",
        "twice",
        "no-country",
        "operator",
        "site-nowhere",
        "operator-nowhere",
        "category",
        "stranger",
        "again",
        "alone",
        "two-groups",
        "one-name",
    ],
)
def test_each_mistake_is_told_with_its_field(changes, field):
    assert field in _fields(**changes)


def test_a_study_with_access_categories_and_groups_has_no_mistakes():
    groups = [{"name": "west", "sites": ["berlin", "leeds"]}]
    found = load_model(
        Study,
        full_study(sites=_site(access=["US", "CN"], covered_person=True), groups=groups, data_categories=["omic"]),
        "RSD-2007",
        "study",
    )
    assert (found.sites[0].access, found.sites[0].covered_person) == (("US", "CN"), True)
    assert (found.data_categories, found.groups[0].sites) == (("omic",), ("berlin", "leeds"))


@pytest.mark.parametrize("category", ["health ", "genetic", ""])
def test_a_category_that_no_rule_knows_is_refused(category):
    with pytest.raises(Exception, match="data_categories"):
        load_model(Study, full_study(data_categories=[category]), "RSD-2007", "study")


def test_show_says_who_reaches_what_and_that_grouped_sites_will_refuse(tmp_path):
    study = full_study(
        sites=_site(access=["US"], covered_person=True), groups=[{"name": "west", "sites": ["berlin", "leeds"]}]
    )
    file = write_yaml(tmp_path / "study.yaml", study)
    assert ok("study", "check", file)["mistakes"] == []
    shown = run("study", "show", file).output
    for text in ("berlin from US", "28 CFR 202.211", "west: berlin, leeds", "engine.group-export"):
        assert text in shown


@pytest.mark.parametrize("kind", kinds())
def test_each_template_shows_the_fields(kind):
    text = template(kind).decode()
    assert all(word in text for word in ("data_categories:", "groups:", "covered_person", "sole_record"))
