"""The operator's law set: which packs it applies, by its own signed declaration or all of them."""

from pathlib import Path

import pytest

from compliance.clock import now
from compliance.errors import Refused
from compliance.identity import seal
from compliance.law.law_adoption import adoption_record, draft_law_set
from compliance.law.model import Count, Document, Guarantees, Party, Transfer
from compliance.law.pack import builtin_packs
from compliance.law.regions import load_regions
from compliance.log.store import LogStore
from compliance.trust.home import OperatorHome
from server import law
from tests.desk import OPERATOR, Office, consortium, day, make_trusted_office, ok, refused

REASON = "We do no business in California."
WORLD = consortium()


def american(**left_out: str):
    """The law set of an operator in the US."""
    packs = {name.replace("_", "-"): reason for name, reason in left_out.items()}
    return draft_law_set(OPERATOR, "US", builtin_packs(), load_regions(), packs)


@pytest.fixture
def home(tmp_path: Path) -> OperatorHome:
    """The trust file of a consortium whose operator is in the US."""
    operator = {"name": OPERATOR, "jurisdiction": "US", "node_key": ""}
    (tmp_path / "trust.json").write_bytes(WORLD.trust("berlin", "leeds", operator=operator).encode() + b"\n")
    return OperatorHome(tmp_path)


def adopt(home: OperatorHome, law_set) -> None:
    signed = seal(adoption_record(law_set, now(), "", "The operator has no officer."), WORLD.operator)
    home.law_file.write_bytes(signed.encode() + b"\n")


def abroad() -> Transfer:
    """The model goes to a site in Germany, with papers and guarantees."""
    kinds = ("hipaa_data_use_agreement", "onward_prohibition", "ccpa_research_basis")
    papers = tuple(Document(kind=k, sha256="cd" * 32, expires=day(100), covers="berlin") for k in kinds)
    given = Guarantees(unit="record", epsilon_milli=3000, inverse_delta=100_000, min_sites=3)
    return Transfer(
        artifact="aggregate", exporter=Party(name=OPERATOR, jurisdiction="US"),
        recipient=Party(name="berlin", jurisdiction="DE"), purpose="scientific_research", study="ab" * 32,
        at=day(0), documents=papers, guarantees=given,
        counts=(Count(counter="us_12_months", recipient="berlin", at_most=10_000, categories=("health",)),),
    )  # fmt: skip


def decided(home: OperatorHome):
    opened = law.operator_law(home)
    return law.operator_engine(opened.law_set if opened else None).decide(abroad())


def test_without_a_law_set_every_pack_that_binds_is_applied(home: OperatorHome) -> None:
    found = decided(home)
    assert {"us-ca", "us-hipaa", "us-202"} <= found.packs.keys()
    assert (found.not_binding, found.law_set) == ((), "")
    assert (found.effect, found.rule) == ("deny", "us-ca.abroad")


def test_what_is_declared_as_not_binding_is_not_asked(home: OperatorHome) -> None:
    adopt(home, american(us_ca=REASON))
    found = decided(home)
    assert (found.rule.split(".")[0], found.not_binding) == ("us-hipaa", ("us-ca",))
    made = american(us_ca=REASON, us_hipaa="No covered entity and nobody's business associate.")
    adopt(home, made)
    found = decided(home)
    assert (found.effect, found.rule, found.law_set) == ("allow", "us-202.aggregate", made.digest)
    assert (set(found.packs), found.not_binding) == ({"us-202"}, ("us-ca", "us-hipaa"))
    law.check_operator_law(home)


def test_a_set_without_a_declaration_applies_all_that_bind(home: OperatorHome) -> None:
    adopt(home, american())
    assert set(decided(home).packs) == set(american().adopted) >= {"us-ca", "us-hipaa", "us-202"}


def test_it_is_judged_by_a_trust_file_only(home: OperatorHome) -> None:
    adopt(home, american())
    home.trust_file.unlink()
    for ask in (law.operator_law, law.check_operator_law):
        with pytest.raises(Refused) as error:
            ask(home)
        assert error.value.code == "RSD-3040"
    home.law_file.unlink()
    assert law.operator_law(home) is None
    law.check_operator_law(home)


# --- by the commands ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Office:
    """A trusted office whose operator, in Ireland, has drafted its law set."""
    made = make_trusted_office(tmp_path_factory.mktemp("office"))
    ok("law", "init", "--site", OPERATOR, "--jurisdiction", "IE", "--out", made.root / "set.json")
    return made


def _adopt(office: Office, key: Path, *more: object) -> list[object]:
    return ["law", "adopt", office.root / "set.json", "--key", key, *more, "--out", office.root / "law.json"]


def test_the_operator_adopts_its_own_set_with_its_own_key_and_a_reason(office: Office) -> None:
    reason = ("--without-advice", "The operator has no officer.")
    refused(4, "RSD-2202", *_adopt(office, office.operator_key))
    refused(4, "RSD-3031", *_adopt(office, office.key("berlin", "signatory"), *reason))
    refused(4, "RSD-6008", *_adopt(office, office.key("berlin", "dpo"), *reason))
    ok("law", "init", "--site", "berlin", "--jurisdiction", "DE", "--out", office.root / "berlin.json")
    refused(4, "RSD-3031", "law", "adopt", office.root / "berlin.json", "--key", office.operator_key, *reason,
            "--out", office.root / "x.json")  # fmt: skip
    done = ok(*_adopt(office, office.operator_key, *reason, "--trust", office.trust))
    assert done["digest"] == draft_law_set(OPERATOR, "IE", builtin_packs(), load_regions(), {}).digest

    place, file = OperatorHome(office.home), office.root / "law.json"
    for _ in range(2):  # the second time it is there already
        law.install(place, file)
    assert place.law_file.read_bytes() == file.read_bytes()
    opened = law.operator_law(place)
    assert opened is not None
    with LogStore.open(place.log_file, f"residency/thyroid/{OPERATOR}", place.signer().private) as log:
        bodies = [e.body for e in log.entries(kind="law")]
    assert [(b["site"], b["law_set"], b["digest"]) for b in bodies] == [(OPERATOR, done["digest"], opened.digest)]


def test_nothing_is_installed_before_there_is_a_trust_file(office: Office, tmp_path: Path) -> None:
    ok("consortium", "init", "new", "--operator", OPERATOR, "--jurisdiction", "IE", "--threshold", 1,
       "--server", "127.0.0.1:9092", "--home", tmp_path / "hub")  # fmt: skip
    file = tmp_path / "law.json"
    file.write_bytes(seal(adoption_record(american(), now(), "", "No officer."), WORLD.operator).encode())
    refused(4, "RSD-3040", "server", "start", "--home", tmp_path / "hub", "--law", file)
    assert not (tmp_path / "hub" / "law.json").exists()
