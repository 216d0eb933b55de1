"""`residency consortium invite|admit|renew|revoke|leave`: how sites come and go, and that no second CA appears."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest

from compliance.clock import now
from compliance.identity import load_signer
from compliance.log.store import LogStore
from compliance.pki import read_site_certificate
from compliance.tls import certificate_days_left
from compliance.trust.home import OperatorHome
from compliance.trust.membership import open_leave, open_suspension
from compliance.trust.root import load_anchor
from tests.desk import SITES, Office, make_trusted_office, ok, refused, run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Office:
    return make_trusted_office(tmp_path_factory.mktemp("members"))


@pytest.fixture
def office(made: Office, tmp_path: Path) -> Office:
    shutil.copytree(made.root, tmp_path / "w")
    return Office(tmp_path / "w")


def acts(office: Office) -> list[str]:
    """What the operator's log holds of its own acts."""
    signer = load_signer(office.home / "keys" / "operator.key")
    with LogStore.open(office.home / "log.db", "residency/thyroid/hub", signer.private) as log:
        return [e.body["act"] for e in log.entries(kind="consortium")]


def test_installing_issues_a_certificate_to_each_member(office: Office) -> None:
    anchor = load_anchor(office.trust)
    for site in SITES:
        found = read_site_certificate((office.home / "certificates" / f"{site}.crt").read_bytes())
        assert (found.site, found.consortium) == (site, "thyroid")
        assert found.public_key.decode() == anchor.trust.site(site).node_key
    assert acts(office) == ["invite"] * 3 + ["draft", "trust"] + ["certificate"] * 3
    before = (office.home / "certificates" / "leeds.crt").read_bytes()
    (office.home / "certificates" / "berlin.crt").write_bytes(b"damaged")
    again = ok("consortium", "admit", "--install", office.trust, "--home", office.home)
    assert again["certificates"] == ["berlin"]
    assert (office.home / "certificates" / "leeds.crt").read_bytes() == before


def test_without_requests_all_that_wait_are_admitted(office: Office) -> None:
    out = office.root / "next.json"
    error = refused(4, "RSD-6218", "consortium", "admit", "--home", office.home, "--out", out)
    assert error["found"] == "3 requests with an invitation that holds, all in the trust file"
    shutil.rmtree(office.home / "requests")
    refused(4, "RSD-6218", "consortium", "admit", "--home", office.home, "--out", out)
    assert not out.exists()


def test_an_invitation_serves_one_request_by_file_too(office: Office, tmp_path: Path) -> None:
    from tests.desk import enrol

    first = office.root / "berlin" / "request.json"
    shutil.rmtree(office.root / "berlin" / "agent")
    for name in ("signatory", "dpo"):
        for suffix in (".key", ".pub.json"):
            (office.root / "berlin" / f"{name}{suffix}").unlink()
    first.unlink()
    second = enrol(office, "berlin")
    error = refused(4, "RSD-6214", "consortium", "admit", second, "--home", office.home, "--out", tmp_path / "d.json")
    assert "somebody else" in error["next"]


def test_renewing_keeps_the_ca(office: Office) -> None:
    tls = office.home / "tls"
    kept = {n: (tls / n).read_bytes() for n in ("ca.crt", "ca.key", "server.key")}
    before = (tls / "server.crt").read_bytes()
    assert ok("consortium", "renew", "--days", 90, "--home", office.home)["days_left"] in {89, 90}
    assert {n: (tls / n).read_bytes() for n in kept} == kept
    assert (tls / "server.crt").read_bytes() != before
    certificate = office.home / "certificates" / "leeds.crt"
    old = read_site_certificate(certificate.read_bytes())
    ok("consortium", "renew", "leeds", "--days", 20, "--home", office.home)
    new = read_site_certificate(certificate.read_bytes())
    assert (new.public_key, new.serial != old.serial) == (old.public_key, True)
    assert certificate_days_left(certificate, now()) in {19, 20}
    refused(3, "RSD-6010", "consortium", "renew", "lyon", "--home", office.home)


def test_a_suspension_is_the_operators_alone_and_changes_no_trust(office: Office) -> None:
    before = office.trust.read_bytes()
    done = ok("consortium", "revoke", "leeds", "--reason", "node stolen", "--home", office.home)
    assert (done["suspended"], done["draft"]) == (True, None)
    operator = load_signer(office.home / "keys" / "operator.key").identity
    data = (office.home / "suspended" / "leeds.json").read_bytes()
    assert open_suspension(data, operator, "x").reason == "node stolen"
    assert office.trust.read_bytes() == before
    refused(3, "RSD-6010", "consortium", "revoke", "lyon", "--reason", "x", "--home", office.home)
    ok("consortium", "revoke", "leeds", "--lift", "--reason", "found again", "--home", office.home)
    assert not (office.home / "suspended" / "leeds.json").exists()
    refused(3, "RSD-6220", "consortium", "revoke", "leeds", "--lift", "--reason", "x", "--home", office.home)
    assert acts(office)[-2:] == ["suspend", "lift"]
    both = run("consortium", "revoke", "leeds", "--lift", "--reason", "x", "--out", "x", "--home", office.home)
    assert both.exit_code == 2


