"""What Stable Diffusion 1.5 needs of a GPU's memory in each stage, and of a disk, computed without a GPU."""

from __future__ import annotations

import torch

from benchmarks.networks import SD15, Counted, saved
from benchmarks.sizes import TOY
from benchmarks.stages import Asked
from benchmarks.tables import write_table
from guda_lightning.diffusion.adapters import Lora, add_adapter, own_weights

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
    config = {**SD15, "block_out_channels": (32, 32, 32, 32)} if asked.size is TOY else SD15
    counted = Counted(config, prompted=True)
    full, adapted = (counted.build(dtype=torch.bfloat16) for _ in range(2))
    with torch.device("meta"):
        add_adapter(adapted, Lora(RANK))
    torch.nn.Module.to(adapted, torch.bfloat16)
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
            (
                network.enable_gradient_checkpointing
                if checkpointing
                else network.disable_gradient_checkpointing
            )()
            total = static + saved(network, counted.inputs(batch, dtype=torch.bfloat16))
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
