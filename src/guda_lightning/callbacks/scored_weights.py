"""Whether the weights that are scored are those that validation runs on."""

from __future__ import annotations

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from guda_lightning import compat
from guda_lightning.distributed.sharding import is_sharded
from guda_lightning.errors import ConfigError


class ScoredWeights:
    """Notices that another callback exchanges weights, as averages of them do, between two moments."""

    def __init__(self) -> None:
        self._seen: Tensor | None = None

    def forget(self) -> None:
        """Begin another validation."""
        self._seen = None

    def note(self, network: nn.Module) -> None:
        """Keep sums of the weights, unless they were noted before."""
        if self._seen is None:
            self._seen = _sums(network)

    def refuse_changed(self, network: nn.Module, trainer: Trainer) -> None:
        """Refuse to score other weights than those that were noted.

        Raises:
            ConfigError: They have changed.
        """
        if self._seen is None or torch.allclose(self._seen, _sums(network), rtol=0, atol=0, equal_nan=True):
            return
        others = [c for c in compat.callbacks(trainer) if compat.is_lightning(c, "WeightAveraging")]
        found = ", ".join(type(other).__name__ for other in others)
        raise ConfigError(
            "the weights that would be scored are not those that validation runs on",
            found=f"{found or 'another callback'} has exchanged them",
            expected="the same weights until ELBOAttributionCallback has scored",
            fix="list ELBOAttributionCallback first in the trainer's callbacks, which scores the average of "
            "an UnlearnModule; for any other module leave the average out of the trainer that validates",
        )


def refuse_other_precision(network: nn.Module) -> None:
    """Refuse a network whose weights were converted: the counterfactuals were made from others.

    Raises:
        ConfigError: Some weights are not in float32.
    """
    types = {p.dtype for p in network.parameters() if p.is_floating_point()} - {torch.float32}
    if types:
        raise ConfigError(
            f"the weights of the {type(network).__name__} were converted",
            found=", ".join(sorted(str(kind).removeprefix("torch.") for kind in types)),
            expected="float32, as the counterfactuals",
            fix="pass precision='bf16-mixed' or '32-true' to the trainer, without module.half(); "
            "scoring=Scoring(precision='bf16') scores faster",
        )


def _sums(network: nn.Module) -> Tensor:
    """``[weights]`` float64; of one that is sharded, nothing, as averages do not work there."""
    if is_sharded(network):
        return torch.zeros(0)
    return torch.tensor([float(p.detach().sum(dtype=torch.float64)) for p in network.parameters()])
