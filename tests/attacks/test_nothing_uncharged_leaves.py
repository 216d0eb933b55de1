"""Whoever reads all that leaves a site learns no statistic that was not charged: not how many, not what they are like.

Two sites that differ in three records only, with the same declared numbers, say the same. What stays open is listed in
docs/guarantees.md: that a site fails, and how long it takes.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from client import registration, session
from client.home import AgentHome
from client.training.session import prepare
from compliance import messages
from compliance.canonical import sha256_hex
from compliance.errors import ResidencyError
from compliance.evaluation.histogram import Histogram
from compliance.messages import CloseRequest, WitnessRequest, decode, encode
from compliance.release import bodies
from strategies.wire import Request
from tests.federation import DATA_TERMS, consortium, entries, open_home
from tests.tiny_bert import save_tiny_bert, tiny_task, tiny_work, write_table

ROWS = (198, 203)  # both are declared as 200

# Every field that travels to the server or stands in a log. A new one is judged before it is added here: does it depend
# on records, and if so, was it charged?
FIELDS = {
    messages.JoinReply: "schema_ site layout device decisions adoption law_advice offer",
    messages.RoundReply: "schema_ site attempt update_sha256 charge commit decision transfer offer",
    messages.EvaluateReply: "schema_ site histogram charge evaluation decision transfer offer",
    Histogram: "schema_ study site at model_sha256 noise_multiplier_micro scale rows columns cells",  # cells: charged
    messages.WitnessReply: "schema_ site roster cosigned refused offer",
    messages.CloseReply: "schema_ site evidence offer",
    messages.LayoutEntry: "name shape a_width",
    bodies.ReservationBody: "source study_epsilon_milli inverse_delta event also",
    bodies.ChargeBody: "source round attempt event seq head base_sha256",
    bodies.EvaluationBody: "digest model_sha256 conformance",
    bodies.CommitBody: "round attempt update_sha256 conformance",
    bodies.TransferBody: "artifact recipient round attempt sha256 decision",
    bodies.JoinBody: "run approval_policy law_set device layout_sha256",
    bodies.CloseBody: "rounds rosters entries entries_sha256",
}


@pytest.mark.parametrize("model", FIELDS, ids=lambda m: m.__name__)
def test_every_field_that_leaves_was_judged(model):
    assert set(model.model_fields) == set(FIELDS[model].split())


def _plain(value):
    """What could be a statistic: structure, numbers, truth values, words. Digests, times and signatures go."""
    if isinstance(value, dict):
        return {k if not re.fullmatch(r"\d+", k) else "*": _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, str) and not re.fullmatch(r"[a-zA-Z_ .,:-]{0,80}", value):
        return "*"
    return value


def _site(tmp_path, rows):
    """Site a with `rows` people more, in an extract of their own."""
    folder = tmp_path / str(rows)
    folder.mkdir()
    home = AgentHome(consortium().copy_home("a", folder))
    path = write_table(folder / "more.csv", rows)
    rng = np.random.default_rng(rows)
    lines = path.read_text().replace(",9", ",5").splitlines()
    lines = [lines[0], *(f"{rng.uniform(0, 9):.4f},{line.split(',', 1)[1]}" for line in lines[1:])]
    path.write_text("\n".join(lines) + "\n")
    registration.add_dataset(home, "more", path, "elsewhere", ["patient_id"], DATA_TERMS)
    return home


def test_two_sites_with_other_records_and_the_same_declaration_say_the_same(tmp_path):
    study = consortium().sign_study(dataset="more")
    answers = study.answers()
    said = []
    for rows in ROWS:
        home = _site(tmp_path, rows)
        with open_home(home.path) as site:
            witness = WitnessRequest(
                schema="residency.witness/1", study=study.digest, roster=None, offers=(), cosigned=()
            )
            close = CloseRequest(schema="residency.close/1", study=study.digest, rosters=())
            replies = [
                session.answer(site, request)
                for request in (
                    study.join(answers),
                    study.round(),
                    Request("witness", encode(witness)),
                    Request("close", encode(close)),
                )
            ]
            logged = [{"kind": e.kind, "body": _plain(e.body)} for e in entries(site, *_kinds(site))]
        models = (messages.JoinReply, messages.RoundReply, messages.WitnessReply, messages.CloseReply)
        told = [
            decode(m, r.body, "reply").model_dump(mode="json", exclude={"offer", "evidence"})
            for m, r in zip(models, replies, strict=True)
        ]
        sizes = [None if r.array is None else r.array.size for r in replies]
        said.append(json.dumps([_plain(told), logged, sizes], sort_keys=True))
    assert said[0] == said[1]
    assert "declared" in said[0]


def _kinds(site):
    return {e.kind for e in site.log.entries(0, site.log.size)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("model") / "model")


def _one_class(lines):
    return [line.replace(",K,", ",-,") for line in lines]


def test_a_site_whose_last_record_of_a_class_left_joins_as_before(tmp_path, folder):
    """A refusal would say in the roster when that was."""
    spec = tiny_work(tmp_path, folder)
    path = Path(spec.table)
    path.write_text("\n".join(_one_class(write_table(path, 38).read_text().splitlines())) + "\n")
    changes = {"table_sha256": sha256_hex(path.read_bytes())}
    changes["task"] = tiny_task(label_other=None, label_values={"-": "no", "K": "yes"})
    prepare(spec.model_copy(update=changes))


def _unknown_class(lines):
    return [*lines[:-1], lines[-1].replace(",-,", ",K,").replace(",K,", ",Q-4711,")]


def _nobody(lines):
    return [*lines[:-1], lines[-1].rsplit(",", 1)[0] + ","]


@pytest.mark.parametrize(
    ("change", "code", "column"),
    [(_unknown_class, "RSD-2304", None), (_nobody, "RSD-2414", "patient_id")],
)
def test_a_refusal_that_depends_on_records_says_the_same_for_other_numbers_of_them(
    tmp_path, folder, change, code, column
):
    told = []
    for rows in (38, 43):
        place = tmp_path / str(rows)
        place.mkdir()
        spec = tiny_work(place, folder)
        path = Path(spec.table)
        lines = change(write_table(path, rows).read_text().splitlines())
        path.write_text("\n".join(lines) + "\n")
        changes = {"table_sha256": sha256_hex(path.read_bytes()), "group_column": column}
        changes["task"] = tiny_task(label_other=None, label_values={"-": "no", "K": "yes"})
        with pytest.raises(ResidencyError) as error:
            prepare(spec.model_copy(update=changes))
        told.append(error.value.as_json())
    assert told[0] == told[1]
    assert told[0]["code"] == code
    assert "4711" not in json.dumps(told)
