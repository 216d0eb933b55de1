"""Places that cannot be read stand beside those that can, as FALSE; names from a log do no harm."""

from __future__ import annotations

import json
import re
from unittest.mock import patch

import pytest

from compliance.desk.app import app
from compliance.desk.ask import File
from compliance.errors import ResidencyError
from compliance.log.store import LogStore
from tests.desk_world import HOSTS, Reader, desk_of, marked_bundle, marked_world, write


@pytest.fixture
def bundle(tmp_path):
    return write(tmp_path / "bundle", marked_bundle())


def _with_compaction(tmp_path):
    made = marked_world()
    signer = made.log_signer("site-a").private
    accepts_all = patch("compliance.log.store.check_body")
    with accepts_all, LogStore.open(tmp_path / "home" / "log.db", made.origin("site-a"), signer) as log:
        log.append("compaction", {"record_class": 7})
        log.checkpoint()
    return tmp_path / "home"


def _malformed(tmp_path):
    (tmp_path / "log.json").write_text("{")
    return tmp_path / "log.json"


def _empty(tmp_path):
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


@pytest.mark.parametrize("bad", [_with_compaction, _malformed, _empty])
def test_a_place_that_cannot_be_read_is_false_and_the_others_are_shown(tmp_path, bundle, bad):
    path = bad(tmp_path)
    desk = desk_of(path, bundle, path)
    assert [desk.verdicts[p.number].error is None for p in desk.places] == [False, True, False]
    assert [bool(p.flaws) for p in desk.places] == [True, False, True]
    assert {log.place for log in desk.logs.values()} == {2}
    assert list(desk.logs) == list(range(1, len(desk.logs) + 1))
    browser = Reader(app(desk, hosts=HOSTS))
    text = browser.get("/").text
    assert f"<strong>FALSE: <bdi>{path.name}</bdi></strong>" in text
    assert text.count('<span class="badge bad">FALSE') == 2
    assert '<span class="badge ok">VERIFIED' in text
    for page in ("/verify", "/verify/1", "/logs", "/evidence", "/rounds", "/privacy"):
        assert browser.get(page).status_code == 200


def test_where_nothing_can_be_read_there_is_no_desk(tmp_path, bundle):
    with pytest.raises(ResidencyError) as caught:
        desk_of(_malformed(tmp_path))
    assert caught.value.code != "RSD-2005"
    with pytest.raises(ResidencyError) as caught:
        desk_of(bundle, tmp_path / "mistyped")
    assert caught.value.code == "RSD-2005"


@pytest.mark.parametrize("member", ['a";x="b', "больница", "a\\b", ".."])
def test_the_name_of_a_log_of_anybody_makes_a_plain_file_name(tmp_path, bundle, member):
    log = json.loads((bundle / "evidence" / "site-a.json").read_bytes())
    log["origin"] = f"residency/elsewhere/{member}"
    (tmp_path / "foreign.json").write_text(json.dumps(log))
    answer = Reader(app(desk_of(tmp_path / "foreign.json"), hosts=HOSTS)).get("/exports/1/jsonl")
    assert answer.status_code == 200
    assert re.fullmatch(
        r'attachment; filename="\w[\w.-]*l-unsigned\.zip"', answer.headers["content-disposition"], re.ASCII
    )


def test_a_name_keeps_its_ending():
    made = File("text/plain", b"", "ä" * 500 + ".zip").headers()["content-disposition"]
    assert made.endswith('_.zip"')
    assert len(made) < 250
