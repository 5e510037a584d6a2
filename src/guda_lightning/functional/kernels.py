"""Posteriors without training: softmax over the training images themselves, whole or through windows.

At every pixel p, the training image that a noised sample is from has, seen through a window around p,

``w_i(p) = softmax_i(−Σ_{q in window(p)} (x_t − γ a_i)²_q / 2σ²)``,  ``x̂_0(p) = Σ_i w_i(p) a_i(p)``.

All channels of a pixel share its weights, and a window ends where the image does. A window that sees the
whole image from every pixel is the *image kernel*, the ideal denoiser of the training set: it memorises.
Smaller ones are the *patch kernel*, the local score machine of Kamb and Ganguli (arXiv 2412.20292; see also
Niedoba et al., arXiv 2411.19339), which predicts what convolutional networks do. Without some groups, it is
the same softmax over the images that are left. So a logarithm of the mass and a mean per atom (a distinct
set of groups) and pixel are all that any coalition of groups needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

_IMAGES = 2048  # of a block, at most: 16 MB of weights for 1000 noised samples
_NUMBERS = 2**22  # of a block, at most: 32 MB in float64
_ROWS = 2**16  # (pixel, coalition) pairs whose sums underflow, at a time
_UNDERFLOW = 1e-290  # below, sums of exponentials lose digits in float64

Span = tuple[int, int]  # from, to (excluded)
Part = tuple[slice, slice]  # rows and columns of an image


class Block(NamedTuple):
    """Training images of ``A`` atoms, ``W`` images each.

    Attributes:
        atoms: ``[A]`` int64, which ones; an atom of many images has several blocks.
        images: ``[channels, height, width, A, W]`` clean images.
        absent: ``[A, W]`` bool, where an atom has fewer than ``W`` and there is no image; None: nowhere.
    """

    atoms: Tensor
    images: Tensor
    absent: Tensor | None


class Moments(NamedTuple):
    """What noised samples say of the training images, atom by atom and pixel by pixel.

    Attributes:
        log_mass: ``[batch, atoms, height, width]`` float64,
            ``log Σ_i exp(−Σ_{q in window} (x_t − γ a_i)²_q / 2σ²)``; minus infinity without images.
        mean: ``[batch, atoms, channels, height, width]`` float64, mean of the clean pixels under those
            weights; 0 without images.
    """

    log_mass: Tensor
    mean: Tensor


def blocks_of(images: Tensor, atom: Tensor) -> list[Block]:
    """Training images in the order in which they are streamed: large atoms alone, small ones together.

    Args:
        images: ``[samples, channels, height, width]`` clean images.
        atom: ``[samples]`` int64, the atom of each.
    """
    size = max(1, min(_IMAGES, _NUMBERS // max(1, images[0].numel()))) if len(images) else 1
    pieces = [(a, rows) for a in atom.unique().tolist() for rows in (atom == a).nonzero()[:, 0].split(size)]
    pieces.sort(key=lambda piece: -len(piece[1]))
    blocks = []
    while pieces:
        count = size // len(pieces[0][1])
        taken, pieces = pieces[:count], pieces[count:]
        rows = torch.nn.utils.rnn.pad_sequence(
            [rows for _, rows in taken], batch_first=True, padding_value=-1
        )
        # The pixels of one window lie together, as its products need them.
        block = images[rows.clamp_min(0)].permute(2, 3, 4, 0, 1).contiguous()
        absent = rows < 0 if (rows < 0).any() else None
        blocks.append(Block(torch.tensor([a for a, _ in taken], device=atom.device), block, absent))
    return blocks


def whole_window(height: int, width: int) -> int:
    """The least window that sees the whole image from every pixel: pixels a side."""
    return 2 * max(height, width) - 1


def kernel_moments(
    x_t: Tensor, gamma: Tensor, sigma: Tensor, blocks: Sequence[Block], atoms: int, window: int
) -> Moments:
    """Masses and means of every atom, streamed over the training images.

    Computed in float64, by inner products: distances between near-duplicates vanish next to norms. Where
    several pixels see the same part of the image, as all do through the image kernel's window, it is compared
    once. Held at a time are the images of a block in float64 (32 MB), ``batch × 2048`` weights, and what is
    returned: ``batch × atoms × (channels + 1) × pixels`` numbers.

    Args:
        x_t: ``[batch, channels, height, width]`` noised samples.
        gamma: ``[batch]``.
        sigma: ``[batch]``, positive.
        blocks: The training images, as ``blocks_of`` arranges them.
        atoms: Number of atoms, those without images included.
        window: Pixels along each side of the window, odd.
    """
    batch, channels, height, width = x_t.shape
    x, gamma, sigma = x_t.double(), gamma.double()[:, None], sigma.double()[:, None]
    log_mass = x.new_empty(batch, atoms, height, width)
    mean = x.new_empty(batch, atoms, channels, height, width)
    for (rows, seen_rows), (columns, seen_columns) in product(spans(height, window), spans(width, window)):
        seen, of = _part(seen_rows, seen_columns), _part(rows, columns)
        near = x[..., seen[0], seen[1]].flatten(1)
        # −‖x − γa‖²/2σ² without its first term, as one product: (γx/σ², −γ²/2σ²) · (a, ‖a‖²).
        query = torch.cat([near * (gamma / sigma.square()), -0.5 * (gamma / sigma).square()], dim=1)
        values = mean[0, 0, :, of[0], of[1]]
        peak, sums = _streamed(query, blocks, atoms, values.numel(), seen, of)
        mass = sums[:, :, -1]
        constant = near.square().sum(dim=1, keepdim=True) / (2 * sigma.square())
        log_mass[..., of[0], of[1]] = (peak + mass.log() - constant)[:, :, None, None]
        # The nearest image alone weighs 1: less than that is no image.
        mean[..., of[0], of[1]] = (sums[:, :, :-1] / mass.clamp_min(1)[:, :, None]).unflatten(2, values.shape)
    return Moments(log_mass, mean)


def _streamed(
    query: Tensor,
    blocks: Sequence[Block],
    atoms: int,
    values: int,
    seen: Part,
    of: Part,
) -> tuple[Tensor, Tensor]:
    """Largest logit ``[batch, atoms]``, and sums of clean pixels and of ones relative to it, over all blocks.

    Args:
        query: ``[batch, values + 1]``, what the images' pixels and their squared norms are multiplied by.
        blocks: The training images.
        atoms: Number of atoms.
        values: Number of clean pixels that are summed, of all channels.
        seen: Rows and columns that are compared.
        of: Rows and columns whose clean pixels are summed.

    Returns:
        ``[batch, atoms]`` and ``[batch, atoms, pixels + 1]``.
    """
    peak = query.new_full((len(query), atoms), -torch.inf)
    sums = query.new_zeros(len(query), atoms, values + 1)
    for atom, images, absent in blocks:
        compared = images[:, seen[0], seen[1]].double().flatten(0, 2)
        keys = torch.cat([compared, compared.square().sum(dim=0, keepdim=True)]).flatten(1)
        logits = (query @ keys).unflatten(1, images.shape[3:])
        if absent is not None:
            logits.masked_fill_(absent, -torch.inf)
        top = torch.maximum(peak[:, atom], logits.amax(dim=2))
        weights = logits.sub_(top[:, :, None]).exp_().transpose(0, 1)
        clean = images[:, of[0], of[1]].double().flatten(0, 2)
        clean = torch.cat([clean, torch.ones_like(clean[:1])]).permute(1, 2, 0)
        before = (peak[:, atom] - top).exp_()[:, :, None]
        sums[:, atom] = sums[:, atom] * before + (weights @ clean).transpose(0, 1)
        peak[:, atom] = top
    return peak, sums


def _part(rows: Span, columns: Span) -> Part:
    return slice(*rows), slice(*columns)


def spans(side: int, window: int) -> Iterator[tuple[Span, Span]]:
    """Along one side: runs of pixels that see the same part of it, and that part.

    Args:
        side: Pixels of the image along this side.
        window: Pixels of the window, odd.
    """
    seen = [(max(0, p - window // 2), min(side, p + window // 2 + 1)) for p in range(side)]
    first = 0
    for p in range(1, side + 1):
        if p == side or seen[p] != seen[first]:
            yield (first, p), seen[first]
            first = p


def overall_mean(moments: Moments) -> Tensor:
    """``E[x_0 | x_t]`` under all atoms: ``[batch, channels, height, width]`` float64."""
    return (moments.log_mass.softmax(dim=1)[:, :, None] * moments.mean).sum(dim=1)


def kept_less_all(moments: Moments, removed: Tensor) -> Tensor:
    """``E[x_0 | x_t, the atoms that are kept] − E[x_0 | x_t]`` of every coalition.

    Precise as well where nearly all mass is removed: such sums are taken again, relative to what is kept.

    Args:
        moments: Of ``A`` atoms.
        removed: ``[coalitions, A]`` bool; each leaves an atom with images.

    Returns:
        ``[batch, coalitions, channels, height, width]`` float64.
    """
    batch, _, channels, height, width = moments.mean.shape
    logits = moments.log_mass.permute(0, 2, 3, 1).flatten(0, 2)
    means = moments.mean.permute(0, 3, 4, 2, 1).flatten(0, 2)  # [pixels, channels, atoms]
    kept = (~removed).to(logits).T
    weights = logits.softmax(dim=1)
    mass, sums = weights @ kept, (weights[:, None] * means) @ kept
    found = sums / mass[:, None]
    pixels, coalitions = (mass < _UNDERFLOW).nonzero(as_tuple=True)
    for pixel, coalition in zip(pixels.split(_ROWS), coalitions.split(_ROWS), strict=True):
        of_kept = logits[pixel].masked_fill(removed[coalition], -torch.inf).softmax(dim=1)
        found[pixel, :, coalition] = (means[pixel] @ of_kept[:, :, None])[:, :, 0]
    found -= means @ weights[:, :, None]
    return found.view(batch, height, width, channels, -1).permute(0, 4, 3, 1, 2)


def multiplications(shape: tuple[int, int, int], window: int) -> int:
    """What ``kernel_moments`` costs per noised sample and training image, in multiplications.

    Exponentials count as 64 of them for each part of the image that is compared.

    Args:
        shape: Channels, height and width of the images.
        window: Pixels along each side of the window, odd.
    """
    channels, height, width = shape
    sizes = [[last - first for _, (first, last) in spans(side, window)] for side in (height, width)]
    return (
        sum(channels * rows * columns + 64 for rows, columns in product(*sizes)) + channels * height * width
    )
