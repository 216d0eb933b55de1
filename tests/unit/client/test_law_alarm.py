"""Evaluators that disagree: denied, said at once, and told by the doctor until somebody looked."""

import pytest

from compliance.doctor_facts import log_check
from compliance.errors import Refused
from compliance.law import decide
from compliance.law.alarm import disagreements
from compliance.law.python_eval import Verdict
from tests.federation import joined_home, main_study, open_home


def test_a_disagreement_is_denied_said_and_told_by_the_doctor(tmp_path, monkeypatch, capsys):
    with open_home(joined_home("a", tmp_path)) as site:
        case = site.joined_case(main_study().digest)
        assert log_check(site.log, whole=True).state == "ok"
        monkeypatch.setattr(decide, "evaluate", lambda *_: Verdict(True, frozenset({"eu.update.within"})))
        with pytest.raises(Refused, match="disagree"):
            site.let_out(case, "plain_update", case.operator())
        (index,) = disagreements(site.log)
        said = capsys.readouterr().err
        assert f"ALARM law: entry {index} of the log: The evaluators disagree about pack eu" in said
        found = log_check(site.log, whole=True)
        assert (found.state, f"entry {index}" in str(found.found)) == ("fail", True)


def test_a_denial_on_which_both_agree_is_no_alarm(tmp_path, capsys):
    with open_home(joined_home("a", tmp_path)) as site:
        case = site.joined_case(main_study().digest)
        with pytest.raises(Refused):
            site.let_out(case, "plain_update", case.operator())
        assert disagreements(site.log) == ()
    assert "ALARM" not in capsys.readouterr().err
