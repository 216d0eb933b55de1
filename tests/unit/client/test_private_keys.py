"""An agent whose private keys or secrets others may read does not start."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.home import AgentConfig, AgentHome, new_node_key
from compliance.canonical import canonical
from compliance.identity import save_signer
from tests.desk import refused, signer


@pytest.fixture
def home(tmp_path: Path) -> AgentHome:
    """As `agent enroll` leaves it, without a certificate."""
    save_signer(signer("agent", "berlin"), tmp_path / "keys")
    new_node_key(tmp_path / "keys" / "node.key")
    doors = dict.fromkeys(("server", "governance", "enrolment"), "127.0.0.1:9")
    config = AgentConfig(
        schema="residency.agent/1", site="berlin", jurisdiction="DE", consortium="c", operator="hub", **doors
    )
    (tmp_path / "agent.json").write_bytes(canonical(config.model_dump(mode="json", by_alias=True)))
    made = AgentHome(tmp_path)
    made.secret()
    return made


@pytest.mark.parametrize("names", [("keys/agent.key",), ("keys/node.key",), ("keys/agent.key", "keys/node.key")])
def test_a_start_without_a_key_names_it_and_the_way_on(home: AgentHome, names: tuple[str, ...]) -> None:
    for name in names:
        (home.path / name).unlink()
    error = refused(3, "RSD-1237", "agent", "start", "--home", home.path)
    assert error["found"] == f"no {', no '.join(names)}"
    assert "restore a backup made with --keys" in error["next"]


@pytest.mark.parametrize("name", ["agent.key", "node.key", "rows.secret"])
def test_a_start_with_a_key_that_others_may_read_is_refused(home: AgentHome, name: str) -> None:
    file = home.path / "keys" / name
    file.chmod(0o640)
    error = refused(3, "RSD-6022", "agent", "start", "--home", home.path)
    assert (error["found"], error["limit"]) == ("mode 0640", "mode 0600")
    assert f"chmod 600 {file}" in error["next"]
    file.chmod(0o600)
    refused(4, "RSD-6211", "agent", "start", "--home", home.path)  # the next thing that it lacks
