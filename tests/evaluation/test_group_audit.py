from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from guda_lightning.data.grouping import Grouping
from guda_lightning.evaluation.group_audit import (
    by_content,
    calibration,
    halves,
    is_tail,
    on_the_two,
    overlaps,
    same_content,
)


def test_groups_overlap_with_the_one_they_share_most_with() -> None:
    grouping = Grouping({"a": [0, 1, 2, 3], "b": [2, 3, 4, 5], "c": [5], "d": [6, 7], "e": []}, 8)
    found = overlaps(grouping)
    assert found["a"] == ("b", pytest.approx(2 / 6))
    assert found["b"] == ("a", pytest.approx(2 / 6))
    assert found["c"] == ("b", pytest.approx(1 / 4))
    assert found["d"] == found["e"] == ("", 0.0)


def test_a_tail_has_less_than_half_the_mean_size() -> None:
    grouping = Grouping({"a": [0, 1, 2, 3, 4, 5, 6], "b": [7, 8], "c": [9, 10, 11]}, 12)
    assert [is_tail(grouping.size(name), grouping) for name in grouping.names] == [False, False, False]
    assert is_tail(1, grouping)


def test_calibrated_probabilities_are_as_far_off_as_chance_and_others_further() -> None:
    generator = torch.Generator().manual_seed(0)
    rho = torch.rand(4, 400, generator=generator, dtype=torch.float64)
    rho[1:] = rho[0]
    inside = torch.rand(400, generator=generator) < rho[0]
    good = calibration(rho, inside, 0)
    assert good.samples == int(inside.sum())
    assert good.error is not None and good.chance is not None and good.error < good.chance < 0.3
    sharp = calibration((4 * (rho - 0.5)).add(0.5).clamp(0, 1), inside, 0)
    assert sharp.error is not None and sharp.chance is not None and sharp.error > 2 * sharp.chance
    assert calibration(rho, torch.zeros(400, dtype=torch.bool), 0) == (0, None, None)
    assert calibration(rho, torch.arange(400) < 4, 0) == (4, None, None)  # too few to say anything
    # By hand: one bin, the mean probability of .25 against a frequency of .5.
    even = calibration(torch.full((1, 12), 0.25), torch.arange(12) % 2 == 0, 0)
    assert even.error == pytest.approx(0.25 / 0.5)


def test_halves_of_two_modes_are_told_from_those_of_one() -> None:
    generator = torch.Generator().manual_seed(0)
    one, two, three, other = torch.randn(4, 200, generator=generator, dtype=torch.float64)
    noise = 0.3 * torch.randn(5, 200, generator=generator, dtype=torch.float64)
    # "two" hides the modes two and three, and one of them is rather like "other".
    columns = [one + noise[0], one + noise[1], two + noise[2], 0.7 * other + three, other]
    scores = torch.stack(columns, dim=1)
    found = halves(scores, ["one", "two", "other"], [True, True, False])
    assert list(found) == ["one", "two"]
    expected = spearmanr(scores[:, 0], scores[:, 1]).statistic
    assert found["one"].agree == pytest.approx(expected, abs=1e-6)
    assert found["one"].low < found["one"].agree < found["one"].high
    assert not found["one"].below
    assert found["two"].below and found["two"].nearest == "other"
    rows = np.array_split(np.random.default_rng(0).permutation(200), 2)[1]  # those that did not choose
    expected = spearmanr(scores[rows, 3], other[rows]).statistic
    assert found["two"].nearest_agree == pytest.approx(expected, abs=1e-6)
    assert abs(found["two"].agree) < 0.2
    assert found["one"].one_sided == 0 and found["two"].one_sided > 0.2


