"""How well operations tell the seconds of networks, measured on one core of this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

from benchmarks.networks import Counted
from guda_lightning.diffusion.cost import BACKWARD_FACTOR
from guda_lightning.functional.noise import gaussian_noise

_OPERATIONS = 2e10  # of a batch that is timed, about: a second of one core
NOTES = (
    "Measured, in fp32 on one core: one evaluation in a batch, and the rate that follows. Were seconds "
    "operations over one rate, the last but one column would be 1; the package takes a training step for "
    f"{BACKWARD_FACTOR:g} forward passes."
)


def measured(configs: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """One row for each of some networks, by their configurations."""
    found = []
    for config in configs:
        counted = Counted(config)
        batch = max(1, min(256, int(_OPERATIONS // counted.flops)))
        network, inputs = counted.build("cpu"), counted.inputs(batch, "cpu")

        def step(network: torch.nn.Module = network, inputs: Mapping[str, torch.Tensor] = inputs) -> None:
            network(**inputs).sample.square().mean().backward()

        def forward(network: torch.nn.Module = network, inputs: Mapping[str, torch.Tensor] = inputs) -> None:
            with torch.no_grad():
                network(**inputs)

        found.append((counted, batch, _seconds(forward) / batch, _seconds(step) / batch))
    rates = [counted.flops / seconds for counted, _, seconds, _ in found]
    usual = statistics.median(rates)
    return [
        {
            "network": "{:.2f} M, {side} × {side}".format(
                counted.parameters / 1e6, side=counted.config["sample_size"]
            ),
            "batch": batch,
            "GFLOPs an evaluation": f"{counted.flops / 1e9:.3f}",
            "measured ms": f"{1e3 * seconds:.2f}",
            "GFLOP/s": f"{rate / 1e9:.1f}",
            "measured / at the median rate": f"{usual / rate:.2f}",
            "training step / forward": f"{trained / seconds:.2f}",
        }
        for (counted, batch, seconds, trained), rate in zip(found, rates, strict=True)
    ]


def noise_seconds() -> float:
    """Seconds to draw one number of noise on one core."""
    rows = 64
    ids, zeros = [f"query {row}" for row in range(rows)], torch.zeros(rows, dtype=torch.int64)
    return _seconds(lambda: gaussian_noise(0, ids, zeros, zeros, (3, 32, 32))) / (rows * 3 * 32 * 32)


def _seconds(work: Callable[[], object]) -> float:
    """Seconds of one core, the least of three runs after one that sets things up."""
    work()
    spent = []
    for _ in range(3):
        begun = time.process_time()
        work()
        spent.append(time.process_time() - begun)
    return min(spent)
