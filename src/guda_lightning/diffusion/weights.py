"""Identity of weights whatever wraps them, and networks borrowed for evaluation."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from guda_lightning import compat
from guda_lightning.distributed.sharding import is_sharded

# Parts of names that torch.compile, activation checkpointing, FSDP and Lightning's strategies add.
_WRAPPERS = {"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_forward_module"}


def unwrapped(network: nn.Module) -> nn.Module:
    """The network inside ``torch.compile``, ``DataParallel`` and moving averages; any other is itself."""
    inner = compat.uncompiled(network)
    if isinstance(inner, DataParallel | DistributedDataParallel | AveragedModel):
        inner = inner.module
    return network if inner is network else unwrapped(inner)


def without_wrappers(network: nn.Module) -> nn.Module:
    """The network, or a copy of it where only some of its submodules are compiled or wrapped."""
    network = unwrapped(network)
    if all(unwrapped(part) is part for part in network.modules()):
        return network
    copied = copy.deepcopy(network)
    for parent in list(copied.modules()):
        for name, child in list(parent.named_children()):
            setattr(parent, name, unwrapped(child))
    return copied


def ordinary_weights(network: nn.Module) -> dict[str, Tensor]:
    """The ``state_dict`` of a network under the names that it has when nothing of it is compiled."""
    return {
        ".".join(part for part in name.split(".") if part not in _WRAPPERS): value
        for name, value in network.state_dict().items()
    }


def bare_name(name: str) -> str:
    """The name of a weight without whatever wraps its network, ``DataParallel`` included."""
    return ".".join(part for part in name.split(".") if part not in {*_WRAPPERS, "module"})


def bare_names(names: Iterable[str]) -> dict[str, str]:
    """The names by their bare names, or by themselves where two would be alike."""
    listed = list(names)
    bare = {bare_name(name): name for name in listed}
    return bare if len(bare) == len(listed) else {name: name for name in listed}


def weights_hash(state_dict: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(state_dict):
        tensor = state_dict[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
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
