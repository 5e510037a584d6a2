"""What a model and its counterfactuals cost on a GPU: operations over a stated rate, and counted memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch

from benchmarks.networks import Counted, flops, saved
from guda_lightning.diffusion.adapters import Lora, add_adapter, own_weights
from guda_lightning.diffusion.cost import BACKWARD_FACTOR
from guda_lightning.posteriors import ClassifierPlan
from guda_lightning.posteriors.network import NoisyClassifier

# bf16 of an H100, dense, and the share of it that diffusers' UNets are taken to reach.
PEAK, UTILISATION = 989e12, 0.15
PEAK_FP64, UTILISATION_FP64 = 67e12, 0.3  # ReTrack's matrix products
TRAIN_STEP, FORWARD = 0.025, 0.010  # s to start the kernels of a training step, of a forward pass
DISK = 1e9  # bytes/s
CONTEXT_GB = 1.0  # CUDA's own, and what the allocator cannot use
QUERIES, EVALUATIONS, SCORED = 1000, 100, 256  # evaluations a query and model, and at a time
RANK = 8


class Memory(NamedTuple):
    """GB of a training step: what FSDP2 spreads over GPUs, and what each GPU needs for itself."""

    spread: float
    own: float

    @property
    def total(self) -> float:
        """On one GPU."""
        return self.spread + self.own

    def gpus(self, size: float) -> int:
        """GPUs of a size in GB that FSDP2 needs, a power of two; 0 where none are enough."""
        return next((count for count in (1, 2, 4, 8) if self.spread / count + self.own <= size), 0)


@dataclass(frozen=True)
class Recipe:
    """A model and how it is trained, with everything that costs.

    Attributes:
        network: The denoiser.
        images: Training images; mirrored ones count twice.
        steps: Of the full model, and of every retrained one.
        batch: Images a step.
        unlearning: Steps to unlearn a group.
        pair: Forget images a step, and as many retain images.
        full_passes: Forward passes of the full model over one of them, a step.
        averaged: Whether the full model keeps a moving average.
        checkpointing: Whether a training step computes activations twice to save memory.
    """

    network: Counted
    images: int
    steps: int
    batch: int
    unlearning: int
    pair: int
    full_passes: int = 0
    averaged: bool = True
    checkpointing: bool = False

    @property
    def passes(self) -> float:
        """Forward passes that a training step costs, for each of its images."""
        return BACKWARD_FACTOR + self.checkpointing

    def fit(self) -> float:
        """Seconds of one training of all weights."""
        return self.steps * (
            self.passes * self.batch * self.network.flops / (PEAK * UTILISATION) + TRAIN_STEP
        )

    def unlearn(self) -> float:
        """Seconds to unlearn one group."""
        evaluations = 2 * self.passes * self.pair + self.full_passes * self.pair
        step = evaluations * self.network.flops / (PEAK * UTILISATION) + TRAIN_STEP
        if not self.network.prompted:  # ReTrack's target: two products with all retain images
            step += 4 * self.pair * self.images * self.dims / (PEAK_FP64 * UTILISATION_FP64)
        return self.unlearning * step

    def guide(self) -> float:
        """Seconds to train the classifier."""
        plan = ClassifierPlan(steps=2000, batch_size=512)  # of cifar10_gpu
        evaluation = BACKWARD_FACTOR * plan.batch_size * self.classifier / (PEAK * UTILISATION)
        return plan.steps * (evaluation + TRAIN_STEP / 2)

    @cached_property
    def classifier(self) -> float:
        """Operations of one evaluation of the classifier."""
        channels, height, width = self.network.inputs(1)["sample"].shape[1:]
        shape = channels, height, width
        network = NoisyClassifier(shape, 10, ClassifierPlan().channels_for(shape)).to("meta")
        return flops(network, torch.zeros(1, *shape, device="meta"), torch.zeros(1, device="meta"))

    def score(self, models: int, noise: float, jacobian: int = 0) -> float:
        """Seconds to score the queries, not counting what reads models.

        Args:
            models: How many are evaluated.
            noise: Seconds to draw one number on the CPU.
            jacobian: Backward passes of the classifier beside each evaluation.
        """
        work = self.network.flops + jacobian * (BACKWARD_FACTOR - 1) * self.classifier
        starts = FORWARD * (1 + jacobian / 4) / SCORED
        return QUERIES * EVALUATIONS * models * (work / (PEAK * UTILISATION) + starts + self.dims * noise)

    @cached_property
    def fit_memory(self) -> Memory:
        """Of a step that trains all weights."""
        return self._memory(self.batch, 1 + self.averaged, self.network.parameters)

    @cached_property
    def unlearn_memory(self) -> Memory:
        """Of a step that unlearns in all weights, beside a copy of the full model."""
        held = self._memory(2 * self.pair, 2, self.network.parameters)
        if self.network.prompted:
            return held
        return Memory(held.spread, held.own + 8 * self.images * self.dims / 1e9)  # ReTrack's, in float64

    @cached_property
    def adapter_memory(self) -> Memory:
        """Of a step that unlearns in an adapter beside the full model's weights."""
        return self._memory(2 * self.pair, 1, self.adapter)

    @cached_property
    def adapter(self) -> int:
        """Numbers of a LoRA on all attention."""
        made = self.network.build()
        with torch.device("meta"):
            add_adapter(made, Lora(RANK))
        return sum(value.numel() for value in own_weights(made).values())

    @cached_property
    def dims(self) -> int:
        """Numbers of a sample."""
        return math.prod(self.network.inputs(1)["sample"].shape)

    def _memory(self, images: int, copies: int, trained: int) -> Memory:
        """What a training step on so many images holds: copies of all weights, and what is trained."""
        network = self.network.build(dtype=torch.bfloat16)
        if self.checkpointing:
            network.enable_gradient_checkpointing()
        activations = saved(network, self.network.inputs(4, dtype=torch.bfloat16)) * images / 4
        # In fp32, the gradients and two moments of Adam too, and once more in bf16 for autocast.
        held = ((4 * copies + 2) * self.network.parameters + 12 * trained) / 1e9
        return Memory(held, activations + CONTEXT_GB)
