"""`residency bench dp`: what it prints from its times, that its modes take the same step, and its short run."""

from __future__ import annotations

import pytest
import torch

from bench import dp
from bench.dp_cases import CASES, SHORT, Case
from bench.dp_peers import batch_of, classifier

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


def test_a_cached_case_says_how_many_times_quicker() -> None:
    laps = {"peft": [2.0], "ours": [1.0], "peft_all_layers": [4.0]}
    found = dp._figures(Case("minilm-l6", "lora-all", 8, 3, layers=2, cached=True), laps)
    assert found["times_quicker"] == {"than_peft_on_these_layers": 2.0, "than_peft_on_all_layers": 4.0}
    assert found["prefix_cache"] is True


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
