"""The contrastive encoder of the benchmarks: its loss by brute force, its views, and what it learns."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from benchmarks.dampings import retrained
from benchmarks.encoders import Contrastive, told_apart, view

from guda_lightning.data import Digits, GroupDataModule


def test_the_loss_is_the_mean_of_cross_entropies_over_all_other_views() -> None:
    first, second = torch.randn(2, 3, 5, dtype=torch.float64)
    every = [*first, *second]
    losses = []
    for i, one in enumerate(every):
        likeness = {
            j: math.exp(float(torch.cosine_similarity(one, other, dim=0)) / 0.3)
            for j, other in enumerate(every)
            if j != i
        }
        losses.append(-math.log(likeness[(i + 3) % 6] / sum(likeness.values())))
    assert float(told_apart(first, second, 0.3)) == pytest.approx(sum(losses) / 6)


def test_a_view_is_the_picture_shifted_and_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.encoders._NOISE", 0.0)
    monkeypatch.setattr("benchmarks.encoders._CONTRAST", (0.5, 0.5))
    images = torch.rand(20, 1, 4, 4)
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1), value=-1.0)
    shifts = {(row, column) for row in range(3) for column in range(3)}
    seen = set()
    for image, found in zip(padded, view(images, torch.Generator().manual_seed(0)), strict=True):
        same = [
            (row, column)
            for row, column in shifts
            if torch.equal(found, 0.5 * image[:, row : row + 4, column : column + 4])
        ]
        assert len(same) == 1
        seen.update(same)
    assert len(seen) > 5


def test_neighbours_of_its_features_are_of_the_same_digit_and_its_training_repeats() -> None:
    data = GroupDataModule(Digits())
    images = data.seen_images(range(300))
    encoder = Contrastive(steps=20)
    features = encoder(images)
    assert torch.equal(Contrastive(steps=20)(images), features)
    assert encoder.hash == Contrastive(steps=20).hash != Contrastive(steps=21).hash
    unit = torch.nn.functional.normalize(features, dim=1)
    nearest = (unit @ unit.T).fill_diagonal_(-1).argmax(dim=1)
    labels = (Digits().load().labels or ())[:300]
    alike = [labels[row] == labels[other] for row, other in enumerate(nearest.tolist())]
    assert sum(alike) > 0.8 * len(alike)


def test_too_few_subsets_are_refused(tmp_path: Path) -> None:
    text = rf"^{tmp_path} has 0 subsets of the seeds \[0\]: LDS needs at least 3$"
    with pytest.raises(SystemExit, match=text):
        retrained(tmp_path, [0])