@pytest.mark.parametrize("shared", [0.0, 0.5])
def test_halves_that_are_as_like_another_group_are_marked_as_often_as_chance(shared: float) -> None:
    generator = torch.Generator().manual_seed(0)
    groups = [str(row) for row in range(10)]
    below: list[bool] = []
    lead: list[float] = []
    for _ in range(60):
        common = torch.randn(60, 1, generator=generator)
        columns = torch.randn(60, 20, generator=generator)
        scores = shared**0.5 * common + (1 - shared) ** 0.5 * columns
        found = halves(scores, groups, [True] * 10).values()
        below += [of.below for of in found]
        lead += [of.nearest_agree - of.agree for of in found]
    assert len(below) == 600 and np.mean(below) < 0.06  # 2.5 % with many queries
    assert np.mean(lead) == pytest.approx(0, abs=0.03)  # the nearest is not nearer where it was not chosen


def test_ties_share_their_rank_and_what_does_not_vary_agrees_with_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    tied = torch.randint(3, (60, 4), generator=generator).double()
    agree = halves(tied, ["a", "b"], [True, True])["a"].agree
    assert agree == pytest.approx(spearmanr(tied[:, 0], tied[:, 1]).statistic, abs=1e-6)
    constant = tied.clone()
    constant[:, 0] = 1.0  # one half of a
    found = halves(constant, ["a", "b"], [True, True])
    assert list(found) == ["b"] and found["b"].nearest == "a"
    constant[:, 1] = 1.0  # both
    assert halves(constant, ["a", "b"], [True, True]) == {}


def test_too_few_queries_say_nothing() -> None:
    assert halves(torch.randn(39, 4), ["a", "b"], [True, True]) == {}
    assert halves(torch.randn(50, 2), ["a"], [True]) == {}


def test_pairs_differ_in_the_group_alone() -> None:
    ids = ["Van_Gogh/Dogs/3", "Cubism/Dogs/3", "Cubism/Cats/3", "7/ember", "7/frost", "sample-0"]
    groups = ["Van Gogh", "Cubism", "ember", "frost", "7 up"]
    assert same_content(ids, groups) == [(0, 1, "Van Gogh", "Cubism", 0), (3, 4, "ember", "frost", 2)]
    assert same_content(["Cubism/v1.5/4", "ember/v1.5/3", "7/a.v1", "8/a.v2"], [*groups, "7", "8"]) == []
    assert same_content(["a/b", "b/a"], ["a", "b"]) == []  # each names two groups
    assert same_content(["ember", "frost"], groups) == []  # no content


def test_a_difference_sits_on_the_two_groups_or_is_spread() -> None:
    groups, pairs = ["a", "b", "c", "d"], same_content(["x/a", "x/b"], ["a", "b", "c", "d"])
    exact = torch.tensor([[5.0, 1, 2, 0], [1, 6, 2, 0]])
    assert on_the_two(exact, groups, pairs).tolist() == [1.0]
    even = torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 1]])
    assert on_the_two(even, groups, pairs).tolist() == [0.5]
    random = torch.from_numpy(np.random.default_rng(0).normal(size=(2000, 4)))
    many = [pairs[0]._replace(first=2 * row, second=2 * row + 1) for row in range(1000)]
    assert float(on_the_two(random, groups, many).mean()) == pytest.approx(0.5, abs=0.03)


def test_queries_with_equal_scores_tell_no_share() -> None:
    pairs = same_content(["a/x", "b/x", "c/x"], "abc")
    scores = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [4.0, 2.0, 3.0]])
    assert on_the_two(scores, "abc", pairs).isfinite().tolist() == [False, True, True]


def test_pairs_of_one_content_are_not_independent() -> None:
    pairs = same_content(["x/a", "x/b", "x/c", "y/a", "y/b"], ["a", "b", "c"])
    assert [pair.content for pair in pairs] == [0, 0, 0, 1]
    share = torch.tensor([0.1, 0.2, 0.6, 0.5], dtype=torch.float64)
    torch.testing.assert_close(by_content(share, pairs), torch.tensor([0.3, 0.5], dtype=torch.float64))
    assert by_content(share[3:], pairs[3:]).tolist() == [0.5]
