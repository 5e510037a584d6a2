"""Identity of weights, and networks borrowed for evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from guda_lightning.distributed.sharding import is_sharded


def weights_hash(state_dict: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes: the identity of a model."""
    digest = hashlib.sha256()
    for name in sorted(state_dict):
        tensor = state_dict[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every submodule's own mode comes back afterwards."""
    modes = {part: part.training for part in module.modules()}
    trained = []
    if not is_sharded(module):  # FSDP2 remembers for ever what was frozen at the first pass
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:  # torch takes other kernels for trainable weights, gradients or not
        parameter.requires_grad_(False)
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes.items():
            part.training = training
        for parameter in trained:
            parameter.requires_grad_(True)
