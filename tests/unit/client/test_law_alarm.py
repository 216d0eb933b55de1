"""Evaluators that disagree: denied, said at once, and told by doctor and status until the alarm has aged."""

import pytest

from compliance.clock import now
from compliance.doctor_facts import alarms_check
from compliance.errors import Refused
from compliance.law import decide
from compliance.law.python_eval import Verdict
from compliance.log.alarms import alarms_of
from tests.federation import joined_home, main_study, open_home


def test_a_disagreement_is_denied_said_and_told_by_the_doctor(tmp_path, monkeypatch, capsys):
    with open_home(joined_home("a", tmp_path)) as site:
        case = site.joined_case(main_study().digest)
        assert alarms_check(alarms_of(site.log), now()).state == "ok"
        monkeypatch.setattr(decide, "evaluate", lambda *_: Verdict(True, frozenset({"eu.update.within"})))
        for _ in range(2):
            with pytest.raises(Refused, match="disagree"):
                site.let_out(case, "plain_update", case.operator())
        (told,) = alarms_of(site.log)
        assert (told.code, told.about) == ("RSD-5109", "plain_update to hub")
        (decision,) = [e for e in site.log.entries(kind="decision") if e.index == told.index - 1]
        assert told.found.startswith(f"entry {decision.index}: The evaluators disagree about pack eu")
        said = capsys.readouterr().err
        assert said.count("ALARM RSD-5109 evaluators disagree: plain_update to hub") == 1
        found = alarms_check(alarms_of(site.log), now())
        assert (found.state, f"entry {told.index}" in found.found) == ("fail", True)


def test_a_denial_on_which_both_agree_is_no_alarm(tmp_path, capsys):
    with open_home(joined_home("a", tmp_path)) as site:
        case = site.joined_case(main_study().digest)
        with pytest.raises(Refused):
            site.let_out(case, "plain_update", case.operator())
        assert alarms_of(site.log) == ()
    assert "ALARM" not in capsys.readouterr().err
