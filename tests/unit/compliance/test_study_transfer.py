"""What is decided on is made of the study alone, and made again by whoever checks it."""

import pytest

from compliance.law.counters import Counters
from compliance.law.model import Count, Party
from compliance.study import Study
from compliance.study_transfer import differences, parties, quorum_patients, transfer_of
from compliance.validation import load_model
from tests.desk import full_study

DIGEST, AT = "ab" * 32, "2026-11-22T12:00:00Z"


def _study(**changes):
    raw = full_study(groups=[{"name": "west", "sites": ["berlin", "leeds"]}], data_categories=["health", "omic"])
    raw["sites"][0] |= {"access": ["US"], "covered_person": True}
    for site, count in zip(raw["sites"], (900, 700, 1000), strict=True):
        site["records_public"] = count
    return load_model(Study, {**raw, **changes}, "RSD-2007", "study")


STUDY = _study()
PATIENTS = _study(
    privacy={"unit": "patient", "group_column": "id", "inverse_delta": 100_000, "clip_micro": 10**6, "spare_rounds": 1}
)


def _sent(study=STUDY, exporter="berlin", artifact="dp_update", recipient="hub", **more):
    return transfer_of(study, DIGEST, exporter, artifact, parties(study)[recipient], at=AT, **more)


def test_everything_that_a_rule_may_ask_for_comes_from_the_study():
    found = _sent()
    assert found.exporter == Party(name="berlin", jurisdiction="DE", access=("US",), covered_person=True)
    assert (found.controllers, found.categories) == (STUDY.controllers, ("health", "omic"))
    assert [d.id for d in found.documents] == [d.id for d in STUDY.documents]
    assert (found.group, found.group_members) == ("west", ("berlin", "leeds"))
    assert (found.guarantees.keys_in, found.guarantees.secure_aggregation_threshold) == (("DE",), 0)
    assert not found.guarantees.group_sum
    assert _sent(exporter="hub", artifact="aggregate", recipient="osaka").group == ""


def test_patients_are_counted_only_where_the_study_says_that_records_are_patients():
    assert _sent().guarantees.min_patients == 0
    assert _sent(PATIENTS).guarantees.min_patients == 900
    assert _sent(PATIENTS, artifact="metric").guarantees.min_patients == 900
    assert quorum_patients(PATIENTS) == 700 + 900  # a quorum of two, the smallest
    for exporter in ("berlin", "hub"):
        for artifact in ("aggregate", "released_model"):
            found = _sent(PATIENTS, exporter, artifact, "osaka")
            assert found.guarantees.min_patients == 1600
    sole = [{**s.model_dump(), "sole_record": s.name != "osaka"} for s in STUDY.sites]
    assert quorum_patients(_study(sites=sole)) == 0 + 700


def test_what_the_study_makes_has_no_differences():
    assert differences(STUDY, DIGEST, _sent(onward=(parties(STUDY)["leeds"],))) == []


def _count(**changes):
    return Count(
        **{"counter": "us_12_months", "recipient": "hub", "at_most": 100, "categories": ("health",), **changes}
    )


CHANGES = [
    ("exporter", lambda t: {"exporter": t.exporter.model_copy(update={"access": ()})}),
    ("exporter", lambda t: {"exporter": t.exporter.model_copy(update={"covered_person": False})}),
    ("parties", lambda t: {"recipient": t.recipient.model_copy(update={"jurisdiction": "FR"})}),
    ("parties", lambda _: {"onward": (parties(STUDY)["berlin"].model_copy(update={"access": ()}),)}),
    ("documents", lambda t: {"documents": (*t.documents, t.documents[0].model_copy(update={"kind": "scc"}))}),
    ("documents", lambda t: {"documents": (t.documents[0].model_copy(update={"id": "x"}), *t.documents[1:])}),
    ("guarantees", lambda t: {"guarantees": t.guarantees.model_copy(update={"min_patients": 10})}),
    ("guarantees", lambda t: {"guarantees": t.guarantees.model_copy(update={"epsilon_milli": 1})}),
    ("guarantees", lambda t: {"guarantees": t.guarantees.model_copy(update={"group_sum": True})}),
    ("controllers", lambda _: {"controllers": ("nobody",)}),
    ("categories", lambda _: {"categories": ("health",)}),
    ("group", lambda _: {"group": ""}),
    ("group_members", lambda _: {"group_members": ("berlin", "leeds", "hub")}),
    ("purpose", lambda _: {"purpose": "publication"}),
    ("study", lambda _: {"study": "cd" * 32}),
    ("counts", lambda _: {"counts": (_count(at_most=999),)}),
    ("counts", lambda _: {"counts": (_count(recipient="stranger"),)}),
]


