"""The closed word lists of law packs: a word outside them is a mistake in the pack, never a silent mismatch."""

from __future__ import annotations

from typing import Literal, get_args

Artifact = Literal[
    "raw_record",
    "embedding",
    "gradient",
    "plain_update",
    "dp_update",
    "masked_update",
    "aggregate",
    "released_model",
    "metric",
    "dataset_descriptor",
    "answer",
    "roster",
    "log_checkpoint",
    "log_export",
    "conformance_report",
    "support_file",
]
Purpose = Literal[
    "scientific_research", "public_health", "quality_improvement", "study_administration", "audit", "publication"
]
# What the persons' data are; each has thresholds of its own in some regime.
Category = Literal["health", "omic", "genomic", "biometric", "geolocation"]
CounterName = Literal["cn_calendar_year", "us_12_months"]
RecordClass = Literal[
    "decision",
    "transfer",
    "charge",
    "answer",
    "roster",
    "release",
    "checkpoint",
    "access",
    "withdrawal",
    "incident",
]
DocumentKind = Literal[
    "dpia",
    "art6_basis",
    "art9_basis",
    "ethics",
    "controller_agreement",
    "processor_agreement",
    "adequacy_confirmation",
    "scc",
    "bcr",
    "tia",
    "idta",
    "uk_addendum",
    "uk_transfer_test",
    "swiss_basis",
    "swiss_scc",
    "ehds_permit",
    "baa",
    "hipaa_authorization",
    "hipaa_waiver",
    "hipaa_deidentification",
    "hipaa_data_use_agreement",
    "onward_prohibition",
    "doj_license",
    "ccpa_research_basis",
    "pipl_contract",
    "pipl_certification",
    "cac_assessment",
    "pipia",
    "separate_consent",
    "hgr_filing",
    "appi_consent",
    "appi_equivalent_system",
    "appi_information",
    "pipl_basis",
]
Confidence = Literal["high", "medium", "low"]
SourceKind = Literal["primary", "secondary", "memory", "house"]  # memory: from general knowledge, read nowhere
Effect = Literal["allow", "deny"]
Unit = Literal["none", "record", "patient"]
Via = Literal["recipient", "access", "onward"]  # how a party comes to hold what leaves

# What no pack may ever let out: records, or values from which records are read back with ordinary means.
NEVER_LEAVES: frozenset[str] = frozenset({"raw_record", "embedding", "gradient"})
# What no rule may allow although no statute says so: updates without noise, and files made to find faults.
NEVER_ALLOWED: frozenset[str] = NEVER_LEAVES | {"plain_update", "support_file"}
# Kinds that the software builds without patient data: only for these may an allow rule stand on a house note alone.
METADATA: frozenset[str] = frozenset(
    {"answer", "roster", "log_checkpoint", "log_export", "dataset_descriptor", "conformance_report"}
)
# What one site learned by itself: where a study names region groups, only sums of the group leave it.
ONE_SITES_UPDATE: frozenset[str] = frozenset({"plain_update", "dp_update", "masked_update", "metric"})
# Papers that hold for a recipient, not for a country as such: confirmations (PIPEDA, DPF, APPI), and contracts, which
# are with somebody. A licence, an assessment and a certification examine who receives. Several recipients are several
# rows of one file.
NAMES_ITS_RECIPIENT: frozenset[str] = frozenset(
    {
        *("adequacy_confirmation", "appi_equivalent_system", "onward_prohibition"),
        *("scc", "bcr", "idta", "uk_addendum", "swiss_scc", "baa", "hipaa_data_use_agreement", "doj_license"),
        *("pipl_contract", "pipl_certification", "cac_assessment"),
    }
)
# Assessments of a country's law: these must name the country.
NAMES_ITS_DESTINATION: frozenset[str] = frozenset({"tia", "uk_transfer_test"})
# Papers that are asked for because something crosses a border, not for the processing itself.
TRANSFER_BASES: frozenset[str] = frozenset(
    {
        *("adequacy_confirmation", "scc", "bcr", "tia", "idta", "uk_addendum", "uk_transfer_test", "swiss_scc"),
        *("pipl_contract", "pipl_certification", "cac_assessment", "hgr_filing"),
        *("appi_consent", "appi_equivalent_system", "appi_information", "onward_prohibition", "doj_license"),
    }
)
# What a reader who does not know the identifiers is shown beside them.
ARTIFACT_WORDS: dict[Artifact, str] = {
    "raw_record": "a record of a person",
    "embedding": "a vector computed from one record",
    "gradient": "a gradient of single records",
    "plain_update": "the site's update without noise",
    "dp_update": "the site's noised update",
    "masked_update": "the site's noised update, masked until it is summed",
    "aggregate": "the combined update of all sites",
    "released_model": "the finished model",
    "metric": "a noised result of the evaluation",
    "dataset_descriptor": "the description of the site's data set",
    "answer": "the site's signed answer to the study",
    "roster": "the signed list of who takes part in a round",
    "log_checkpoint": "the signed state of the site's log",
    "log_export": "entries of the site's log",
    "conformance_report": "the outcome of the site's own checks",
    "support_file": "a file made to find a fault",
}
ARTIFACTS: tuple[str, ...] = get_args(Artifact)
PURPOSES: tuple[str, ...] = get_args(Purpose)
CATEGORIES: tuple[str, ...] = get_args(Category)
COUNTERS: tuple[str, ...] = get_args(CounterName)
RECORD_CLASSES: tuple[RecordClass, ...] = get_args(RecordClass)
DOCUMENT_KINDS: tuple[str, ...] = get_args(DocumentKind)
