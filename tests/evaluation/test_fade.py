from __future__ import annotations

import math

import pytest
import torch

from guda_lightning.evaluation.fade import ALL, fade


def distance(variance: float) -> float:
    """E|x| of x ~ N(0, variance)."""
    return math.sqrt(2 * variance / math.pi)


def test_distances_are_those_of_normal_likelihoods() -> None:
    """Scores of counterfactuals and of retrained models are the same truth with noise of their own."""
    queries, groups, oracles_noise, noise = 6000, 3, 0.5, 0.8
    truth = torch.randn(queries, groups).double()  # ELBO(full) - ELBO(without), but for noise
    oracles = truth + oracles_noise * torch.randn(3, queries, groups)
    methods = {"unlearned": truth + noise * torch.randn(queries, groups), "biased": truth + 1}
    found = fade(methods, oracles, list("abc"), resamples=200, level=0.999).set_index(["method", "group"])
    expected = {
        "unlearned": distance(oracles_noise**2 + noise**2),
        "oracle": distance(2 * oracles_noise**2),
    }
    for method, value in expected.items():
        for group in (ALL, *"abc"):
            line = found.loc[(method, group)]
            assert line["low"] < value < line["high"]
            assert line["high"] - line["low"] < 0.1
            assert line["full"] == pytest.approx(distance(1 + oracles_noise**2), abs=0.04)
    folded = oracles_noise * math.sqrt(2 / math.pi) * math.exp(-1 / (2 * oracles_noise**2))
    folded += math.erf(1 / (oracles_noise * math.sqrt(2)))  # E|x| of x ~ N(1, noise²)
    assert found.loc[("biased", ALL)]["value"] == pytest.approx(folded, abs=0.03)


def test_what_was_retrained_is_at_no_distance_and_one_seed_has_no_distance_of_its_own() -> None:
    oracle = torch.randn(1, 5, 2)
    found = fade({"same": oracle[0]}, oracle, ["a", "b"], resamples=20)
    assert list(found) == ["method", "group", "value", "low", "high", "full"]
    assert list(found["method"]) == ["same"] * 3
    assert (found[["value", "low", "high"]] == 0).all(axis=None)
    by_group = oracle[0].double().abs().mean(dim=0)
    assert found["full"].tolist() == pytest.approx([float(by_group.mean()), *by_group.tolist()])
