"""Fails loudly when the inner workings of Opacus that we lean on change."""

from __future__ import annotations

import hashlib
import inspect

import opacus
import torch
from opacus.grad_sample import GradSampleModule
from opacus.grad_sample.grad_sample_module import GradSampleHooks
from opacus.optimizers import DPOptimizer
from opacus.optimizers import optimizer as module

RELIED_ON = {
    "DPOptimizer.pre_step": (DPOptimizer.pre_step, "3c219ca43a5d89df"),
    "DPOptimizer.zero_grad": (DPOptimizer.zero_grad, "e364e5e88ab3e8f9"),
    "DPOptimizer._get_flat_grad_sample": (DPOptimizer._get_flat_grad_sample, "a9aed91bbcb2091a"),
    "DPOptimizer._check_skip_next_step": (DPOptimizer._check_skip_next_step, "73980ec5dc775b7f"),
    "_check_processed_flag": (module._check_processed_flag, "cda9cba61a6691e1"),
    "_mark_as_processed": (module._mark_as_processed, "ad66ff8bdcd4e049"),
    "GradSampleHooks.capture_backprops_hook": (GradSampleHooks.capture_backprops_hook, "b46e25b8319c43ef"),
}


def digest(function) -> str:
    return hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:16]


def test_the_version_is_the_one_that_was_read():
    assert opacus.__version__ == "1.6.0"


def test_the_functions_relied_on_are_unchanged():
    assert {name: digest(f) for name, (f, _) in RELIED_ON.items()} == {n: want for n, (_, want) in RELIED_ON.items()}


def test_the_constructors_take_what_we_pass():
    assert set(inspect.signature(DPOptimizer.__init__).parameters) >= {
        "optimizer", "noise_multiplier", "max_grad_norm", "expected_batch_size", "loss_reduction",
    }  # fmt: skip
    assert set(inspect.signature(GradSampleModule.__init__).parameters) >= {"batch_first", "loss_reduction", "strict"}


def test_summed_losses_leave_plain_per_sample_gradients():
    layer = torch.nn.Linear(3, 2)
    wrapped = GradSampleModule(layer, loss_reduction="sum")
    x = torch.arange(12.0).view(4, 3).requires_grad_()
    wrapped(x).sum().backward()
    assert torch.equal(layer.weight.grad_sample, x.detach().unsqueeze(1).expand(4, 2, 3))
