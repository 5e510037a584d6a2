"""LoRA adapters: a counterfactual as a few matrices beside the weights of its full model."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from guda_lightning.diffusion.checkpoints import load_weights
from guda_lightning.diffusion.model import DiffusionModel
from guda_lightning.diffusion.weights import evaluating, ordinary_weights
from guda_lightning.errors import ConfigError, MissingExtraError, StoreError, check_range

ADAPTED = ".lora_"  # in the name of every weight of an adapter
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")  # of every attention layer of diffusers


@dataclass(frozen=True)
class Lora:
    """A low-rank adapter (Hu et al., arXiv 2106.09685): ``W + B A`` with A random and B zero at first.

    Attributes:
        rank: Rows of A, at least 1.
        targets: Ends of the names of the layers that are adapted.

    Raises:
        ConfigError: The rank is out of range.
    """

    rank: int = 8
    targets: tuple[str, ...] = _ATTENTION

    def __post_init__(self) -> None:
        check_range("the rank of a LoRA", self.rank, ge=1, symbol="rank", fix="set lora.rank")


def add_adapter(network: nn.Module, lora: Lora) -> None:
    """Put an adapter into a network, in place; it changes no output yet and is all that is trainable.

    Raises:
        ConfigError: No layer has such a name, or there is an adapter already.
        MissingExtraError: peft is not installed.
    """
    if has_adapter(network):
        raise ConfigError(
            f"{type(network).__name__} has an adapter already",
            found="a LoRA in its layers",
            expected="a network of ordinary layers",
            fix="merge that adapter first, or leave lora out",
        )
    _inject(network, lora.targets, lora.rank)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(ADAPTED in name)


def has_adapter(network: nn.Module) -> bool:
    """Whether an adapter is in a network."""
    return any(ADAPTED in name for name, _ in network.named_parameters())


@contextmanager
def adapter_off(network: nn.Module) -> Iterator[None]:
    """The network as it is without its adapter."""
    from peft.tuners.lora import LoraLayer

    layers = [layer for layer in network.modules() if isinstance(layer, LoraLayer)]
    trained = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for parameter, before in trained:  # which peft changes
            parameter.requires_grad_(before)


@dataclass(frozen=True)
class BeneathAdapter(DiffusionModel):
    """The full model that an adapter stands beside, in the same network: there is no second copy of it."""

    def call(self, x_t: Tensor, model_timesteps: Tensor, labels: Tensor | None = None) -> Tensor:
        """The full model's raw output, ``[batch, ...]`` of the dtype of ``x_t``, without gradients.

        Args:
            x_t: ``[batch, ...]`` noised samples.
            model_timesteps: ``[batch]`` values of ``schedule.model_timesteps``.
            labels: ``[batch]`` int64 class labels or numbers of prompts, for a conditional network.
        """
        with adapter_off(self.denoiser), evaluating(self.denoiser):
            return super().call(x_t, model_timesteps, labels)


def own_weights(network: nn.Module) -> dict[str, Tensor]:
    """What sets a network apart from its full model: its adapter if it has one, else all weights."""
    weights = ordinary_weights(network)
    return {n: value for n, value in weights.items() if ADAPTED in n} if has_adapter(network) else weights


def set_own_weights(network: nn.Module, weights: Mapping[str, Tensor], origin: object) -> None:
    """Make a copy of the full model a counterfactual, in place; an adapter leaves all other weights alone.

    Args:
        network: The full model's, or one that another counterfactual of the same kind was put into.
        weights: As ``own_weights`` gave them.
        origin: Where they are from, for the message.

    Raises:
        StoreError: They are those of another network.
    """
    if not all(ADAPTED in name for name in weights):
        load_weights(network, weights, origin)
        return
    targets = sorted({name.split(ADAPTED)[0] for name in weights})
    rank = max(len(value) for name, value in weights.items() if ".lora_A" in name)  # A: [rank, inputs]
    try:
        if not has_adapter(network):
            _inject(network, targets, rank)
        own = {name: value.shape for name, value in own_weights(network).items()}
        fits = own == {name: value.shape for name, value in weights.items()}
    except ConfigError:
        own, fits = {}, False
    if not fits:
        odd = sorted({*own} ^ {*weights}) or sorted(name for name in own if own[name] != weights[name].shape)
        raise StoreError(
            f"the LoRA {origin} does not match its base, a {type(network).__name__}",
            found=f"{len(weights)} matrices of rank {rank}, such as {odd[0]}",
            expected=f"those of the {len(own)} places that the base has",
            fix="use the full model that it was made from",
        )
    network.load_state_dict(dict(weights), strict=False)
    network.requires_grad_(False)


def whole_weights(network: nn.Module, weights: Mapping[str, Tensor], origin: object) -> Mapping[str, Tensor]:
    """All weights of a counterfactual, an adapter added to those of its full model.

    Args:
        network: The full model's; left as it is.
        weights: As ``own_weights`` gave them.
        origin: Where they are from, for the message.

    Raises:
        StoreError: They are those of another network.
    """
    if not all(ADAPTED in name for name in weights):
        return weights
    copied = copy.deepcopy(network)
    set_own_weights(copied, weights, origin)
    merge_adapter(copied)
    return ordinary_weights(copied)


def merge_adapter(network: nn.Module) -> None:
    """Add an adapter to the weights that it stands beside, in place: the network is an ordinary one again."""
    from peft.tuners.lora import LoraLayer

    for name, layer in list(network.named_modules()):
        if isinstance(layer, LoraLayer):
            layer.merge(safe_merge=True)
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, layer.get_base_layer())
    if hasattr(network, "peft_config"):
        del network.peft_config
    network.requires_grad_(True)


def _inject(network: nn.Module, targets: Sequence[str], rank: int) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError as error:
        raise MissingExtraError("peft", "text") from error
    # The scale alpha / rank is 1 throughout: it would be one more way to write the learning rate.
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets))
    try:
        inject_adapter_in_model(config, network)
    except ValueError as error:
        layers = sorted({name.rpartition(".")[2] for name, part in network.named_modules() if _linear(part)})
        raise ConfigError(
            f"a LoRA finds nothing to adapt in {type(network).__name__}",
            found=f"no layer named {', '.join(targets[:4])}",
            expected=f"ends of names of linear layers, such as {', '.join(layers[:6]) or 'none there are'}",
            fix="set lora.targets",
        ) from error


def _linear(part: nn.Module) -> bool:
    return isinstance(part, nn.Linear)
