"""Codes of an ensemble's members, and errors of any of them, against brute force."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from guda_lightning.errors import ConfigError
from guda_lightning.functional.ablation import (
    ablated_rise,
    coalition_errors,
    codes,
    fewest_members,
    gram,
    gram_of_pairs,
    jackknife,
    leave_one_out,
    mean_of_subsets,
    pair_errors,
    pairs,
)
from toys import message

FEW = {4: 3, 6: 3, 8: 5, 10: 6, 12: 6}  # groups by which so many members always differ


@st.composite
def ensembles(draw: st.DrawFn) -> tuple[int, int, int]:
    members = draw(st.sampled_from(list(FEW)))
    most = min(math.comb(members, members // 2), 90)
    return draw(st.integers(FEW[members], most)), members, draw(st.integers(0, 2**32))


@given(ensembles())
def test_codes_are_distinct_and_balanced(chosen: tuple[int, int, int]) -> None:
    groups, members, seed = chosen
    found = codes(groups, members, seed)
    assert found.shape == (groups, members)
    assert (found.sum(dim=1) == members // 2).all()
    assert len(found.unique(dim=0)) == groups
    assert len(found.T.unique(dim=0)) == members  # no two members are trained on the same groups
    trained_on = found.sum(dim=0)
    assert trained_on.min() > 0 and trained_on.max() < groups
    assert (2 * trained_on - groups).abs().max() <= 10  # about half of them
    assert codes(groups, members, seed).equal(found)
    signs = 2 * found.long() - 1
    opposite = int((signs @ signs.T == -members).sum()) // 2
    assert opposite == max(0, groups - math.comb(members, members // 2) // 2) or members <= 4


def test_which_groups_have_opposite_scores_differs_between_seeds() -> None:
    partners = set()
    for seed in range(5):
        found = codes(20, 6, seed)
        partners.add(tuple((~row == found).all(dim=1).int().argmax().item() for row in found))
    assert len(partners) == 5


def test_seeds_differ_and_leave_one_out_misses_one_group_each() -> None:
    assert not codes(20, 6, 0).equal(codes(20, 6, 1))
    assert len(codes(20, 6, 0).unique(dim=0)) == 20  # all there are
    assert leave_one_out(3).tolist() == [[False, True, True], [True, False, True], [True, True, False]]
    served = [3, 10, 11, 35, 36, 126, 127, 462, 463]
    assert [fewest_members(groups) for groups in served] == [6, 6, 8, 8, 10, 10, 12, 12, 14]


@given(st.integers(3, 40), st.integers(0, 2**32))
def test_the_fewest_members_need_no_complements(groups: int, seed: int) -> None:
    signs = 2 * codes(groups, fewest_members(groups), seed).long() - 1
    assert (signs @ signs.T).min() > -signs.shape[1]


def _residuals(batch: int, members: int, seed: int) -> Tensor:
    return torch.randn(
        batch, members, 2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def _direct(residuals: Tensor, chosen: list[int]) -> Tensor:
    """``‖mean of the chosen residuals‖²``."""
    return residuals[:, chosen].mean(dim=1).flatten(1).square().sum(dim=1)


@given(st.integers(1, 6), st.integers(0, 2**20), st.data())
def test_errors_of_any_members_follow_from_the_gram_matrix(
    members: int, seed: int, data: st.DataObject
) -> None:
    residuals = _residuals(3, members, seed)
    chosen = data.draw(st.lists(st.integers(0, members - 1), min_size=1, unique=True))
    mask = torch.zeros(1, members, dtype=torch.bool)
    mask[0, chosen] = True
    products = gram(residuals)
    torch.testing.assert_close(coalition_errors(products, mask)[:, 0], _direct(residuals, chosen))
    errors = pair_errors(products)
    expected = [_direct(residuals, [i] if i == j else [i, j]) for i, j in pairs(members).T.tolist()]
    torch.testing.assert_close(errors, torch.stack(expected, dim=1))
    torch.testing.assert_close(gram_of_pairs(errors, members), products)


@given(st.integers(1, 6), st.integers(0, 2**20), st.data())
def test_the_mean_over_subsets_is_that_of_all_of_them(members: int, seed: int, data: st.DataObject) -> None:
    residuals, size = _residuals(2, members, seed), data.draw(st.integers(1, members))
    every = [_direct(residuals, list(one)) for one in combinations(range(members), size)]
    torch.testing.assert_close(mean_of_subsets(gram(residuals), size), torch.stack(every).mean(dim=0))


def test_where_all_codes_are_taken_rises_cancel() -> None:
    """The groups' members are then all halves, whose mean is what each is compared with."""
    rises = ablated_rise(gram(_residuals(4, 6, 0)), ~codes(20, 6, 0))
    torch.testing.assert_close(rises.sum(dim=1), torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-12)
    assert rises.abs().max() > 0.1


