"""A server and two nodes as real processes on loopback, with TLS, Flower's own processes and the installed apps.

Only the domain logic (client.session, server.coordinator) is replaced, in the started processes, by flower_scenario.
"""

import importlib.util
import io
import os
import signal
import ssl
import sys
import threading
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import pytest

from compliance.errors import EnvironmentFault, Refused, RunFailed
from server.doors import listen
from tests.doorstep import node_key

_spec = importlib.util.spec_from_file_location(
    "flower_deployment", Path(__file__).parent / "flower_scenario" / "deployment.py"
)
deploy = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(deploy)


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    with deploy.Deployment(tmp_path_factory.mktemp("federation")) as d:
        d.start_server()
        for name in d.names:
            d.start_node(name)
        d.wait(lambda: d.online() == 2, 30)
        yield d


def _bundle_with_code(bundle):
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(bundle)) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
        target.writestr("payload.py", "raise SystemExit('this must never run')\n")
    return out.getvalue()


def _status(federation, path, *, method="POST", data=b"", port=0, headers=None):
    context = ssl.create_default_context(cafile=str(federation.tls.ca))
    context.load_cert_chain(federation.base / "site-0.crt", federation.base / "site-0.key")
    url = f"https://127.0.0.1:{federation.ports[port]}{path}"
    request = urllib.request.Request(url, data=data, method=method, headers=headers or {})
    try:
        with urllib.request.urlopen(request, context=context, timeout=10) as response:  # noqa: S310
            return response.status
    except urllib.error.HTTPError as e:
        with e:
            return e.code


@pytest.fixture(scope="module")
def first_run(federation):
    return federation.run(rounds=3, size=10_000, kinds={"hello": 20, "join": 20, "witness": 20, "close": 1})


def _answers(result, kind):
    found = [a for a in result["answers"] if a["kind"] == kind]
    assert len(found) == 2
    return found


def test_arrays_travel_in_both_directions(federation, first_run, capsys):
    assert [r["right"] for r in first_run["rounds"]] == [True, True, True]
    assert first_run["study"] == deploy.STUDY
    assert sorted(a["body"] for a in _answers(first_run, "hello")) == ['{"home":"site-0"}', '{"home":"site-1"}']
    seconds = sorted(r["seconds"] for r in first_run["rounds"])[1]
    server, nodes = federation.server.pid, [n.pid for n in federation.nodes]
    rss = {"server": deploy.rss_mib(server), "superexec": [deploy.rss_mib(p) for p in deploy.children(server)]}
    rss |= {"serverapp": first_run["rss_mib"], "nodes": [deploy.rss_mib(p) for p in nodes]}
    with capsys.disabled():
        sys.stdout.write(f"\n[flower] 10k floats, 2 nodes: median {seconds:.2f} s a round; RSS MiB {rss}\n")
    assert max(*rss["nodes"], rss["server"]) < 400


def test_a_refusal_keeps_its_class_code_and_texts(first_run):
    for answer in _answers(first_run, "join"):
        assert (answer["error"], answer["exit"], answer["code"]) == ("Refused", 4, "RSD-1999")
        assert (answer["message"], answer["rule"], answer["next"]) == ("the site says no", "a rule", "ask")


def test_the_text_of_an_unexpected_error_stays_at_the_site(federation, first_run):
    assert {(a["code"], a["found"]) for a in _answers(first_run, "witness")} == {("RSD-8102", "ValueError")}
    assert "4711" not in str(first_run)
    assert "patient 4711" in (federation.base / "site-0.log").read_text()


def test_a_late_site_is_reported_after_the_time_out(first_run):
    assert {(a["error"], a["code"]) for a in _answers(first_run, "close")} == {("PeerUnreachable", "RSD-6102")}


@pytest.fixture(scope="module")
def refused_runs(federation):
    """A run with code in its bundle and a run whose settings are no study digest, at the same time."""
    code = federation.begin(_bundle_with_code(federation.bundle), study="c" * 64, kinds={"hello": 20}, rounds=1)
    settings = federation.begin(study="sigma=0", kinds={"hello": 20})
    return federation.end(code, "c" * 64)["answers"], federation.end(settings, "sigma=0")["answers"]


def test_a_bundle_with_code_is_refused_and_the_server_sees_why(refused_runs):
    assert len(refused_runs[0]) == 4
    for answer in refused_runs[0]:
        assert (answer["error"], answer["code"], answer["found"]) == ("Refused", "RSD-1103", "'payload.py'")


