"""`residency bench dp`: what it prints from its times, that its modes take the same step, and its short run."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from bench import dp
from bench.dp_cases import CASES, SHORT, Case, Job
from bench.dp_limits import judged, told
from bench.dp_peers import batch_of, classifier
from compliance.errors import EnvironmentFault

# What the peers' own code warns of with these versions.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning"),
]
TINY = Case("bert-4x256", "lora-all", 8, 3)


def test_the_figure_is_the_median_of_the_ratios_within_a_turn() -> None:
    laps = {"peft": [1.0, 2.0, 10.0], "ours": [1.1, 2.0, 9.0], "twin": [1.0, 1.0, 1.0]}
    found = dp._figures(TINY, laps)
    assert found["ratio_to_peft"] == {"ours": 1.0, "twin": 0.5}
    assert found["ratio_to_twin"] == 2.0
    assert "times_quicker" not in found


def test_opacus_takes_fewer_turns_and_meets_peft_in_the_same_ones() -> None:
    laps = {"peft": [1.0, 1.0, 5.0], "ours": [1.0, 1.0, 1.0], "opacus_hooks": [3.0, 4.0]}
    assert dp._figures(TINY, laps)["ratio_to_peft"] == {"ours": 1.0, "opacus_hooks": 3.5}
    assert [dp._turns_of(mode, 9) for mode in ("peft", "ours", "twin", "opacus_ghost")] == [9, 9, 9, 5]
    taken = {name: len(times) for name, times in dp._laps(TINY, 3).items()}
    assert taken == {"peft": 3, "ours": 3, "twin": 3, "opacus_hooks": 2, "opacus_ghost": 2}


def test_memory_of_ours_and_the_twin_is_taken_three_times() -> None:
    first, *others = dp._memory_jobs(CASES)
    assert len(others) == 3
    assert others[0] == others[1] == others[2]
    with_twin = [case for case in CASES if case.trained != "full" and not case.cached]
    assert [(job.case, job.mode) for job in others[0]] == [(c, m) for c in with_twin for m in ("ours", "twin")]
    every = {(job.case, job.mode) for job in (*first, *others[0])}
    assert every == {(case, mode) for case in CASES for mode in dp.modes(case) if mode != "peft_all_layers"}
    assert [Job.read(json.loads(json.dumps(job.written()))) for job in first] == first
    fields = dp._peak_fields({"ours": [110.0, 90.0, 120.0], "twin": [100.0, 100.0, 80.0], "peft": [300.0]})
    assert fields["peak_to_twin"] == 1.1
    assert fields["peaks_mib"] == {"ours": [110.0, 90.0, 120.0], "twin": [100.0, 100.0, 80.0]}


def test_a_forked_child_starts_where_its_parent_is_and_its_peak_is_its_own() -> None:
    """What `python -m bench.dp_memory` rests on, in small: file pages mapped again, 30 MiB seen though freed."""
    code = """
import os, sys
from bench import dp_memory as m
import numpy as np
class Step:
    def __init__(self): self.x = np.ones(20 << 17)
    def __call__(self): np.ones(10 << 17).sum()
m.modes = lambda case: {"known": Step}
held = bytearray(os.urandom(1 << 20)) * 64
here, pages = m.status_kib("VmRSS"), m.file_pages()
del held
assert m._in_a_child(m.Job(None, "known", 2), pages) == 0
assert m._in_a_child(m.Job(None, "unknown", 2), pages) == 1
real, m.map_again = m.map_again, lambda ranges: None
assert m._in_a_child(m.Job(None, "known", 2), pages) == 1, "file pages that are not there would count as the mode's"
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert 29.5 <= float(ran.stdout) <= 31.5
    assert "the child starts with" in ran.stderr


def test_a_mode_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dp.sys, "executable", "/bin/false")
    with pytest.raises(EnvironmentFault, match=r"bert-4x256 lora-all T8 B3, ours, exit 1") as caught:
        dp._peaks([Job(TINY, "ours", 3)])
    assert caught.value.code == "RSD-8505"


