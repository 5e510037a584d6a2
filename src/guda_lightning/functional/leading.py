"""Which samples lead with a group, and what share of all samples that is.

A sample *leads* with a group where the group's score is larger than that of every rival. Its *margin* is the
difference to the best rival.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_NORMAL_95 = 1.959963984540054  # what a standard normal number is within with probability 0.95


def margins(scores: Tensor, column: int, rivals: Tensor) -> tuple[Tensor, Tensor]:
    """By how much a group's scores exceed those of its best rival: positive where a sample leads with it.

    Args:
        scores: ``[samples, groups]``.
        column: Of the group.
        rivals: ``[groups]`` bool, at least one; not the group itself.

    Returns:
        ``[samples]`` margins, and ``[samples]`` int64, the column with the highest score of the group and its
        rivals.
    """
    own = torch.zeros_like(rivals).index_fill(0, torch.tensor([column]), True)
    margin = scores[:, column] - scores[:, rivals].amax(dim=1)
    return margin, scores.masked_fill(~(own | rivals), -torch.inf).argmax(dim=1)


def share_interval(count: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share by Wilson's score (JASA 22, 1927): of what was drawn, in all draws.

    ``(p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n)``: also where all or none were counted, it has a
    width, and it stays within 0 and 1.

    Args:
        count: How many were counted.
        of: How many were drawn, at least 1.
    """
    share, spread = count / of, _NORMAL_95**2 / of
    middle = share + spread / 2
    half = _NORMAL_95 * math.sqrt(share * (1 - share) / of + spread / (4 * of))
    low, high = ((middle + sign * half) / (1 + spread) for sign in (-1, 1))
    return max(0.0, low), min(1.0, high)
