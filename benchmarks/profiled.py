"""Where the time of the hot loops goes, by torch's profiler."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
from diffusers import UNet2DModel
from lightning.pytorch import LightningModule
from torch.profiler import ProfilerActivity, profile, record_function

from guda_lightning.attribution import scoring as scoring_loop
from guda_lightning.attribution.networks import FittedNetworks
from guda_lightning.data.batches import Samples
from guda_lightning.diffusion import DiffusionModule
from guda_lightning.functional import noise as noise_functions
from guda_lightning.unlearning import BoundObjective
from guda_lightning.unlearning import retrack as retrack_module

NOTES = (
    "Shares of the time of the clock of one repeat, by labels in torch's profiler; what a label encloses "
    "under a label of its own is not counted twice. `network`: forward, backward and the optimizer's "
    "step; `hash`: keys of noise; `weights`: waiting for those of counterfactuals and swapping them; "
    "`target`: of forget and retain samples; `rest`: the loop around them, and Lightning with its start "
    "and end."
)
_LABELS: dict[str, tuple[tuple[Any, str], ...]] = {
    "network": ((UNet2DModel, "forward"), (torch.Tensor, "backward"), (torch.optim.AdamW, "step")),
    "noise": ((scoring_loop, "gaussian_noise"), (DiffusionModule, "noised")),
    "hash": ((noise_functions, "query_key"),),
    "add_noise": ((scoring_loop, "add_noise"),),
    "errors": ((scoring_loop, "squared_error"),),
    "weights": ((FittedNetworks, "_become"),),
    "target": ((BoundObjective, "preserve_target"), (retrack_module, "retain_posterior")),
    "data": ((Samples, "__getitems__"),),
    "log": ((LightningModule, "log"), (LightningModule, "log_dict")),
}


def shares(work: Callable[[], object]) -> dict[str, str]:
    """The share of each label in the time of some work, in per cent, and the rest."""
    with ExitStack() as stack:
        for label, places in _LABELS.items():
            for owner, name in places:
                stack.enter_context(mock.patch.object(owner, name, _labelled(label, getattr(owner, name))))
        start = time.perf_counter()
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            start = time.perf_counter()
            work()
            total = (time.perf_counter() - start) * 1e6
    ranges = [
        (event.time_range.start, event.time_range.end, event.name)
        for event in profiler.events() or ()
        if event.name in _LABELS
    ]
    spent = own_times(ranges)
    found = {label: spent.get(label, 0.0) / total for label in _LABELS}
    return {label: f"{share:.1%}" for label, share in {**found, "rest": 1 - sum(found.values())}.items()}


def own_times(ranges: list[tuple[float, float, str]]) -> dict[str, float]:
    """Time under each label, without that of the labels inside it.

    Args:
        ranges: Start, end and label of what ran on one thread.
    """
    spent: dict[str, float] = {}
    open_: list[tuple[float, str]] = []
    for start, end, label in sorted(ranges, key=lambda found: (found[0], -found[1])):
        while open_ and open_[-1][0] <= start:
            open_.pop()
        if open_:
            spent[open_[-1][1]] -= end - start
        spent[label] = spent.get(label, 0.0) + end - start
        open_.append((end, label))
    return spent


def _labelled(label: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def labelled(*args: Any, **kwargs: Any) -> Any:
        with record_function(label):
            return function(*args, **kwargs)

    return labelled
