"""Networks whose weights are sharded over processes (FSDP2)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from guda_lightning.errors import ConfigError

_PLAIN: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()  # of sharded networks, without weights


def is_sharded(network: nn.Module) -> bool:
    """Whether every process holds a part of the weights only."""
    return isinstance(network, FSDPModule)


def shard(network: nn.Module, mesh: DeviceMesh) -> None:
    """Shard a network's weights over processes, in place; one that is sharded already is left alone.

    Each element of its lists of blocks is gathered by itself while it computes, the rest together.

    Args:
        network: With the same weights on every process; frozen ones are sharded too.
        mesh: The processes, in one dimension.
    """
    if is_sharded(network):
        return
    _PLAIN[network] = _without_weights(network)
    for part in network.children():
        for block in part if isinstance(part, nn.ModuleList) else ():
            fully_shard(block, mesh=mesh)
    # Torch would leave the last of them gathered after a pass, where nobody expects whole weights.
    fully_shard(network, mesh=mesh, reshard_after_forward=True)


def whole(network: nn.Module) -> nn.Module:
    """The network itself, or an ordinary one on the CPU with all weights of one that is sharded.

    All processes must call it.

    Raises:
        ConfigError: Something else than ``shard`` has sharded it.
    """
    if not is_sharded(network):
        return network
    if network not in _PLAIN:
        raise ConfigError(
            "a network was sharded without guda_lightning.diffusion.shard, and cannot be made whole again",
            found=f"{type(network).__name__} that fully_shard was applied to",
            expected="guda_lightning.diffusion.shard(network, mesh), which keeps that",
            fix="call it in configure_model in place of fully_shard",
        )
    plain = copy.deepcopy(_PLAIN[network])
    # One weight at a time is whole on the device.
    weights = {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).detach().cpu().clone()
        for name, value in network.state_dict().items()
    }
    plain.load_state_dict(weights, assign=True)
    return plain


def gather(module: nn.Module) -> None:
    """Replace every sharded network inside a module by a whole one, in place; then all of it is on the CPU.

    All processes must call it; a module without sharded networks is left alone.
    """
    spread = [(parent, *child) for parent in module.modules() for child in parent.named_children()]
    spread = [(parent, name, network) for parent, name, network in spread if network in _PLAIN]
    for parent, name, network in spread:
        setattr(parent, name, whole(network))
    if spread:
        module.cpu()


def load_whole(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a network, sharded or not, all weights; every process must have them."""
    if is_sharded(network):
        set_model_state_dict(network, dict(weights), options=StateDictOptions(full_state_dict=True))
    else:
        network.load_state_dict(weights)


def _without_weights(network: nn.Module) -> nn.Module:
    """A copy whose parameters hold no numbers; its buffers do, because some are in no ``state_dict``."""
    kept = {
        id(parameter): nn.Parameter(parameter.to("meta"), parameter.requires_grad)
        for parameter in network.parameters()
    }
    return copy.deepcopy(network, dict(kept))
