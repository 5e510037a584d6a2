"""Least squares with one slope and one offset."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Line(NamedTuple):
    """``y = slope * x + offset``; r2 is the share of y's variance explained. NaN where x or y do not vary."""

    slope: Tensor
    offset: Tensor
    r2: Tensor


def least_squares(x: Tensor, y: Tensor) -> Line:
    """Fit a line through points.

    Args:
        x: ``[...]``, at least one number.
        y: ``[...]`` of the same shape.

    Returns:
        Three scalars.
    """
    centre_x, centre_y = x.mean(), y.mean()  # taken off first, to keep all digits
    line = line_of(second_moments((x - centre_x).flatten(), (y - centre_y).flatten()))
    return line._replace(offset=line.offset + centre_y - line.slope * centre_x)


def second_moments(x: Tensor, y: Tensor) -> Tensor:
    """Means over the last dimension of x, y, x², xy and y².

    Args:
        x: ``[..., n]``.
        y: ``[..., n]``.

    Returns:
        ``[..., 5]``.
    """
    return torch.stack([values.mean(dim=-1) for values in (x, y, x * x, x * y, y * y)], dim=-1)


def line_of(moments: Tensor, smallest: Tensor | float = 0.0) -> Line:
    """Fit lines to moments ``[..., 5]``, or to weighted means of moments.

    Args:
        moments: ``[..., 5]`` from ``second_moments``.
        smallest: ``[..., 2]``, the variances of x and y up to which these do not vary.
    """
    x, y, xx, xy, yy = moments.unbind(-1)
    variances = torch.stack([xx - x * x, yy - y * y], dim=-1)
    vary = (variances > smallest).all(dim=-1, keepdim=True)
    of_x, of_y = variances.where(vary, torch.nan).unbind(-1)
    covariance = xy - x * y
    slope = covariance / of_x
    return Line(slope, y - slope * x, slope * covariance / of_y)
