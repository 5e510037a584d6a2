"""What Stable Diffusion 1.5 needs of a GPU's memory in each stage, and of a disk, computed without a GPU."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from benchmarks.sizes import TOY
from benchmarks.stages import Asked
from benchmarks.tables import write_table
from guda_lightning.diffusion.adapters import Lora, add_adapter, own_weights

UNET = {  # the configuration of Stable Diffusion 1.5
    "sample_size": 64,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
}
TEXT_GB = 0.49  # CLIP ViT-L/14's text tower in fp32: what anchors encode with
GPUS = (16, 24, 80)
CONTEXT_GB = 1.0  # CUDA's own, and what the allocator cannot use
FORWARD_GB = 1.0  # skip connections and workspace of 16 evaluations without gradients
RANK = 8
NOTES = (
    "Weights, gradients and both moments of Adam in fp32, weights cast to bf16 while autocast runs, and all "
    "tensors that autograd saves in bf16, counted on torch's meta device; 1 GB more for CUDA, and 1 GB taken "
    "for a forward pass of 16 evaluations. What gradient checkpointing computes again, a block at a time, "
    "comes on top. Images of 512 × 512 (latents of 4 × 64 × 64), 77 tokens. VAE and text encoder run before "
    f"training; anchors keep the text encoder. LoRA of rank {RANK} on all attention."
)


def run(asked: Asked) -> None:
    """Write the table of memory."""
    config = {**UNET, "block_out_channels": (32, 32, 32, 32)} if asked.size is TOY else UNET
    with torch.device("meta"):
        full = UNet2DConditionModel(**config).to(torch.bfloat16)
        adapted = UNet2DConditionModel(**config).to(torch.bfloat16)
        add_adapter(adapted, Lora(RANK))
        adapted.to(torch.bfloat16)
    weights = sum(parameter.numel() for parameter in full.parameters()) / 1e9
    trained = sum(value.numel() for value in own_weights(adapted).values()) / 1e9
    rows = []
    for name, network, batch, copies, learned, extra in (
        ("fit, all weights", full, 4, 1, weights, 0.0),
        ("fit, LoRA", adapted, 4, 1, trained, 0.0),
        ("unlearn, all weights", full, 4 + 4, 2, weights, TEXT_GB),
        ("unlearn, LoRA", adapted, 4 + 4, 1, trained, TEXT_GB),
    ):
        static = 4 * weights * copies + 2 * weights + 12 * learned + extra + CONTEXT_GB
        for checkpointing in (False, True):
            total = static + _saved(network, batch, checkpointing)
            rows.append(
                {
                    "stage": name,
                    "images a step": "4 + 4" if batch == 8 else batch,
                    "gradient checkpointing": "yes" if checkpointing else "no",
                    "GB": f"{total:.1f}",
                    "fits": ", ".join(f"{size} GB" for size in GPUS if total <= size) or "none of these",
                }
            )
    scoring = 4 * weights + 2 * weights + CONTEXT_GB
    rows.append(
        {
            "stage": "attribute, 16 evaluations at a time",
            "images a step": 16,
            "gradient checkpointing": "",
            "GB": f"{scoring + FORWARD_GB:.1f}",
            "fits": ", ".join(f"{size} GB" for size in GPUS),
        }
    )
    sizes = (f"{4e3 * trained * rank / RANK:.1f} MB at rank {rank}" for rank in (4, RANK, 16))
    disk = (
        f" On disk a group is a model of {4 * weights:.1f} GB, or an adapter: {', '.join(sizes)}; "
        f"60 styles at rank {RANK} are {60 * 4 * trained:.2f} GB."
    )
    write_table(asked.docs, "memory", asked.command("memory"), rows, NOTES + disk)


def _saved(network: Any, batch: int, checkpointing: bool) -> float:
    """GB that autograd holds when the backward pass begins, each storage once."""
    sizes: dict[int, int] = {}
    parameters = {parameter.untyped_storage()._cdata for parameter in network.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            sizes[storage._cdata] = storage.nbytes()
            kept.append(tensor)  # so that no other storage takes its place
        return tensor

    kept: list[Tensor] = []
    (network.enable_gradient_checkpointing if checkpointing else network.disable_gradient_checkpointing)()
    network.train()
    x = torch.zeros(batch, 4, 64, 64, dtype=torch.bfloat16, device="meta")
    states = torch.zeros(batch, 77, 768, dtype=torch.bfloat16, device="meta")
    told = torch.zeros(batch, dtype=torch.int64, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = network(x, told, encoder_hidden_states=states).sample
    del output
    return sum(sizes.values()) / 1e9
