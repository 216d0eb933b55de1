"""The patient as the unit: what an extract declares, which studies it can carry, and what the ledger makes of both."""

import json

import numpy as np
import pytest

from client import enrolment, registration, session, subjects
from client.data.withdrawals import excluded_rows
from client.home import AgentHome
from compliance.errors import Refused
from compliance.identity import parse_envelope
from compliance.privacy.events import UNITS
from tests.desk import ok, refused
from tests.federation import DATA_TERMS, DATASET, consortium, entries, open_home
from tests.tiny_bert import write_table

VISITS, SOURCE = "visits", "ward"
PATIENTS, ROWS = 83, 207
PATIENT = {"unit": "patient", "group_column": "patient_id", "records_per_unit": 3, "inverse_delta": 100_000,
           "clip_micro": 1_000_000, "spare_rounds": 1}  # fmt: skip
RECORD = {"unit": "record", "inverse_delta": 100_000, "clip_micro": 1_000_000, "spare_rounds": 1}


def write_visits(path, rows=ROWS, patients=PATIENTS, first=500):
    """Several visits of most patients; identifiers as an export writes them: with zeros before, or quoted."""
    rng = np.random.default_rng(4)
    lines = ["TSH,age,target,patient_id,visit,bed"]
    for i in range(rows):
        patient = first + i % patients
        written = f"00{patient}" if i % 2 else f" {patient} "
        lines.append(f"{rng.uniform(0, 9):.3f},{rng.integers(20, 90)},{'-' if i % 3 else 'K'},{written},{i},{i % 40}")
    path.write_text("\n".join(lines) + "\n")
    return path


def add(home, path, name=VISITS, source=SOURCE, ids=("patient_id", "visit"), patients=("patient_id",)):
    return registration.add_dataset(home, name, path, source, ids, DATA_TERMS, patients).record


@pytest.fixture
def home(tmp_path):
    """Site a, whose policy allows patients, with visits registered."""
    return _home(tmp_path, units=["record", "patient"])


def _home(tmp_path, **policy):
    home = AgentHome(consortium().copy_home("a", tmp_path))
    file = tmp_path / "policy.json"
    file.write_bytes(consortium().sign_policy("a", **policy))
    enrolment.install_policy(home, file)
    add(home, write_visits(tmp_path / "visits.csv"))
    return home


def study(privacy=PATIENT, dataset=VISITS, public=80, **changes):
    """A study of all sites in which site a has `public` units."""
    sites = consortium().study()["sites"]
    sites[0] |= {"records_public": public, "batch": 8}
    return consortium().sign_study(dataset=dataset, privacy=privacy, sites=sites, **changes)


def join(site, signed):
    """Join with an approval under the policy that is installed."""
    advice = consortium().advice("a", signed.digest)
    policy = parse_envelope((site.home.path / "policy.json").read_bytes(), "policy").digest
    approval = consortium().approval("a", signed.digest, advice, policy=policy)
    answers = {**signed.answers("b", "c", "d", "e"), "a.advice.json": advice, "a.approval.json": approval}
    return session.answer(site, signed.join(answers))


def join_refused(home, signed, code):
    with open_home(home.path) as site:
        with pytest.raises(Refused) as error:
            join(site, signed)
        assert not entries(site, "reservation")
        assert entries(site, "refusal")[-1].body["code"] == code
    assert error.value.code == code
    return error.value


# --- what an extract declares ---------------------------------------------------------------------------------------


def test_rounded_rows_and_patients_are_declared_logged_and_shown_and_no_exact_number_is(home):
    shown = ok("agent", "dataset", "show", VISITS, "--home", home.path)
    assert (shown["declared"], shown["declared_patients"], shown["several_rows"]) == (210, 80, True)
    with open_home(home.path) as site:
        logged = entries(site, "dataset")[-1].body
    assert (logged["declared"], logged["declared_patients"], logged["several_rows"]) == (210, 80, True)
    for text in (json.dumps(shown), json.dumps(logged), (home.path / "registry.json").read_text()):
        words = text.replace('"', " ").replace(",", " ").replace(":", " ").split()
        assert str(PATIENTS) not in words
        assert str(ROWS) not in words


def test_an_extract_with_one_row_a_patient_says_so(home):
    first = ok("agent", "dataset", "show", DATASET, "--home", home.path)
    assert (first["declared"], first["declared_patients"], first["several_rows"]) == (200, 200, False)


# --- which studies it can carry -------------------------------------------------------------------------------------


def test_a_patient_study_is_joined_charged_and_told_to_the_training_as_one(home):
    signed = study()
    with open_home(home.path) as site:
        join(site, signed)
        session.answer(site, signed.round())
        (spec,) = site.workbench.specs
        assert (spec.unit, spec.records_per_unit) == ("patient", 3)
        assert (spec.sample_numerator, spec.sample_denominator, spec.expected_batch) == (8, 80, 8)
        (charge,) = site.ledger.charges(signed.digest)
        assert (charge.event.unit, charge.source) == ("patient", SOURCE)
        assert site.ledger.units(SOURCE) == ("patient",)
        assert [e.body["event"]["unit"] for e in entries(site, "reservation", "charge")] == ["patient", "patient"]


