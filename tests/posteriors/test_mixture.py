"""``Mixture``: the weighted mean of what its members add to the score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from guda_lightning.diffusion.schedulers import noise_schedule
from guda_lightning.errors import ConfigError
from guda_lightning.posteriors import Corrections, GroupPosterior, KernelLevel, Mixture
from guda_lightning.posteriors.mixture import KERNEL_SHARE, kernel_share, mixed, weights_of_levels
from toys import message

SCHEDULE = noise_schedule(DDPMScheduler(num_train_timesteps=10))
GROUPS = ("a", "b", "c")
ATOMS = torch.tensor([[True, False, False], [True, True, False], [False, False, True]])


@dataclass(frozen=True, kw_only=True)
class Linear(GroupPosterior):
    """``strength · x · Σ of the values of removed atoms``, where each atom is worth one power of ten."""

    strength: float
    calls: list[int]

    def corrections(self, x_t: Tensor, timesteps: Tensor, labels: Tensor | None = None) -> Corrections:
        self.calls.append(len(x_t))
        worth = {"a": 1.0, "ab": 10.0, "c": 100.0}
        names = ["".join(sorted(g for g, is_in in zip(self.groups, row, strict=True) if is_in))
                 for row in self.atoms.tolist()]  # fmt: skip
        values = torch.tensor([worth[name] for name in names])

        def correct(removed: Tensor) -> Tensor:
            return self.strength * (removed.float() @ values)[None, :, None] * x_t[:, None]

        return correct


def linear(strength: float, groups: tuple[str, ...] = GROUPS, atoms: Tensor = ATOMS) -> Linear:
    return Linear(schedule=SCHEDULE, atoms=atoms, groups=groups, strength=strength, calls=[])


def mixture(*members: GroupPosterior, weights: Tensor) -> Mixture:
    return Mixture(schedule=SCHEDULE, atoms=ATOMS, groups=GROUPS, members=members, weights=weights)


def test_corrections_are_weighted_by_noise_level_and_what_weighs_nothing_is_not_computed() -> None:
    # The second names groups and atoms in another order, as a posterior from elsewhere may.
    one, two = linear(1.0), linear(2.0, ("c", "b", "a"), ATOMS[[2, 0, 1]][:, [2, 1, 0]])
    weights = torch.zeros(10, 2)
    weights[:5], weights[5:] = torch.tensor([1.0, 0.0]), torch.tensor([0.25, 0.75])
    x, timesteps = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([1, 7, 4])
    both = mixture(one, two, weights=weights)
    removed = both.removed([["a"], ["b"], ["c"]])
    found = both.corrections(x, timesteps)(removed)
    worth = torch.tensor([11.0, 10.0, 100.0])  # of a and its atom shared with b, of that atom, of c
    strength = torch.tensor([1.0, 0.25 * 1 + 0.75 * 2, 1.0])
    torch.testing.assert_close(found[..., 0], strength[:, None] * x * worth)
    assert (one.calls, two.calls) == ([3], [1])


def test_errors_are_the_mean_of_the_errors_of_members() -> None:
    """Of scores, not of predictions: the error of the mean is smaller where members disagree."""
    one, two = linear(1.0), linear(2.0, ("c", "b", "a"), ATOMS[[2, 0, 1]][:, [2, 1, 0]])
    weights = torch.zeros(10, 2)
    weights[:5], weights[5:] = torch.tensor([1.0, 0.0]), torch.tensor([0.25, 0.75])
    x, timesteps = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([1, 7, 4])
    noise, predicted = torch.tensor([[0.5], [-1.0], [2.0]]), torch.tensor([[0.1], [0.3], [0.2]])
    both = mixture(one, two, weights=weights)
    removed = both.removed([["a"], ["b"], ["c"]])
    found = both.errors(noise, predicted, x, timesteps, removed)
    sigma = SCHEDULE.at(timesteps, like=x.double())[1]
    step = sigma * x.double() * torch.tensor([11.0, 10.0, 100.0]).double()
    residual = (noise - predicted).double()
    alone = [(residual + strength * step).square() for strength in (1.0, 2.0)]
    share = torch.tensor([[1.0], [0.25], [1.0]]).double()
    torch.testing.assert_close(found, share * alone[0] + (1 - share) * alone[1], rtol=1e-5, atol=0.0)


def test_members_of_other_groups_are_refused() -> None:
    other = linear(1.0, ("a", "b", "d"))
    expected = message(
        "the members of a mixture are posteriors of other groups than the mixture",
        "Linear of a, b, d",
        "a, b, c",
        "make all of them from the same grouping",
    )
    with pytest.raises(ConfigError, match=expected):
        mixture(other, weights=torch.ones(10, 1))


def test_a_kernel_weighs_more_the_nearer_it_is_to_the_full_model() -> None:
    levels = [KernelLevel(1, 3, 1, 0.5, 0.2), KernelLevel(4, 9, 3, 0.9, 0.05)]  # .035, too little, and .3
    rows = mixed(2, levels, (1, 9))
    assert rows == [
        {"first": 1, "last": 3, "weights": [0.5, 0.5, 0.0]},
        {"first": 4, "last": 9, "weights": [0.35, 0.35, 0.3]},
    ]
    table = weights_of_levels(rows, 10)  # timestep 0, which is not scored, is like its neighbour
    torch.testing.assert_close(table, torch.tensor([[0.5, 0.5, 0.0]] * 4 + [[0.35, 0.35, 0.3]] * 6).double())


@given(st.lists(st.floats(0, 2), min_size=2, max_size=2))
def test_the_share_of_a_kernel_falls_with_its_error(errors: list[float]) -> None:
    near, far = sorted(errors)
    assert kernel_share(0.0) == KERNEL_SHARE >= kernel_share(near) >= kernel_share(far) >= 0


def test_without_a_kernel_classifiers_weigh_alike() -> None:
    rows: list[dict[str, Any]] = mixed(3, [], (1, 9))
    assert rows == [{"first": 1, "last": 9, "weights": [1 / 3] * 3}]
    torch.testing.assert_close(weights_of_levels(rows, 10).sum(dim=1), torch.ones(10).double())