def test_revoking_needs_the_sites_signatures(office: Office) -> None:
    draft, before = office.root / "next.json", load_anchor(office.trust)
    ok("consortium", "revoke", "osaka", "--reason", "project over", "--out", draft, "--home", office.home)
    for site, met in (("berlin", False), ("leeds", True)):
        assert ok("consortium", "sign", draft, "--key", office.key(site, "signatory"))["threshold_met"] == met
    refused(4, "RSD-6018", "consortium", "sign", draft, "--key", office.key("osaka", "signatory"))
    done = ok("consortium", "admit", "--install", draft, "--home", office.home)
    assert [s["name"] for s in done["trust"]["sites"]] == ["berlin", "leeds"]
    after = load_anchor(office.trust)
    for role in ("agent", "signatory", "dpo"):
        key = after.trust.keys_of(role, "osaka")[0]  # type: ignore[arg-type]
        assert key.revoked_at == after.trust.issued
        assert key.keyid == before.trust.keys_of(role, "osaka")[0].keyid  # type: ignore[arg-type]


def test_too_few_would_be_left(office: Office) -> None:
    first, second = office.root / "one.json", office.root / "two.json"
    ok("consortium", "revoke", "osaka", "--reason", "x", "--out", first, "--home", office.home)
    for site in ("berlin", "leeds"):
        ok("consortium", "sign", first, "--key", office.key(site, "signatory"))
    ok("consortium", "admit", "--install", first, "--home", office.home)
    args = ("consortium", "revoke", "leeds", "--reason", "x", "--home", office.home)
    refused(4, "RSD-6017", *args, "--out", second)
    assert (office.home / "suspended" / "leeds.json").exists(), "no draft is possible, but the doors close"
    assert not second.exists()


def test_a_site_leaves_by_its_own_signature(office: Office) -> None:
    out = office.root / "leave.json"
    args = ("consortium", "leave", "--trust", office.trust, "--reason", "project ended", "--out", out)
    refused(4, "RSD-6008", *args, "--key", office.key("leeds", "dpo"))
    ok(*args, "--key", office.key("leeds", "signatory"))
    assert open_leave(out.read_bytes(), load_anchor(office.trust), "x").site == "leeds"
    refused(3, "RSD-2009", *args, "--key", office.key("leeds", "signatory"))
    revoke = ("consortium", "revoke", "--reason", "it left", "--leave", out, "--home", office.home)
    refused(4, "RSD-6217", *revoke, "berlin")
    forged = office.root / "forged.json"
    forged.write_bytes(out.read_bytes().replace(b'"sig":"', b'"sig":"A', 1))
    assert run("consortium", "revoke", "leeds", "--reason", "x", "--leave", forged, "--home", office.home).exit_code
    assert not (office.home / "suspended").exists()
    ok(*revoke, "leeds")
    operator = load_signer(office.home / "keys" / "operator.key").identity
    suspension = open_suspension((office.home / "suspended" / "leeds.json").read_bytes(), operator, "x")
    assert suspension.ground == open_leave(out.read_bytes(), load_anchor(office.trust), "x").digest


def test_the_operator_cannot_sign_a_leave_for_a_site(office: Office, tmp_path: Path) -> None:
    ok("key", "new", "--role", "signatory", "--holder", "leeds", "--out", tmp_path)
    out = tmp_path / "leave.json"
    args = ("consortium", "leave", "--trust", office.trust, "--reason", "x", "--out", out)
    refused(1, "RSD-6217", *args, "--key", tmp_path / "signatory.key")
    assert not out.exists()


@pytest.mark.parametrize("name", ["keys/operator.key", "tls/ca.crt", "tls/ca.key", "tls/server.crt", "tls/server.key"])
def test_no_command_makes_a_second_root(office: Office, name: str) -> None:
    (office.home / name).unlink()
    before = {p: p.read_bytes() for p in office.home.rglob("*") if p.is_file()}
    out = office.root / "out.json"
    for args in (
        ("invite", "lyon", "--jurisdiction", "FR", "--out", out),
        ("admit", "--out", out),
        ("admit", "--install", office.trust),
        ("renew",),
        ("renew", "leeds"),
        ("revoke", "leeds", "--reason", "x"),
        ("revoke", "leeds", "--lift", "--reason", "x"),
    ):
        error = refused(3, "RSD-6215", "consortium", *args, "--home", office.home)
        assert (error["found"], "backup" in error["next"]) == (f"missing: {name}", True)
    refused(3, "RSD-2009", "consortium", "init", "thyroid", "--operator", "hub", "--jurisdiction", "IE",
            "--threshold", 1, "--server", "h:1", "--home", office.home)  # fmt: skip
    assert {p: p.read_bytes() for p in office.home.rglob("*") if p.is_file()} == before
    assert not out.exists()
    refused(3, "RSD-6215", "server", "start", "--home", office.home)
    assert not (office.home / name).exists()


def test_only_init_can_make_a_ca() -> None:
    """In the source: who calls `make_tls`, and who signs certificates at all."""
    callers = []
    for folder in ("compliance", "client", "server", "strategies", "demo"):
        for path in (ROOT / folder).rglob("*.py"):
            names = {n.id for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Name)}
            if "make_tls" in names:
                callers.append(str(path.relative_to(ROOT)))
    assert callers == ["compliance/commands/consortium.py"]
    assert OperatorHome(Path("x")).tls == Path("x/tls")