def test_a_cached_case_says_how_many_times_quicker() -> None:
    laps = {"peft": [2.0], "ours": [1.0], "peft_all_layers": [4.0]}
    found = dp._figures(Case("minilm-l6", "lora-all", 8, 3, layers=2, cached=True), laps)
    assert found["times_quicker"] == {"than_peft_on_these_layers": 2.0, "than_peft_on_all_layers": 4.0}
    assert found["prefix_cache"] is True


def _printed(case: Case, **more: object) -> dict[str, object]:
    laps = {"peft": [1.0], "ours": [1.0], **({} if case.trained == "full" or case.cached else {"twin": [1.0]})}
    laps |= {"peft_all_layers": [2.0]} if case.layers else {}
    return {**dp._figures(case, laps), **more}


def test_each_limit_of_a_case_is_judged() -> None:
    adapters, small, full, cached = (_printed(CASES[i]) for i in (1, 2, 3, 7))
    assert {n: one["within"] for n, one in judged({**adapters, "peak_to_twin": 1.1}).items()} == {
        "time_to_peft": True, "time_to_twin": True, "peak_to_twin": True,
    }  # fmt: skip
    slow = {**adapters, "ratio_to_peft": {"ours": 1.051}, "ratio_to_twin": 1.101, "peak_to_twin": 1.101}
    assert [one["within"] for one in judged(slow).values()] == [False, False, False]
    assert judged({**small, "peak_to_twin": 1.2}) == {"peak_to_twin": {"value": 1.2, "limit": 1.1, "within": False}}
    assert judged(full) == {"time_to_peft": {"value": 1.0, "limit": 1.35, "within": True}}
    assert not judged({**full, "ratio_to_peft": {"ours": 1.351}})["time_to_peft"]["within"]  # type: ignore[index]
    assert {n: one["within"] for n, one in judged(cached).items()} == {
        "times_quicker_than_peft_on_these_layers": False, "times_quicker_than_peft_on_all_layers": False,
    }  # fmt: skip
    quick = {**cached, "times_quicker": {"than_peft_on_these_layers": 1.7, "than_peft_on_all_layers": 2.5}}
    assert all(one["within"] for one in judged(quick).values())
    assert "BELOW 1.7" in told({**cached, "limits": judged(cached)})
    assert "ABOVE 1.05" in told({**slow, "limits": judged(slow)})


def test_every_case_of_the_benchmark_has_its_modes() -> None:
    for case in CASES:
        names = set(dp.modes(case))
        assert {"peft", "ours"} <= names
        assert ("twin" in names) == (case.trained != "full" and not case.cached)
        assert ("peft_all_layers" in names) == bool(case.layers)


@pytest.mark.parametrize("case", SHORT, ids=lambda c: c.name)
def test_ours_trains_what_peft_trains(case: Case) -> None:
    """The same trained tensors, the same logits on the same batch: the ratio compares like with like."""
    from bench.dp_ours import ClassifierTop

    model, batch = classifier(case), batch_of(case)
    wanted = {n for n, p in classifier(case).named_parameters() if p.requires_grad}
    top = ClassifierTop(model, 4)
    assert {n.removeprefix("model.") for n, _ in top.trained()} == wanted
    direct = classifier(case)(input_ids=batch.ids, attention_mask=batch.mask).logits
    assert torch.equal(top({"ids": batch.ids, "mask": batch.mask}), direct)


def test_the_cached_prefix_gives_the_same_scores() -> None:
    from bench.dp_ours import ClassifierTop

    case = Case("bert-4x256", "lora-all", 8, 3, layers=2)
    top, batch = ClassifierTop(classifier(case), 2), batch_of(case)
    whole = top({"ids": batch.ids, "mask": batch.mask})
    cached = top({"hidden": top.prefix(batch.ids, batch.mask)})
    assert (whole - cached).abs().max() < 1e-5


def test_the_short_run_prints_every_case() -> None:
    found = dp.measure(SHORT, 1, lambda _text: None, memory=False)
    assert [c["adapter"] for c in found["cases"]] == ["lora-all", "full"]
    assert all({"ours", "opacus_hooks", "opacus_ghost"} <= set(c["ratio_to_peft"]) for c in found["cases"])
    assert len(dp.lines(found)) == len(SHORT)
