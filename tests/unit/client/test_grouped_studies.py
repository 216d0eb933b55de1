"""A study that names region groups: the sites of a group refuse today's updates, at the join and in the dry run."""

import pytest

from client import session
from client.dry_run import dry_run
from compliance.errors import Refused
from tests.federation import consortium, entries, open_home

GROUPS = [{"name": "union", "sites": ["a", "d"]}]


@pytest.fixture(scope="module")
def grouped():
    return consortium().sign_study(name="grouped", groups=GROUPS)


@pytest.mark.parametrize("site", ["a", "d"])
def test_a_site_of_a_group_refuses_and_says_what_is_needed(grouped, tmp_path, site):
    with open_home(consortium().copy_home(site, tmp_path)) as opened:
        with pytest.raises(Refused) as refused:
            session.answer(opened, grouped.join())
        assert refused.value.code == "RSD-3100"
        assert refused.value.rule.startswith("engine.group-export")
        assert "secure aggregation" in f"{refused.value}"
        denial = entries(opened, "decision")[-1]
        assert (denial.body["transfer"]["group"], denial.body["allow"]) == ("union", False)
        assert not entries(opened, "join", "charge", "transfer")


def test_a_site_outside_the_groups_joins(grouped, tmp_path):
    with open_home(consortium().copy_home("b", tmp_path)) as opened:
        assert session.answer(opened, grouped.join()).body


def test_the_dry_run_says_so_before_anybody_approves(grouped, tmp_path):
    home = consortium().copy_home("a", tmp_path)
    file = tmp_path / "study.json"
    file.write_bytes(grouped.data + b"\n")
    with pytest.raises(Refused, match=r"engine\.group-export"):
        dry_run(home, file)