@given(st.sampled_from([(7, 6), (20, 8), (60, 10)]), st.integers(0, 2**20))
def test_rises_say_nothing_of_what_all_groups_do_alike(size: tuple[int, int], seed: int) -> None:
    """Every group lowers the loss of the members that saw it by one: L_j = L − n_j, residuals orthogonal.

    A set's error is then ``Σ_{j∈A} L_j / m²``, and its rise ``(mean n − mean of n_j over A) / m``: what the
    members of A saw less of than others, whichever sign that has, and not the 1 of the group.
    """
    found = codes(*size, seed)
    seen = found.sum(dim=0).double()
    rises = ablated_rise(torch.diag(100 - seen), ~found)
    expected = (seen.mean() - torch.stack([seen[~row].mean() for row in found])) / (size[1] // 2)
    torch.testing.assert_close(rises, expected)
    # All codes of as many members, or one member without each group: nothing is left of what they share.
    for every in (codes(math.comb(6, 3), 6, seed), leave_one_out(size[0])):
        products = torch.diag(100 - every.sum(dim=0).double())
        rises = ablated_rise(products, ~every)
        torch.testing.assert_close(rises, torch.zeros_like(rises), rtol=0, atol=1e-12)


def test_groups_that_all_help_may_have_negative_rises_that_the_jackknife_calls_certain() -> None:
    found = codes(60, 10, 0)
    products = torch.diag(100 - found.sum(dim=0).double())
    rises, errors = ablated_rise(products, ~found), jackknife(products, ~found)
    assert (rises < 0).double().mean() > 0.2
    assert (rises / errors).min() < -2


def test_sets_of_other_sizes_are_compared_with_their_like() -> None:
    residuals = _residuals(2, 4, 0)
    masks = torch.tensor([[1, 0, 0, 0], [0, 1, 1, 0], [1, 1, 0, 1], [1, 1, 1, 1]]).bool()
    found = ablated_rise(gram(residuals), masks)
    for column, row in enumerate(masks.tolist()):
        chosen = [member for member, held in enumerate(row) if held]
        likes = [_direct(residuals, list(one)) for one in combinations(range(4), len(chosen))]
        torch.testing.assert_close(
            found[:, column], _direct(residuals, chosen) - torch.stack(likes).mean(dim=0)
        )


def test_the_jackknife_leaves_every_member_out_in_turn() -> None:
    residuals, chosen, rest = _residuals(1, 5, 0), [0, 2], [1, 3, 4]

    def rise(without: int) -> float:
        left = [member for member in range(5) if member != without]
        those = [member for member in chosen if member != without]
        likes = [_direct(residuals, list(one)) for one in combinations(left, len(those))]
        return float(_direct(residuals, those) - torch.stack(likes).mean())

    variance = 0.0
    for part in (chosen, rest):
        values = [rise(member) for member in part]
        mean = sum(values) / len(part)
        variance += (len(part) - 1) / len(part) * sum((value - mean) ** 2 for value in values)
    mask = torch.zeros(1, 5, dtype=torch.bool)
    mask[0, chosen] = True
    assert float(jackknife(gram(residuals), mask)) == pytest.approx(math.sqrt(variance))


def test_the_jackknife_is_about_the_spread_of_repeated_ensembles() -> None:
    """Members of many numbers each: r_j = a + u_j, where the u_j of independent ensembles are independent."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(1, 1, 40, generator=generator, dtype=torch.float64)
    own = torch.randn(4000, 12, 40, generator=generator, dtype=torch.float64)
    products, mask = gram(common + 0.3 * own), codes(7, 12, 0)[:1]
    spread = ablated_rise(products, mask).std()
    assert float(jackknife(products, mask).square().mean().sqrt() / spread) == pytest.approx(1, abs=0.15)


# refused


@pytest.mark.parametrize(
    ("groups", "members", "problem", "found", "expected", "fix"),
    [
        (
            21,
            6,
            "6 members have too few codes for 21 groups",
            "20 codes with 3 ones",
            "a code of its own for each group",
            8,
        ),
        (20, 7, "the members of an ensemble are out of range", 7, "an even number from 4 to 20", 8),
        (4, 22, "the members of an ensemble are out of range", 22, "an even number from 4 to 20", 6),
        (
            *(4, 18, "4 groups are too few for 18 members"),
            *("members that would be trained on the same groups", "other groups for every member", 6),
        ),
    ],
)
def test_members_that_do_not_serve_are_refused(
    groups: int, members: int, problem: str, found: object, expected: str, fix: int
) -> None:
    what = (
        "smaller groups"
        if "too few for" in problem and "codes" not in problem
        else "more for scores with less noise"
    )
    with pytest.raises(
        ConfigError, match=message(problem, found, expected, f"take {fix} members, or {what}")
    ):
        codes(groups, members, 0)


def test_too_few_groups_are_refused() -> None:
    problem = "the number of groups of an ensemble is out of range"
    fix = "make three groups or more; of very many, join some"
    with pytest.raises(ConfigError, match=message(problem, 2, "3 <= groups <= 92378", fix)):
        fewest_members(2)
    with pytest.raises(ConfigError, match=message(problem, 1, "groups >= 2", "make two groups or more")):
        leave_one_out(1)
