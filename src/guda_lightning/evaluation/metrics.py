"""Agreement with an oracle as torchmetrics: means over all queries of all batches and processes.

The formulas, and what happens to ties, are those of ``guda_lightning.functional.ranking``.

Example:
    >>> import torch
    >>> from torchmetrics import MetricCollection
    >>> from guda_lightning.evaluation import NDCG, Spearman, Top1Agreement
    >>> metrics = MetricCollection([Top1Agreement(), NDCG(k=2), Spearman()])
    >>> scores = torch.tensor([[3.0, 1.0, 2.0], [0.1, 0.3, 0.2]])  # [queries, groups]
    >>> oracle = torch.tensor([[9.0, 1.0, 4.0], [0.5, 0.1, 0.4]])
    >>> {name: round(value.item(), 3) for name, value in metrics(scores, oracle).items()}
    {'Top1Agreement': 0.5, 'NDCG': 0.587, 'Spearman': 0.0}
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from guda_lightning.errors import ConfigError
from guda_lightning.functional import ranking


class _RankingMetric(Metric):
    """Mean over queries of a formula; exact in several processes, whose sums are added.

    Args:
        name: Tells this formula, arguments included, from all others.
        formula: ``(scores, oracle)``, both ``[queries, groups]``, to one number per query.
        kwargs: Arguments of ``torchmetrics.Metric``.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    queries: Tensor

    def __init__(self, name: str, formula: Callable[[Tensor, Tensor], Tensor], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        formula(torch.eye(2), torch.eye(2))  # refuses arguments out of range here, not at the first update
        self._formula = formula
        # A MetricCollection takes metrics for one if their states have the same names and, after the first
        # batch, the same values; those of most formulas are equal where both sides rank alike.
        self._total = f"total_{name}"
        self.add_state(self._total, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("queries", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, scores: Tensor, oracle: Tensor) -> None:
        """Add some queries.

        Args:
            scores: ``[queries, groups]``, larger = contributed more.
            oracle: ``[queries, groups]``.

        Raises:
            ConfigError: The shapes differ, or there are fewer than two groups.
            NumericsError: A number is not finite, or a row ranks nothing and the formula needs a ranking.
        """
        values = self._formula(scores, oracle)
        setattr(self, self._total, getattr(self, self._total) + values.sum())
        self.queries += len(values)

    def compute(self) -> Tensor:
        """Mean over all queries, a float64 number.

        Raises:
            ConfigError: There were no queries.
        """
        if self.queries == 0:
            raise ConfigError(
                f"{type(self).__name__} has no queries to average over",
                found="0 queries",
                expected="at least 1",
                fix="call update(scores, oracle) before compute()",
            )
        mean: Tensor = getattr(self, self._total) / self.queries
        return mean


class Top1Agreement(_RankingMetric):
    """Share of queries for which both sides rank the same group first.

    Args:
        kwargs: Arguments of ``torchmetrics.Metric``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("top1", ranking.top1_agreement, **kwargs)


class MRR(_RankingMetric):
    """Mean of ``1 / rank`` that the scores give to the oracle's first group.

    Args:
        kwargs: Arguments of ``torchmetrics.Metric``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("mrr", ranking.mrr, **kwargs)


class NDCG(_RankingMetric):
    """Discounted gain of the first k groups over the largest possible.

    Args:
        k: How many of the first groups count, at least 1.
        kwargs: Arguments of ``torchmetrics.Metric``.
    """

    def __init__(self, k: int = 3, **kwargs: Any) -> None:
        super().__init__(f"ndcg@{k}", partial(ranking.ndcg, k=k), **kwargs)


class WPRA(_RankingMetric):
    """Share of pairs of groups ordered as in the oracle, weighted by the oracle's difference.

    Args:
        top: Only pairs with one of the oracle's first ``top`` groups count; None counts all.
        kwargs: Arguments of ``torchmetrics.Metric``.
    """

    def __init__(self, top: int | None = 3, **kwargs: Any) -> None:
        super().__init__(f"wpra@{top}", partial(ranking.wpra, top=top), **kwargs)


class RBO(_RankingMetric):
    """Rank-biased overlap, truncated at the number of groups and not normalised.

    Args:
        p: Weight of depth d+1 relative to depth d, in (0, 1).
        kwargs: Arguments of ``torchmetrics.Metric``.
    """

    def __init__(self, p: float = 0.9, **kwargs: Any) -> None:
        super().__init__(f"rbo@{p}", partial(ranking.rbo, p=p), **kwargs)


class Spearman(_RankingMetric):
    """Mean rank correlation.

    Args:
        kwargs: Arguments of ``torchmetrics.Metric``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("spearman", ranking.spearman, **kwargs)
