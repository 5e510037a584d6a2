from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from guda_lightning.evaluation.result import Evaluation
from guda_lightning.report.agreement_table import share
from guda_lightning.report.agreement_text import agreement_text
from guda_lightning.report.agreement_verdicts import verdicts

Build = Callable[..., Evaluation]
TOGETHER = r"is not told apart from a second retraining: at most \.\d\d worse in top1"


@pytest.mark.parametrize(
    ("method", "ranks", "sizes"),
    [
        (lambda truth: truth, TOGETHER, "its scores have the oracle's size within queries"),
        (
            lambda truth: 10 * truth,
            TOGETHER,
            "differences between groups are .* times as large under the oracle",
        ),
        (
            lambda truth: truth + 2 * torch.randn_like(truth),
            r"falls short of a second retraining in top1 \(\.\d+ against \.\d+\) and ndcg@3 \(.*\)",
            "differences between groups are .* times as large under the oracle",
        ),
        (lambda truth: torch.randn_like(truth), "ranks no better than chance: do not use its order", ".*"),
    ],
)
def test_a_method_is_judged_beside_a_second_retraining(
    evaluation: Build, method: Callable[[Tensor], Tensor], ranks: str, sizes: str
) -> None:
    built = evaluation(mine=method)
    (sentence,) = verdicts(built)
    assert re.fullmatch(rf"mine \(weighting (elbo|uniform)\) {ranks}; {sizes}.*\.", sentence), sentence
    assert sentence in " ".join(agreement_text(built).split())


def test_the_size_is_the_slope_within_queries(evaluation: Build) -> None:
    built = evaluation(mine=lambda truth: 10 * truth)
    frame = built.magnitudes
    chosen = (frame["pooling"] == "within") & (frame["quantity"] == "slope")
    chosen &= (frame["weighting"] == built.weightings[0]) & (frame["method"] == "mine")
    (slope,) = frame["value"][chosen]
    assert slope == pytest.approx(0.1, rel=0.1)
    assert f"differences between groups are {slope:.3g} [" in verdicts(built)[0]


def test_a_slope_that_could_be_anything_is_no_size(evaluation: Build) -> None:
    built = evaluation(mine=lambda truth: truth)
    frame = built.magnitudes
    wide = frame.assign(low=-2.0, high=4.0)
    assert "is not known well enough (slope " in verdicts(replace(built, magnitudes=wide))[0]


def test_one_seed_cannot_tell_how_well_retraining_repeats(evaluation: Build) -> None:
    (sentence,) = verdicts(evaluation(seeds=1, mine=lambda truth: truth))
    assert sentence.startswith(
        "mine (weighting elbo) ranks better than chance; retrain a second oracle seed to see whether it "
        "ranks as well as that; "
    )


def test_the_margin_is_the_lower_end_of_the_paired_interval(evaluation: Build) -> None:
    built = evaluation(mine=lambda truth: truth + 0.5 * torch.randn_like(truth))
    frame = built.comparisons
    chosen = (frame["metric"] == "top1") & (frame["first"] == "mine") & (frame["second"] == "oracle")
    (low,) = frame["low"][chosen & (frame["weighting"] == built.weightings[0])]
    assert low < 0
    assert f"at most {share(-low, 2)} worse in top1" in verdicts(built)[0]
