"""Which parameters a run trains: of the study's model, and those of the most sites, whoever answers first."""

from itertools import permutations

import pytest

from compliance.errors import RunFailed
from compliance.messages import CheckpointOffer, JoinReply, LayoutEntry
from compliance.study import Study
from compliance.validation import load_model
from server.layouts import agreed, check_agreed, check_reply
from tests.federation import HEAD_ONLY, study_json

HEAD = (LayoutEntry(name="head.weight", shape=(2, 32)), LayoutEntry(name="head.bias", shape=(2,)))
WIDER = (LayoutEntry(name="head.weight", shape=(2, 64)), LayoutEntry(name="head.bias", shape=(2,)))


def _study():
    return load_model(Study, study_json(HEAD_ONLY), "RSD-2007", "study")


def _reply(site, layout=HEAD):
    offer = CheckpointOffer(origin=f"tiny/{site}", note="", proofs={})
    return JoinReply(
        schema="residency.joined/1", site=site, layout=layout, device="cpu", decisions=(), adoption="", offer=offer
    )  # fmt: skip


def _agreed(*layouts):
    return agreed({str(i): _reply(str(i), layout) for i, layout in enumerate(layouts)})


def test_the_most_sites_count_in_every_order():
    for order in permutations((HEAD, WIDER, HEAD, WIDER, HEAD)):
        assert _agreed(*order) == HEAD
    assert _agreed(HEAD) == HEAD


def test_a_tie_is_nobody_s():
    assert _agreed() is None
    assert _agreed(HEAD, WIDER) is None
    assert _agreed(HEAD, WIDER, WIDER, HEAD, HEAD[:1]) is None


def test_whoever_trains_something_else_is_told_so():
    check_agreed(_reply("a"), HEAD)
    for layout in (WIDER, None):
        with pytest.raises(RunFailed, match="site a trains other parameters") as error:
            check_agreed(_reply("a"), layout)
        assert error.value.code == "RSD-8201"


@pytest.mark.parametrize(
    "layout",
    [
        (),
        HEAD[:1],
        HEAD[::-1],
        (*HEAD, HEAD[0]),
        (*HEAD, LayoutEntry(name="pooler.weight", shape=(2,))),
        (*HEAD, LayoutEntry(name="layer.0.lora_B.weight", shape=(4, 2), a_width=4)),
        (LayoutEntry(name="head.weight", shape=(3, 32)), LayoutEntry(name="head.bias", shape=(3,))),
        (LayoutEntry(name="head.weight", shape=(2, 2**28)), HEAD[1]),
        (LayoutEntry(name="head.weight", shape=(2, -1)), HEAD[1]),
        (LayoutEntry(name="a name\n", shape=(2,)), HEAD[1]),
    ],
)
def test_a_layout_that_no_release_of_the_study_could_have_is_refused(layout):
    check_reply(_reply("a"), _study())
    with pytest.raises(RunFailed, match="not of the study's model") as error:
        check_reply(_reply("a", layout), _study())
    assert error.value.code == "RSD-8201"