@pytest.mark.parametrize(
    ("field", "change"), CHANGES, ids=[f"{field}-{number}" for number, (field, _) in enumerate(CHANGES)]
)
def test_each_field_that_is_told_otherwise_is_named(field, change):
    told = _sent()
    assert field in {name for name, _, _ in differences(STUDY, DIGEST, told.model_copy(update=change(told)))}


def _abroad(jurisdiction, unit="patient"):
    """The study with berlin moved, where what it sends is counted; 900 persons, if its units are patients."""
    study = PATIENTS if unit == "patient" else STUDY
    berlin = study.sites[0].model_copy(update={"jurisdiction": jurisdiction, "access": ()})
    return study.model_copy(update={"sites": (berlin, *study.sites[1:])})


def _operated(study, jurisdiction):
    return study.model_copy(update={"operator": study.operator.model_copy(update={"jurisdiction": jurisdiction})})


def _counts(study, *counts, onward=(), artifact="released_model"):
    others = tuple(parties(study)[name] for name in onward)
    told = _sent(study, artifact=artifact, recipient="hub", onward=others, counts=counts)
    return [name for name, _, _ in differences(study, DIGEST, told)]


ALL = ("health", "omic")


@pytest.mark.parametrize(
    ("jurisdiction", "counter", "recipient"), [("US", "us_12_months", "hub"), ("CN", "cn_calendar_year", "*")]
)
def test_a_count_says_no_less_than_the_study(jurisdiction, counter, recipient):
    study = _abroad(jurisdiction)

    def told(at_most, categories=ALL, to=recipient):
        return _count(counter=counter, recipient=to, at_most=at_most, categories=categories)

    assert _counts(study, told(1_000)) == []
    assert _counts(study, told(100_000, (*ALL, "genomic"))) == []  # the site counts its whole source
    assert _counts(study) == ["counts"]
    assert _counts(study, told(100)) == ["counts"]
    assert _counts(study, told(1_000, ("health",))) == ["counts"]
    assert _counts(study, told(1_000, to="osaka")) == ["counts"]
    assert _counts(study, told(1_000), told(9_999)) == ["counts"]
    assert _counts(study, artifact="roster") == []
    unknown = _abroad(jurisdiction, "record")  # of how many persons the records are, the study does not say
    assert _counts(unknown, told(100)) == []
    assert _counts(unknown, told(100, ("health",))) == ["counts"]


def test_each_recipient_has_its_count_in_the_united_states():
    study = _abroad("US")
    hub, leeds = (_count(recipient=name, at_most=1_000, categories=ALL) for name in ("hub", "leeds"))
    assert _counts(study, hub, leeds, onward=("leeds",)) == []
    assert _counts(study, hub, onward=("leeds",)) == ["counts"]


def test_what_stays_in_china_adds_nobody():
    study = _operated(_abroad("CN"), "CN")
    assert _counts(study, _count(counter="cn_calendar_year", recipient="*", categories=())) == []
    assert _counts(study, _count(counter="cn_calendar_year", recipient="*", categories=()), onward=("leeds",)) == [
        "counts"
    ]


def test_an_operator_counts_the_sites_behind_its_model():
    study = _operated(PATIENTS, "US")

    def wrong(at_most, behind):
        count = _count(recipient="osaka", at_most=at_most, categories=ALL)
        told = _sent(study, "hub", "aggregate", "osaka", counts=(count,))
        return [name for name, _, _ in differences(study, DIGEST, told, behind)]

    assert wrong(1_000, {"berlin"}) == wrong(9_999, {"berlin", "leeds"}) == wrong(100, ()) == []
    assert wrong(1_000, {"berlin", "leeds"}) == ["counts"]  # 900 and 700


def test_what_is_told_is_what_the_counters_give(tmp_path):
    """A site with no fewer persons than the study says is never found wrong."""
    for jurisdiction in ("US", "CN", "DE"):
        study = _abroad(jurisdiction)
        known = parties(study)
        with Counters.open(tmp_path / f"{jurisdiction}.db") as counters:
            counts = counters.counts(known["berlin"], (known["hub"], known["leeds"]), "source", 900, ALL, AT)
        assert _counts(study, *counts, onward=("leeds",)) == []


def test_what_nobody_counts_has_no_counts():
    told = _sent(artifact="roster", counts=(_count(),))
    assert [name for name, _, _ in differences(STUDY, DIGEST, told)] == ["counts"]
