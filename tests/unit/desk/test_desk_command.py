"""`residency audit serve` as a process: one line with the address, errors with their codes, an end when told."""

from __future__ import annotations

import json
import signal
import ssl
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from compliance.commands import desk
from compliance.tls import make_tls
from residency import cli
from tests.desk_world import desk_of, marked_bundle, marked_world, write

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    (folder / "trust.json").write_bytes(marked_world().trust)
    return write(folder / "bundle", marked_bundle()), folder / "trust.json"


def _error(*words):
    done = CliRunner().invoke(cli, ["audit", "serve", *map(str, words), "--json"])
    found = json.loads(done.stdout)
    assert found["schema"] == "residency.audit.serve/1"
    return done.exit_code, found["error"]["code"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_it_serves_until_it_is_told_to_end(given, how):
    bundle, trust = given
    words = [sys.executable, "residency.py", "audit", "serve", str(bundle), "--trust", str(trust), "--json"]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            told = json.loads(process.stdout.readline())
            assert (told["ok"], told["places"], told["false"]) == (True, 1, 0)
            address = told["address"]
            assert address.startswith("http://127.0.0.1:")
            page = httpx.get(address)
            assert page.status_code == 200
            assert "server" not in page.headers
            assert httpx.get(address, headers={"host": "evil.example"}).status_code == 421
            with httpx.stream("GET", f"{address}verify/1") as check:
                assert check.headers["transfer-encoding"] == "chunked"
                assert "VERIFIED" in check.read().decode()
        finally:
            process.send_signal(how)
        rest, errors = process.communicate(timeout=20)
        assert (rest, errors.strip()) == ("", "")
        assert process.returncode == 0


def test_what_is_wrong_is_said_with_its_code(given, tmp_path):
    bundle, trust = given
    open_token = tmp_path / "token"
    open_token.write_text("x" * 40)
    open_token.chmod(0o644)
    assert _error(bundle) == (5, "RSD-6015")
    assert _error(tmp_path / "nothing", "--trust", trust) == (3, "RSD-2005")
    assert _error(bundle, "--trust", trust, "--host", "0.0.0.0") == (2, "RSD-9188")  # noqa: S104
    assert _error(bundle, "--trust", trust, "--token-file", open_token) == (3, "RSD-9187")
    assert _error(bundle, "--trust", trust, "--host", "192.0.2.1", "--port", "1") == (2, "RSD-9188")


def test_over_tls_only_who_knows_the_token_reads(given, tmp_path):
    bundle, trust = given
    (tmp_path / "token").write_text(secret := "t0ken" * 10)
    (tmp_path / "token").chmod(0o600)
    files = make_tls(tmp_path / "tls", ("localhost",))
    words = [sys.executable, "residency.py", "audit", "serve", str(bundle), "--trust", str(trust), "--json"]
    words += ["--host", "0.0.0.0", "--token-file", str(tmp_path / "token")]  # noqa: S104 - what the test is about
    words += ["--tls-cert", str(files.certificate), "--tls-key", str(files.key)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            address = json.loads(process.stdout.readline())["address"].replace("0.0.0.0", "localhost")  # noqa: S104
            assert address.startswith("https://")
            with httpx.Client(verify=ssl.create_default_context(cafile=str(files.ca)), base_url=address) as reader:
                assert reader.get("/").status_code in {303, 401}
                assert reader.get("/", headers={"authorization": f"Bearer {'f' * 50}"}).status_code in {303, 401}
                entered = reader.get("/", headers={"authorization": f"Bearer {secret}"})
                assert (entered.status_code, "site-a" in entered.text) == (200, True)
                assert secret not in entered.text
            with pytest.raises(httpx.HTTPError):
                httpx.get(address.replace("https:", "http:"))
        finally:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)


def test_half_of_a_certificate_is_none(given, tmp_path):
    bundle, trust = given
    files = make_tls(tmp_path / "tls")
    certificate, key = files.certificate, files.key
    (tmp_path / "note").write_text("no key")
    assert _error(bundle, "--trust", trust, "--tls-cert", certificate) == (2, "RSD-9188")
    assert _error(bundle, "--trust", trust, "--tls-key", key) == (2, "RSD-9188")
    assert _error(bundle, "--trust", trust, "--tls-cert", certificate, "--tls-key", tmp_path / "note") == (
        3,
        "RSD-9192",
    )


def test_a_port_that_is_taken_is_named(given):
    import socket

    bundle, trust = given
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert _error(bundle, "--trust", trust, "--port", taken.getsockname()[1]) == (7, "RSD-9189")


def test_without_the_extra_it_says_what_to_install(given):
    bundle, trust = given
    words = ["residency", "audit", "serve", str(bundle), "--trust", str(trust), "--json"]
    code = f"import sys; sys.modules['uvicorn'] = None; sys.argv = {words}; import residency; residency.main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (7, "RSD-7002")


def test_the_line_for_people_tells_what_does_not_verify(given, tmp_path, capsys):
    changed = {**marked_bundle(), "model/README.md": b"another card"}
    found = desk_of(given[0], write(tmp_path / "changed", changed))
    desk._announce("http://127.0.0.1:1/", found, as_json=False)
    assert capsys.readouterr().out == "desk: http://127.0.0.1:1/ (1 of 2 places do not verify; Ctrl-C ends it)\n"


def test_the_command_starts_without_the_web_packages():
    code = "import sys, compliance.commands.audit; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "compliance.commands.desk" in loaded
    assert not {"starlette", "uvicorn", "matplotlib", "jinja2"} & loaded
