"""FADE: whether a counterfactual gives samples the likelihood that the retrained model gives them."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor

from guda_lightning.evaluation.agreement import ORACLE
from guda_lightning.evaluation.bootstrap import interval, resampled_means

_COLUMNS = ["method", "group", "value", "low", "high", "full"]
ALL = "all groups"


def fade(
    methods: Mapping[str, Tensor],
    oracles: Tensor,
    groups: list[str],
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Mean distance of log-likelihoods between each counterfactual and the model retrained without the group.

    FADE (Cho et al. 2025, arXiv 2510.12981) compares an unlearned model with a retrained one by the
    likelihoods that both assign to samples that each of them generates. Here, for group k, with the evidence
    lower bound in place of the likelihood:

        ``FADE_k = mean over queries x of |ELBO(x; counterfactual without k) − ELBO(x; retrained without k)|``

    As a score is ELBO(full) − ELBO(counterfactual), this is the mean of
    ``|oracle's score − method's score|``; both derive from squared errors on the same noise, and need no
    further network evaluation. 0: the two cannot be told apart; ``full`` is the distance of the full model
    itself, of whoever unlearns nothing.

    What departs from the paper: one set of samples, the queries, which the *full* model generated or the user
    brought, stands in place of two sets, one of each compared model; so this says how the two differ on what
    is attributed, and not where either puts mass of its own. A bound is no likelihood, and the weightings
    other than ``elbo`` compare the weighted training loss instead. The noise of few draws adds to the
    distance: compare with the row "oracle", one retraining against another.

    Args:
        methods: Name to scores ``[queries, groups]``: of counterfactuals, in the oracle's unit.
        oracles: Those of the oracle, ``[seeds, queries, groups]``. With several, each in turn is retrained,
            and the mean of the methods' distances to them is taken; "oracle" is the distance of each to each
            other.
        groups: Names of the groups.
        resamples: Bootstrap resamples of the queries, and of the oracle's seeds.
        level: Coverage of the intervals, in (0, 1).
        seed: Seed of the resamples.

    Returns:
        Columns ``method, group, value, low, high, full``, all in the unit of the scores; the group "all
        groups" is the mean of all.
    """
    oracles = oracles.double()
    distances = {name: (scores.double() - oracles).abs() for name, scores in methods.items()}
    if len(oracles) > 1:
        distances[ORACLE] = (oracles[:, None] - oracles[None]).abs().sum(dim=1) / (len(oracles) - 1)
    of_full = _with_mean(oracles.abs()).mean(dim=(0, 1)).tolist()
    rows: list[tuple[object, ...]] = []
    for name, distance in distances.items():
        with_mean = _with_mean(distance)
        drawn = resampled_means(with_mean.transpose(0, 1), resamples, seed)  # [resamples, 1 + groups]
        low, high = interval(drawn, level)
        columns = ([ALL, *groups], with_mean.mean(dim=(0, 1)).tolist(), low.tolist(), high.tolist(), of_full)
        rows += [(name, *row) for row in zip(*columns, strict=True)]
    return pd.DataFrame(rows, columns=_COLUMNS)


def _with_mean(distance: Tensor) -> Tensor:
    """``[seeds, queries, groups]`` with the mean of all groups in front."""
    return torch.cat([distance.mean(dim=2, keepdim=True), distance], dim=2)
