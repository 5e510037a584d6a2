"""Properties of sets where the model and the posterior are exact, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from guda_lightning.attribution import Brightness, Contrast, SetProperty
from guda_lightning.attribution.property_game import PropertyGame
from guda_lightning.data import GroupDataModule
from guda_lightning.diffusion import DiffusionModel, sample
from guda_lightning.diffusion.schedulers import noise_schedule
from guda_lightning.errors import ConfigError, NumericsError
from guda_lightning.functional.prediction import implied_noise
from guda_lightning.posteriors import ImageKernel, guided
from guda_lightning.scores import ScoreRecord, ScoreTable
from guda_lightning.storage.provenance import Provenance
from toys import message, shades

SCHEDULER = DDPMScheduler(num_train_timesteps=100, beta_schedule="squaredcos_cap_v2")
SCHEDULE = noise_schedule(SCHEDULER)
PROVENANCE = Provenance("f" * 20, "s" * 20, "g" * 20)
IMAGES = 60


class Exact(nn.Module):
    """The optimal denoiser of the training images."""

    def __init__(self, kernel: ImageKernel) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, x_t: Tensor, timesteps: Tensor, class_labels: Tensor | None = None) -> Tensor:
        mean = self.kernel.denoised(x_t, timesteps, self.kernel.windows(timesteps), class_labels)
        return implied_noise(x_t, mean, *SCHEDULE.at(timesteps, like=mean)).to(x_t.dtype)


def measured(game: PropertyGame, data: GroupDataModule) -> Tensor:
    """The property of images of the exact model, and of those guided away from each coalition."""
    kernel = ImageKernel.of(data, SCHEDULE)
    full = DiffusionModel(Exact(kernel), SCHEDULE, "epsilon")
    models = [full, *(guided(full, kernel, data.grouping.coalition(name)) for name in game.coalitions)]
    drawn = [sample(model, SCHEDULER, (1, 8, 8), range(IMAGES), seed=0, steps=25) for model in models]
    return torch.stack([game.of.measured(data.pictures(images)) for images in drawn])


def table(game: PropertyGame, values: Tensor) -> ScoreTable:
    record = game.record(PROVENANCE, "p", "h", {"images": IMAGES, "steps": 25})
    return game.table(values, record, game.worth, 0)


def truth(data: GroupDataModule, of: SetProperty, *without: str) -> float:
    """The property of the training images that stay: an exact model draws each as often as the others."""
    stay = data.grouping.retain(list(without)) if without else np.arange(data.grouping.num_samples)
    return float(of.measured(data.seen_inputs(stay)).mean())


def test_leaving_a_group_out_gives_the_property_of_the_rest() -> None:
    data = shades()
    game = PropertyGame.leaving_one_out(Brightness(), data.grouping, ["dark", "bright", "noisy"])
    found = table(game, measured(game, data))
    pairs = zip(found.groups, found.matrix()[0].tolist(), found.stderr_matrix()[0].tolist(), strict=True)
    for group, score, error in pairs:
        assert abs(score - truth(data, game.of) + truth(data, game.of, group)) < 4 * error
    scores = dict(zip(found.groups, found.matrix()[0].tolist(), strict=True))
    assert scores["dark"] < -0.1 and scores["bright"] > 0.1  # the bright ones make the set bright
    assert found.queries == ("brightness",) and found.record.kind == "set worth"


def test_shapley_values_sum_to_what_all_players_do() -> None:
    data = shades()
    game = PropertyGame.of_players(Contrast(), data.grouping, "shapley", "noisy", 10, 0)
    assert game.groups == ("dark", "bright") and game.coalitions[-1] == "bright+dark"
    values = measured(game, data)
    found = table(game, values)
    means = values.mean(dim=1)
    assert found.matrix().sum().item() == pytest.approx((means[0] - means[-1]).item())
    whole = truth(data, game.of) - truth(data, game.of, "dark", "bright")
    assert found.matrix().sum().item() == pytest.approx(whole, abs=0.05)
    assert (found.matrix() < 0).all()  # the noisy ones alone have contrast


def test_a_table_is_kept_with_what_made_it(tmp_path: Any) -> None:
    grouping = shades().grouping
    game = PropertyGame.leaving_one_out(Brightness(), grouping, ["dark", "bright"])
    values = torch.rand(3, IMAGES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = table(game, values)
    found.save(tmp_path / "brightness.parquet")
    back = ScoreTable.load(tmp_path / "brightness.parquet")
    assert back.record == found.record and back.table.equals(found.table)
    assert ScoreRecord.from_json(found.record.to_json(), found.record.kind) == found.record
    for other in (replace(game, of=Contrast()), replace(game, coalitions=("dark", "noisy"))):
        assert table(other, values).record != found.record


@dataclass(frozen=True)
class Wrong(SetProperty):
    """What a test says."""

    name = "wrong"
    number: float = 0.0
    whole: bool = False

    def __call__(self, images: Tensor) -> Tensor:
        return images.mean() if self.whole else torch.full((len(images),), self.number)


def test_fields_identify_a_property() -> None:
    assert Wrong(1.0).hash == Wrong(1.0).hash != Wrong(2.0).hash
    assert Brightness().hash != Contrast().hash
    images = torch.tensor([-1.0, 1.0]).repeat(2, 1, 4, 4)
    images[1] = 1
    assert Brightness()(images).tolist() == [0.5, 1] and Contrast()(images).tolist() == [1, 0]


# refused


def test_what_does_not_measure_single_images_is_refused() -> None:
    images = torch.from_numpy(np.zeros((3, 1, 8, 8), np.float32))
    expected = message(
        "the property wrong does not measure single images",
        "shape ()",
        "a tensor of shape (3,): one number an image",
        "return one number for each image from Wrong.__call__",
    )
    with pytest.raises(ConfigError, match=expected):
        Wrong(whole=True).measured(images)
    expected = message(
        "the property wrong of an image is not finite",
        "inf",
        "finite numbers",
        "look at Wrong.__call__ where images are black, white or flat",
    )
    with pytest.raises(NumericsError, match=expected):
        Wrong(float("inf")).measured(images)


def test_players_that_are_all_the_data_are_refused() -> None:
    expected = message(
        "the players of a coalition game cannot be all the data",
        "3 groups over 48 of 48 samples",
        "two groups or more, and samples that always stay",
        "set --reference to a group that stays, such as 'dark'",
    )
    with pytest.raises(ConfigError, match=expected):
        PropertyGame.of_players(Brightness(), shades().grouping, "shapley", None, 10, 0)
