"""What every evaluation asks of the scores it is given."""

from __future__ import annotations

from torch import Tensor

from guda_lightning.errors import ConfigError, NumericsError


def as_matrix(name: str, scores: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return scores as float64 on the CPU.

    Args:
        name: Whose scores they are, for the error.
        scores: ``[queries, groups]``.
        shape: The shape of the oracle's scores.

    Raises:
        ConfigError: The shape is another one.
        NumericsError: A score is not finite.
    """
    if tuple(scores.shape) != shape:
        raise ConfigError(
            f"the scores of {name} have the wrong shape",
            found=f"shape {tuple(scores.shape)}",
            expected=f"shape {shape}: queries, groups",
            fix="take the same queries and groups from all score tables, in the same order",
        )
    if not scores.isfinite().all():
        query, group = (~scores.isfinite()).nonzero()[0].tolist()
        raise NumericsError(
            f"the scores of {name} are not all numbers",
            found=f"{scores[query, group].item()} at query {query}, group {group}",
            expected="finite numbers",
            fix="score that query again",
        )
    return scores.detach().double().cpu()


def refuse_ties_of_all(name: str, scores: Tensor) -> None:
    """Refuse a query whose groups all have the same score.

    Raises:
        NumericsError: There is one.
    """
    constant = (scores == scores[:, :1]).all(dim=1)
    if constant.any():
        raise NumericsError(
            f"the scores of {name} rank nothing",
            found=f"the same number for all {scores.shape[1]} groups of query {int(constant.nonzero()[0])}",
            expected="numbers that differ between groups",
            fix="leave that query out, or score it with more digits",
        )