def test_run_settings_that_are_no_study_digest_are_refused_at_the_site(federation, refused_runs):
    assert [(a["error"], a["code"]) for a in refused_runs[1]] == [("Refused", "RSD-1105")] * 2
    with federation.control() as control, pytest.raises(RunFailed, match="start the run"):
        control.start_run(federation.bundle, {"study": deploy.STUDY, "noise-multiplier": "0"})


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/list-nodes",
        "/v1/control/start-run",
        "/v1/runtime/acquire-task",
        "/docs",
        "/openapi.json",
        "/health",
        "/",
        "/v1/fleet",
        "/v1/control/start-run?/v1/fleet/",
    ],
)
def test_the_public_door_has_the_fleet_interface_only(federation, path):
    assert _status(federation, path) == 404


@pytest.mark.parametrize("path", ["/v1/fleet/../control/start-run", "/v1/fleet/%2e%2e/control/start-run"])
def test_no_path_leads_around_the_public_door(federation, path):
    assert _status(federation, path) == 404


def test_the_public_door_bounds_requests(federation):
    assert _status(federation, "/v1/fleet/pull-messages", method="GET", data=None) == 405
    assert _status(federation, "/v1/fleet/pull-messages", headers={"Content-Length": str(2**40)}) == 413


def test_the_fleet_interface_refuses_unsigned_calls(federation):
    headers = {"Content-Type": "application/protobuf", "Accept": "application/protobuf"}
    assert _status(federation, "/v1/fleet/pull-messages", headers=headers) == 403
    assert _status(federation, "/v1/fleet/register-node", headers=headers) == 404


def test_the_private_door_wants_the_token_and_the_secret(federation):
    with federation.control("wrong") as control, pytest.raises(Refused) as refused:
        control.nodes()
    assert refused.value.code == "RSD-1123"
    assert _status(federation, "/v1/runtime/acquire-task", port=1) in {400, 401, 415}
    assert _status(federation, "/docs", port=1) == 404


def test_a_site_that_is_no_member_is_not_admitted(federation, tmp_path):
    from client.app import app
    from client.node import NodeConfig, run_node

    key = node_key(tmp_path / "other.key")
    certificate = federation.founded.certify("other", key, "site-9")
    stop, seen = threading.Event(), []

    def report(state):
        seen.append(state)
        stop.set()

    config = NodeConfig(
        federation.public, federation.tls.ca, certificate, tmp_path / "other.key", tmp_path, frozenset,
        lambda error: error,
    )  # fmt: skip
    run_node(config, app, stop, report)
    assert (seen[0].state, seen[0].error.code) == ("away", "RSD-6103")
    assert "RSD-6205" in seen[0].error.found
    assert federation.online() == 2


def test_a_taken_port_is_named(federation):
    with pytest.raises(EnvironmentFault) as fault:
        listen("127.0.0.1", federation.ports[0], "the public door")
    assert (fault.value.code, fault.value.found) == ("RSD-7101", "port in use")
    assert str(federation.ports[0]) in fault.value.message
    second = federation.spawn("server_main.py", federation.home, *federation.ports, log="second.log")
    assert second.wait(20) == 7
    assert "RSD-7101" in (federation.base / "second.log").read_text()


def test_after_a_killed_server_the_nodes_come_back_and_a_run_works(federation):
    old = [federation.server.pid, *deploy.children(federation.server.pid)]
    federation.server.send_signal(signal.SIGKILL)
    federation.server.wait(10)
    federation.wait(lambda: not any(_alive(pid) for pid in old), 15)
    assert federation.start_server()["nodes"] == 2
    federation.wait(lambda: federation.online() == 2, 30)
    assert [r["right"] for r in federation.run(rounds=1, size=100)["rounds"]] == [True]


def test_a_stopped_node_leaves_and_a_stopped_server_leaves_no_process(federation):
    node = federation.nodes[0]
    node.terminate()
    assert node.wait(15) == 0
    assert federation.online() == 1
    federation.start_node("site-0")
    federation.wait(lambda: federation.online() == 2, 10)
    children = deploy.children(federation.server.pid)
    assert children
    federation.server.terminate()
    assert federation.server.wait(20) == 0
    federation.wait(lambda: not any(_alive(pid) for pid in children), 5)


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
