"""Properties of sets where the model and the posterior are exact, and what is refused."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
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
from guda_lightning.report.property_section import property_lines
from guda_lightning.scores import ScoreRecord, ScoreTable
from guda_lightning.storage.provenance import Provenance
from guda_lightning.types import Queries
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


def record(game: PropertyGame, **drawn: Any) -> ScoreRecord:
    queries = Queries(tuple(f"sample-{image}" for image in range(IMAGES)), torch.empty(IMAGES, 0), **drawn)
    return game.record(PROVENANCE, "p", "h", queries, 25)


def table(game: PropertyGame, values: Tensor) -> ScoreTable:
    return game.table(values, record(game), game.worth, 0)


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


def test_prompts_and_decoders_identify_what_is_drawn() -> None:
    game = PropertyGame.leaving_one_out(Brightness(), shades().grouping, ["dark"])
    prompts = tuple(f"picture {image}" for image in range(IMAGES))
    every: list[dict[str, Any]] = [
        {},
        {"prompts": prompts},
        {"prompts": prompts[::-1]},
        {"prompts": prompts, "encoders": "vae"},
    ]
    records = [record(game, **drawn) for drawn in every]
    assert len({one.hash for one in records}) == len(every)
    for one in records:
        assert ScoreRecord.from_json(one.to_json(), one.kind) == one


def test_few_images_name_no_group_that_student_would_not() -> None:
    """Three images and an effect of 3.5 standard errors; beyond 4.3 it would be named."""
    game = PropertyGame.leaving_one_out(Brightness(), shades().grouping, ["dark", "bright"])
    values = torch.tensor([[3.0, 3.0, 3.0], [2.0, 2.5, 1.5], [2.0, 2.8, 1.2]]).double()
    queries = Queries(("a", "b", "c"), torch.empty(3, 0))
    found = game.table(values, game.record(PROVENANCE, "p", "h", queries, 25), game.worth, 0)
    ratios = (found.matrix() / found.stderr_matrix())[0].tolist()
    assert ratios == pytest.approx([3.46, 2.17], abs=0.01)
    first, about = property_lines(found, values)
    assert first == "brightness of 3 samples of the full model: 3; of 2 of 2 groups the 95% interval holds 0."
    assert about.endswith("of 2 without any effect, 0.1 would be named by chance.")
    spread = torch.tensor([[0.0], [1.0], [1.0]]).double() * torch.tensor([0.0, 1.0, -1.0])
    closer = game.table(values + spread * torch.tensor([[0.0], [-0.4], [0.0]]), found.record, game.worth, 0)
    assert "it is raised by dark (" in property_lines(closer, values)[0]


@dataclass(frozen=True)
class Wrong(SetProperty):
    """What a test says."""

    name = "wrong"
    number: float = 0.0
    whole: bool = False

    def __call__(self, images: Tensor) -> Tensor:
        return images.mean() if self.whole else torch.full((len(images),), self.number)


@dataclass(frozen=True)
class Cached(SetProperty):
    """What it computes of its fields is no state of its own."""

    name = "cached"
    number: float

    @cached_property
    def double(self) -> float:
        """Twice the number."""
        return 2 * self.number

    def __call__(self, images: Tensor) -> Tensor:
        return torch.full((len(images),), self.double)


class Plain(Wrong):
    """State that no field tells."""

    name = "plain"

    def __init__(self, above: float) -> None:
        super().__init__(above)
        object.__setattr__(self, "above", above)


class Nameless(SetProperty):
    """Without a name."""

    def __call__(self, images: Tensor) -> Tensor:
        return images.mean(dim=(1, 2, 3))


@dataclass(frozen=True)
class OfFile(Nameless):
    """A field that JSON has no word for."""

    name = "of a file"
    path: Path = Path("weights.pt")


def test_the_source_of_a_class_identifies_it(tmp_path: Path) -> None:
    """An edited one is another one, though its name and fields stay."""
    hashes = []
    for number, body in enumerate(("images.mean(dim=(1, 2, 3))", "images.amax(dim=(1, 2, 3))")):
        file = tmp_path / f"ink_{number}.py"
        file.write_text(
            "from guda_lightning.attribution import SetProperty\n\n\nclass Ink(SetProperty):\n"
            f'    name = "ink"\n\n    def __call__(self, images):\n        return {body}\n'
        )
        spec = importlib.util.spec_from_file_location("ink", file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["ink"] = module  # where inspect looks for the source
        try:
            spec.loader.exec_module(module)
            hashes.append(module.Ink().hash)
        finally:
            del sys.modules["ink"]
    assert hashes[0] != hashes[1]
    typed: dict[str, Any] = {"SetProperty": SetProperty, "__name__": "__shell__"}
    exec("class Ink(SetProperty):\n    name = 'ink'\n    __call__ = lambda self, images: images", typed)
    assert len(typed["Ink"]().hash) == 64


def test_fields_identify_a_property() -> None:
    assert Wrong(1.0).hash == Wrong(1.0).hash != Wrong(2.0).hash
    assert Brightness().hash != Contrast().hash
    assert Cached(1.0).hash != Cached(2.0).hash
    kept = Cached(1.0)
    before = kept.hash
    kept(torch.ones(2, 1, 4, 4))
    assert kept.hash == before
    images = torch.tensor([-1.0, 1.0]).repeat(2, 1, 4, 4)
    images[1] = 1
    assert Brightness()(images).tolist() == [0.5, 1] and Contrast()(images).tolist() == [1, 0]


# refused


@pytest.mark.parametrize(
    ("of", "found", "expected", "fix"),
    [
        (Nameless(), "no name", 'name = "..." in the class', "give it a name"),
        (
            Plain(0.5),
            "above, which is no field",
            "a dataclass",
            "make above a field of a dataclass",
        ),
        (
            OfFile(),
            f"path of the type {type(Path()).__name__}: Object of type {type(Path()).__name__} is not JSON "
            "serializable",
            "fields that are JSON values",
            "make path text or a number, and read what it names in OfFile.__call__",
        ),
    ],
)
def test_what_cannot_be_told_from_others_is_refused(
    of: SetProperty, found: str, expected: str, fix: str
) -> None:
    game = PropertyGame.leaving_one_out(of, shades().grouping, ["dark"])
    said = message(f"the property {type(of).__name__} cannot be told from others", found, expected, fix)
    with pytest.raises(ConfigError, match=said):
        record(game)


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
