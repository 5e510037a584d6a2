"""Patches of training images that a noised picture may be made of, and what each group of images explains.

Nonparametric data attribution (NDA, arXiv 2510.14269). For every position p of ``x_t = γ x_0 + σ ε`` the
patch P around it is compared with the patches of all training images ``a_i`` at all positions p′:

``w_p(i, p′) = softmax_{i, p′}(−‖P − γ a_i[p′]‖² / 2σ²)``,  ``a_p(i) = Σ_{p′} w_p(i, p′)``.

A group's share of the position is ``ρ_S(p) = Σ_{i ∈ S} a_p(i)``. Sums over images are kept per atom of
groups (see ``functional.guidance``), as logarithms: images come a few at a time and ``1 − ρ`` never cancels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from guda_lightning.functional.guidance import log_kept

_NEGLIGIBLE = 40.0  # nats below the sum so far: such an image's share is below 5e-18
_KEPT_BYTES = 64 * 2**20  # of log_kept at a time


@dataclass(frozen=True)
class Window:
    """Which patches are compared.

    Attributes:
        size: Side in pixels.
        outside: What stands for pixels outside of the picture, noised or not. A value far from all pixels
            keeps patches at an edge among those at the same edge.
        halved: Whether patches are compared at half their resolution, by sums over blocks of 2 x 2 pixels,
            halved, which leaves the noise white and its σ as it is.
        anywhere: Whether a patch is compared with those at all positions, or with those at its own alone.
    """

    size: int
    outside: float = 0.0
    halved: bool = False
    anywhere: bool = True

    def patches(self, images: Tensor) -> Tensor:
        """The patch around every pixel of ``[images, channels, ...]``: ``[images, positions, dims]``."""
        before, after = (self.size - 1) // 2, self.size // 2
        padded = F.pad(images, (before, after, before, after), value=self.outside)
        if self.halved:
            return F.unfold(2 * F.avg_pool2d(padded, 2, stride=1), self.size // 2, dilation=2).mT
        return F.unfold(padded, self.size).mT

    def comparisons(self, positions: int) -> int:
        """Patches of one training image that one patch is compared with."""
        return positions if self.anywhere else 1


def log_patch_masses(
    x_t: Tensor,
    gamma: float,
    sigma: float,
    images: Iterable[tuple[int, Tensor]],
    atoms: int,
    window: Window,
    top: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Log masses of the atoms at every position of noised pictures, by matrix products in float64.

    In memory at a time: ``batch · positions · images · comparisons`` numbers, three times, for the images
    that come together, and ``batch · positions · atoms`` twice.

    Args:
        x_t: ``[batch, channels, height, width]``, all of one noise level.
        gamma: γ.
        sigma: σ > 0.
        images: Pairs of an atom and some of its clean training images ``[images, channels, height, width]``.
        atoms: Number of atoms.
        window: Which patches are compared.
        top: Positions of an image that count, its best ones; None counts all.

    Returns:
        ``[batch, positions, atoms]`` float64 ``log Σ_{i, p′} exp(−‖P − γ a_i[p′]‖² / 2σ²)``, up to a number
        of each patch: over all positions p′, and over the best of each image. −∞ for an atom without images.
    """
    x = window.patches(x_t.double())
    batch, positions, dims = x.shape
    x = x / sigma**2
    rows = x.reshape(1, -1, dims) if window.anywhere else x.transpose(0, 1)
    masses = x.new_full((2, *rows.shape[:2], atoms), -torch.inf)
    for atom, part in images:
        items = window.patches(gamma * part.to(x))
        items = items.reshape(1, -1, dims) if window.anywhere else items.transpose(0, 1)
        # ‖P‖² is the same for all items of a row, and the softmax does not see it.
        norms = items.square().sum(dim=2)[:, None] / (2 * sigma**2)
        logits = torch.baddbmm(norms, rows, items.mT, beta=-1).unflatten(2, (len(part), -1))
        whole = logits.logsumexp(dim=3)
        _add(masses[0, ..., atom], whole)
        if top is not None and top < logits.shape[3]:
            counts = whole > masses[0].logsumexp(dim=2, keepdim=True) - _NEGLIGIBLE
            whole[counts] = logits[counts].topk(top, dim=1).values.logsumexp(dim=1)
        _add(masses[1, ..., atom], whole)
    if not window.anywhere:
        masses = masses.transpose(1, 2)
    every, best = masses.reshape(2, batch, positions, atoms)
    return every, best


def patch_shares(every: Tensor, best: Tensor, removed: Tensor) -> tuple[Tensor, Tensor]:
    """What coalitions of groups explain of every patch.

    Args:
        every: ``[batch, positions, atoms]`` log masses over all positions of training images.
        best: ``[batch, positions, atoms]`` log masses over the best positions of each image.
        removed: ``[coalitions, atoms]`` bool.

    Returns:
        ``[batch, positions, coalitions]`` float64 each: the share ρ of the best positions in the mass of
        all, in [0, 1]; and ``−log(1 − ρ)`` in nats, at least 0, where ρ is the share over all positions: by
        how much the noised patch gets less likely without the coalition.
    """
    shares = (best - every.logsumexp(dim=2, keepdim=True)).exp() @ removed.to(every).T
    rows = max(1, _KEPT_BYTES // (removed.numel() * every.element_size()))
    kept = torch.cat([log_kept(part, removed) for part in every.flatten(0, 1).split(rows)])
    return shares, -kept.view_as(shares)


def _add(total: Tensor, terms: Tensor) -> None:
    """Add ``[..., terms]`` to ``[...]``, all of them logarithms, in place."""
    total.copy_(torch.logaddexp(total, terms.logsumexp(dim=-1)))
