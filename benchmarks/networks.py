"""Networks that are counted without being computed, on torch's meta device: operations and memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

SD15 = {  # the configuration of Stable Diffusion 1.5
    "sample_size": 64,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
}
DIGITS = {  # of digits.yaml
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "layers_per_block": 1,
    "block_out_channels": (32, 64),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 8,
    "attention_head_dim": 64,
}
DIGITS_TWICE = {**DIGITS, "block_out_channels": (64, 128)}
SMALL = {  # of cifar10_gpu.yaml
    "sample_size": 32,
    "layers_per_block": 1,
    "block_out_channels": (64, 128, 128),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 64,
}
DDPM = {  # of Ho et al. 2020 on CIFAR-10
    "sample_size": 32,
    "layers_per_block": 2,
    "block_out_channels": (128, 256, 256, 256),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 256,
}


@dataclass(frozen=True)
class Counted:
    """A network of diffusers.

    Attributes:
        config: Its configuration.
        prompted: Whether it is called with the embeddings of a prompt, as Stable Diffusion is.
    """

    config: Mapping[str, Any]
    prompted: bool = False

    def build(self, device: str = "meta", dtype: torch.dtype = torch.float32) -> Any:
        """The network, untrained."""
        kind: Any = UNet2DConditionModel if self.prompted else UNet2DModel
        with torch.device(device):
            return nn.Module.to(kind(**self.config), dtype)  # diffusers' own would warn

    def inputs(
        self, batch: int, device: str = "meta", dtype: torch.dtype = torch.float32
    ) -> dict[str, Tensor]:
        """Arguments of a call."""
        side, channels = (
            int(self.config["sample_size"]),
            int(self.config.get("in_channels", 4 if self.prompted else 3)),
        )
        timesteps = torch.zeros(batch, dtype=torch.int64, device=device)
        made = {
            "sample": torch.zeros(batch, channels, side, side, dtype=dtype, device=device),
            "timestep": timesteps,
        }
        if self.prompted:
            made["encoder_hidden_states"] = torch.zeros(batch, 77, 768, dtype=dtype, device=device)
        return made

    @cached_property
    def parameters(self) -> int:
        """How many."""
        return sum(parameter.numel() for parameter in self.build().parameters())

    @cached_property
    def flops(self) -> float:
        """Floating-point operations of one evaluation: one sample, forward."""
        return flops(self.build(), **self.inputs(1))


def flops(call: Callable[..., object], *arguments: object, **named: object) -> float:
    """Floating-point operations of a call; a multiplication and its addition are two."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call(*arguments, **named)
    return float(counter.get_total_flops())


def saved(network: nn.Module, inputs: Mapping[str, Tensor]) -> float:
    """GB that autograd holds when the backward pass of a training step begins, each storage once."""
    sizes: dict[int, int] = {}
    parameters = {parameter.untyped_storage()._cdata for parameter in network.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            sizes[storage._cdata] = storage.nbytes()
            kept.append(tensor)  # so that no other storage takes its place
        return tensor

    kept: list[Tensor] = []
    network.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = network(**inputs).sample
    del output
    return sum(sizes.values()) / 1e9
