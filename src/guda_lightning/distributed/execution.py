"""Where and how work is computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from guda_lightning.distributed.ranks import ALONE, Ranks


def ignore(evaluations: int) -> None:
    """Report no progress."""


@dataclass(frozen=True)
class Execution:
    """Where and how something is computed; no result depends on it.

    Attributes:
        device: Where to compute.
        ranks: The processes that share the work; each gets all results.
        on_evaluations: Called with the number of network evaluations of every batch, for a progress bar.
    """

    device: torch.device | str = "cpu"
    ranks: Ranks = ALONE
    on_evaluations: Callable[[int], None] = ignore
