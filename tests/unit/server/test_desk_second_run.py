"""A study whose round was closed gets no second run: its sites sign one roster of a round and train it once."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from compliance.errors import Refused
from server import desk
from tests.federation import main_study
from tests.local_run import World


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A study with a run that ended; the server's door is a stand-in."""
    monkeypatch.setattr(desk, "open_control", lambda _: nullcontext(SimpleNamespace(nodes=lambda: ())))
    made = World(tmp_path)
    made.begin()
    made.folder.finish("failed", 1, None)
    return made


def _start(world, study=None):
    file, answers = (world.study, world.answers) if study is None else study
    return desk.start_run(world.hub, file, answers, b"bundle")


def test_a_run_that_closed_no_round_is_followed_by_another(world):
    assert world.folder.after_failure.endswith("start a new run")
    assert _start(world).run != world.folder.run


def test_after_a_closed_round_a_new_study_is_asked_for(world, tmp_path):
    world.folder.write_roster(1, b"{}")
    with pytest.raises(Refused) as error:
        _start(world)
    assert (error.value.code, world.folder.run in error.value.message) == ("RSD-8308", True)
    assert len(list((world.hub / "runs").iterdir())) == 1
    assert world.folder.after_failure.endswith("propose a new study")
    _start(world, main_study().write(tmp_path / "another"))


def test_the_closed_round_of_any_earlier_run_counts(world):
    first = world.folder
    world.begin()
    world.folder.finish("failed", 0, None)
    first.write_roster(1, b"{}")
    with pytest.raises(Refused) as error:
        _start(world)
    assert (error.value.code, first.run in error.value.message) == ("RSD-8308", True)