@pytest.mark.parametrize(
    ("column", "patients"),
    [("visit", ("patient_id",)), ("bed", ("patient_id",)), ("patient_id", ("patient_id", "bed"))],
)
def test_another_grouping_than_the_registered_patient_is_refused(home, tmp_path, column, patients):
    path = write_visits(tmp_path / "more.csv", first=7000)
    add(home, path, "more", "other-ward", ("visit", "patient_id"), patients)
    error = join_refused(home, study({**PATIENT, "group_column": column}, "more"), "RSD-2413")
    assert (error.found, error.limit) == (column, " with ".join(patients))


@pytest.mark.parametrize(("privacy", "declared"), [(PATIENT, 80), (RECORD, 210)])
def test_a_study_that_counts_on_more_units_than_declared_is_refused_with_public_numbers(home, privacy, declared):
    error = join_refused(home, study(privacy, public=declared + 1), "RSD-2260")
    assert (error.found, error.limit) == (str(declared + 1), str(declared))
    assert str(PATIENTS) not in f"{error} {error.next}".split()
    with open_home(home.path) as site:
        join(site, study(privacy, public=declared))


def test_a_delta_that_suits_the_study_s_count_and_not_the_declared_one_is_refused(tmp_path):
    home = _home(tmp_path, units=["record"], inverse_delta_at_least=1000)
    sites = [{**s, "records_public": 100, "batch": 10} for s in consortium().study()["sites"]]
    signed = consortium().sign_study(dataset=VISITS, privacy={**RECORD, "inverse_delta": 1500}, sites=sites)
    error = join_refused(home, signed, "RSD-2261")
    assert (error.found, error.limit) == ("1/1500", "1/2100")


def test_the_policy_decides_which_units_may_be_used(tmp_path):
    for i, (units, privacy, dataset, code) in enumerate(
        [
            (["patient"], RECORD, VISITS, "RSD-2101"),
            (["record"], PATIENT, VISITS, "RSD-2101"),
            (["sole_record"], RECORD, VISITS, "RSD-2415"),
            (["sole_record"], RECORD, DATASET, None),
            (["sole_record", "patient"], PATIENT, VISITS, None),
        ]
    ):
        folder = tmp_path / str(i)
        folder.mkdir()
        home = _home(folder, units=units)
        if code:
            join_refused(home, study(privacy, dataset), code)
        else:
            with open_home(home.path) as site:
                join(site, study(privacy, dataset))


# --- what the ledger makes of it ------------------------------------------------------------------------------------


def test_visits_and_patients_do_not_mix_on_one_source(home, tmp_path):
    with open_home(home.path) as site:
        join(site, study(RECORD))
    error = join_refused_after(home, study(PATIENT))
    assert (error.code, error.limit) == ("RSD-4108", "a study per record")
    file, _ = study(PATIENT).write(tmp_path / "desk")
    refused(4, "RSD-4108", "agent", "ledger", "plan", file, "--home", home.path)


def join_refused_after(home, signed):
    with open_home(home.path) as site:
        with pytest.raises(Refused) as error:
            join(site, signed)
        assert len(entries(site, "reservation")) == 1
    return error.value


def test_where_nobody_has_several_rows_both_units_are_one_and_mix(home):
    with open_home(home.path) as site:
        join(site, study(RECORD, DATASET))
        assert site.ledger.units("a-clinic") == UNITS
        join(site, study({**PATIENT, "records_per_unit": 1}, DATASET, name="another"))
        assert site.ledger.units("a-clinic") == UNITS


def test_an_extract_of_the_same_people_with_several_rows_inherits_the_unit(home, tmp_path):
    """The ledger is that of the people: a record-level study of one extract keeps patients of the other out."""
    more = add(home, write_visits(tmp_path / "again.csv", rows=150), "again", "elsewhere")
    assert more.source == SOURCE
    with open_home(home.path) as site:
        join(site, study(RECORD))
    assert join_refused_after(home, study(PATIENT, "again")).code == "RSD-4108"


def test_the_sole_row_of_a_person_is_not_taken_for_granted(home, tmp_path):
    """One patient twice, written in two ways, is enough."""
    path = write_table(tmp_path / "t.csv", 30)
    path.write_text(path.read_text().replace(",9003\n", ",009002\n"))
    assert registration.add_dataset(home, "twice", path, "w", ["patient_id"], DATA_TERMS).record.several_rows


def test_whoever_withdraws_takes_every_row_along_and_the_study_keeps_its_public_numbers(home):
    record = next(d for d in home.registry().datasets if d.name == VISITS)
    signed = study()
    with open_home(home.path) as site:
        join(site, signed)
    subjects.withdraw(home, subjects.read_ids(b"501"), "consent")
    gone = excluded_rows(home.path, VISITS, record.sha256)
    assert gone == tuple(i for i in range(ROWS) if i % PATIENTS == 1)
    assert len(gone) == 3
    with open_home(home.path) as site:
        session.answer(site, signed.round())
        (spec,) = site.workbench.specs
    assert (spec.sample_numerator, spec.sample_denominator, spec.expected_batch) == (8, 80, 8)
    assert next(d for d in home.registry().datasets if d.name == VISITS) == record
