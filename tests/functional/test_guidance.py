from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from guda_lightning.errors import GroupError
from guda_lightning.functional.guidance import (
    guide_output,
    kept_shift,
    log_kept,
    removed_atoms,
)
from guda_lightning.functional.prediction import to_noise
from guda_lightning.types import PredictionType
from toys import message

ATOMS = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1]]).bool()  # of overlapping groups


@given(
    atoms=st.sets(st.frozensets(st.integers(0, 3)), min_size=2, max_size=8),
    coalition=st.frozensets(st.integers(0, 3), min_size=1),
)
def test_a_coalition_removes_the_atoms_that_are_in_one_of_its_groups(
    atoms: set[frozenset[int]], coalition: frozenset[int]
) -> None:
    ordered = sorted(atoms, key=sorted)
    table = torch.tensor([[group in atom for group in range(4)] for atom in ordered])
    requested = torch.tensor([[group in coalition for group in range(4)]])
    expected = [bool(atom & coalition) for atom in ordered]
    if all(expected):
        with pytest.raises(GroupError, match="covers all training samples"):
            removed_atoms(table, requested)
    else:
        assert removed_atoms(table, requested).tolist() == [expected]


def test_a_coalition_that_covers_all_data_is_refused() -> None:
    with pytest.raises(
        GroupError,
        match=message(
            "a set of groups covers all training samples",
            "3 of 3 groups, which leave no sample",
            "some samples left",
            "remove fewer groups at once",
        ),
    ):
        removed_atoms(ATOMS[1:], torch.tensor([[True, False, False], [True, True, True]]))


def test_log_kept_is_the_logarithm_of_the_probability_that_is_left() -> None:
    logits = torch.randn(6, 5, dtype=torch.float64)
    removed = removed_atoms(ATOMS, torch.eye(3).bool())
    probability = logits.softmax(dim=1)
    expected = torch.stack([(1 - probability[:, row].sum(dim=1)).log() for row in removed], dim=1)
    torch.testing.assert_close(log_kept(logits, removed), expected)


def test_log_kept_is_precise_where_the_probability_rounds_to_one() -> None:
    logits = torch.tensor([[80.0, 0.0, -1.0]])  # 1 - p is 0 in float32
    kept = log_kept(logits, torch.tensor([[True, False, False]]))
    expected = torch.tensor([0.0, -1.0]).logsumexp(0) - 80
    torch.testing.assert_close(kept, expected.view(1, 1))


def shifted(logits: Tensor, removed: Tensor, values: Tensor) -> Tensor:
    return kept_shift(logits.log_softmax(dim=1), removed, values, logits.softmax(dim=1) @ values)


def test_the_kept_shift_of_unit_vectors_is_the_gradient_of_log_kept() -> None:
    logits = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    removed = removed_atoms(ATOMS, torch.tensor([[1, 0, 0], [1, 0, 1]]).bool())
    shift = shifted(logits.detach(), removed, torch.eye(5).double())
    for coalition in range(2):
        (gradient,) = torch.autograd.grad(log_kept(logits, removed)[:, coalition].sum(), logits)
        torch.testing.assert_close(shift[:, coalition], gradient)


@pytest.mark.parametrize("scale", [1, 10, 3000])  # at the last, what is kept underflows beside what is not
def test_the_kept_shift_is_that_of_its_definition(scale: float) -> None:
    logits, values = scale * torch.randn(6, 5).double(), torch.randn(5, 3).double()
    removed = torch.cat([torch.eye(5).bool(), torch.rand(8, 5) < 0.5])
    removed[removed.all(dim=1), 0] = False
    kept = logits[:, None].masked_fill(removed, -torch.inf).softmax(dim=2) @ values
    expected = kept - (logits.softmax(dim=1) @ values)[:, None]
    torch.testing.assert_close(shifted(logits, removed, values), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample", "flow"])
def test_guidance_moves_the_noise_by_the_gradient_whatever_is_predicted(prediction: PredictionType) -> None:
    sigma = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64).view(3, 1)
    gamma = 1 - sigma if prediction == "flow" else (1 - sigma.square()).sqrt()
    output, gradient, x_t = torch.randn(3, 3, 4, dtype=torch.float64)
    moved = guide_output(output, gradient, gamma, sigma, prediction)
    expected = to_noise(output, x_t, gamma, sigma, prediction) - sigma * gradient
    torch.testing.assert_close(to_noise(moved, x_t, gamma, sigma, prediction), expected)


@pytest.mark.parametrize("prediction", ["v_prediction", "sample", "flow"])
def test_without_signal_nothing_is_guided(prediction: PredictionType) -> None:
    gamma, sigma = torch.zeros(1, 1), torch.ones(1, 1)
    output = torch.randn(1, 4)
    assert torch.equal(guide_output(output, torch.ones(1, 4), gamma, sigma, prediction), output)
