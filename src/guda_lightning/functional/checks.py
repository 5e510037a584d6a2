"""Checks of the scores that a comparison is given."""

from __future__ import annotations

from torch import Tensor

from guda_lightning.errors import ConfigError, NumericsError


def checked_scores(whose: str, scores: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return scores that can be compared with others, as float64.

    Args:
        whose: What they are, for the error: "the scores of ...".
        scores: ``[queries, groups]``.
        shape: The shape of the others.

    Raises:
        ConfigError: The shape is another one.
        NumericsError: A score is not finite.
    """
    if tuple(scores.shape) != shape:
        raise ConfigError(
            f"{whose} have the wrong shape",
            found=f"shape {tuple(scores.shape)}",
            expected=f"shape {shape}: queries, groups",
            fix="take the same queries and groups from all score tables, in the same order",
        )
    refuse_nonfinite(whose, scores)
    return scores.detach().double()


def refuse_nonfinite(whose: str, scores: Tensor) -> None:
    """Refuse scores ``[queries, groups]`` or ``[partitions, queries, groups]`` that are not all finite.

    Raises:
        NumericsError: One is not.
    """
    if not scores.isfinite().all():
        position = (~scores.isfinite()).nonzero()[0].tolist()
        names = ("partition", "query", "group")[-scores.dim() :]
        place = ", ".join(f"{name} {index}" for name, index in zip(names, position, strict=True))
        raise NumericsError(
            f"{whose} are not all finite",
            found=f"{scores[tuple(position)].item()} at {place}",
            expected="finite numbers",
            fix="score that query again",
        )


def refuse_constant(whose: str, scores: Tensor) -> None:
    """Refuse a query whose groups all have the same score.

    Args:
        whose: What they are, for the error.
        scores: ``[queries, groups]``.

    Raises:
        NumericsError: There is one.
    """
    constant = (scores == scores[:, :1]).all(dim=1)
    if constant.any():
        raise NumericsError(
            f"{whose} do not differ between groups",
            found=f"the same number for all {scores.shape[1]} groups of query {int(constant.nonzero()[0])}",
            expected="numbers that differ between groups",
            fix="leave that query out, or score it with more digits",
        )
