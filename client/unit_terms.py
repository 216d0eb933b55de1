"""Whether a dataset can carry the privacy unit of a study: judged by what was declared at its registration.

Every figure in these refusals is public: the study's, or the rounded one that the site declared. The real number of
rows or people decides nothing: q, denominator and delta are constants of the study, whatever it is.
"""

from __future__ import annotations

from client.home import DatasetRecord
from compliance.errors import Refused
from compliance.policy import SitePolicy
from compliance.study import SiteTerms, Study


def check_unit(policy: SitePolicy, study: Study, terms: SiteTerms, dataset: DatasetRecord) -> None:
    """The unit fits the extract. Raises Refused RSD-2413, RSD-2415, RSD-3062, RSD-2260, RSD-2261."""
    if terms.sole_record and dataset.several_rows:
        raise Refused(
            "RSD-3062",
            f"study {study.name} says that nobody has two rows in dataset {dataset.name}, and somebody has",
            rule="sites[].sole_record",
            found="several rows of one person",
            limit="one row a person",
            next="have the study proposed without sole_record for this site",
        )
    if study.privacy.unit == "patient":
        _check_group_column(study, dataset)
    elif dataset.several_rows and "record" not in policy.units:
        raise Refused(
            "RSD-2415",
            f"study {study.name} protects records, and dataset {dataset.name} has several of one person",
            rule="policy.units: sole_record",
            found="a record-level study",
            limit="a patient-level one, or an extract with one row a person",
            next="have the study proposed with the patient as its unit",
        )
    _check_counts(study, terms, dataset)


def _check_group_column(study: Study, dataset: DatasetRecord) -> None:
    """Any other column could give one person to several units, each with an eps of its own."""
    if (study.privacy.group_column,) == dataset.patient_columns:
        return
    raise Refused(
        "RSD-2413",
        f"study {study.name} groups dataset {dataset.name} by another column than the one that identifies its patients",
        rule="the unit is the person as the extract was registered",
        found=study.privacy.group_column,
        limit=" with ".join(dataset.patient_columns),
        next="have the study name the patient column, or register an extract in which one column identifies the person",
    )


def _check_counts(study: Study, terms: SiteTerms, dataset: DatasetRecord) -> None:
    unit = study.privacy.unit
    declared = dataset.declared_patients if unit == "patient" else dataset.declared
    if terms.records_public > declared:
        raise Refused(
            "RSD-2260",
            f"study {study.name} counts on more {unit}s than dataset {dataset.name} declares",
            rule="records_public is at most the declared number, in the study's unit",
            found=terms.records_public,
            limit=declared,
            next=f"have the study proposed with records_public {declared} for this site",
        )
    if study.privacy.inverse_delta < 10 * declared:
        raise Refused(
            "RSD-2261",
            f"the delta of study {study.name} is too large for dataset {dataset.name}",
            rule=f"delta is at most 1 / (10 declared {unit}s)",
            found=f"1/{study.privacy.inverse_delta}",
            limit=f"1/{10 * declared}",
            next="have the study proposed with a smaller delta",
        )
