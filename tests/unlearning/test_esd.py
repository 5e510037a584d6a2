"""ESD turns the condition of a forget sample round."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.forget_target import TwoGroups
from diffusers import DDPMScheduler, DiTTransformer2DModel

from guda_lightning.diffusion import DiffusionModel, DiffusionModule, FullModel
from guda_lightning.diffusion.labels import num_labels
from guda_lightning.diffusion.model import NO_PROMPT
from guda_lightning.diffusion.module import noised
from guda_lightning.errors import ConfigError
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.storage.provenance import Provenance
from guda_lightning.unlearning import ESD, BoundObjective, ObjectiveContext, UnlearnModule
from guda_lightning.unlearning.module import default_optimizer
from toys import message, quiet_trainer, shades, tiny_unet

DDPM = NoiseSchedule.from_alphas_cumprod(torch.cumprod(1 - torch.linspace(1e-3, 0.2, 50), 0))


def context(**changes: Any) -> ObjectiveContext:
    data = shades().unlearning(["bright"])
    made_from = Provenance("full", DDPM.hash)
    return replace(ObjectiveContext(data, DDPM, made_from, torch.device("cpu")), conditional=True, **changes)


@pytest.mark.parametrize("eta", [0.0, 1.0, 2.5])
def test_the_target_lies_beyond_that_without_a_class(eta: float) -> None:
    network = tiny_unet(num_class_embeds=4).eval()
    full, student = (DiffusionModel(net, DDPM, "epsilon") for net in (network, tiny_unet(1)))
    forget = noised(torch.rand(5, 1, 8, 8), torch.tensor([1, 1, 0, 2, 1]), DDPM)
    with torch.no_grad():
        term = ESD(eta=eta, null_label=3).bind(context()).forget_term(forget, student, full)
        without, own = (
            network(forget.x_t, forget.timesteps, class_labels=labels).sample
            for labels in (torch.full((5,), 3), forget.labels)
        )
    assert term is not None
    torch.testing.assert_close(term.target, (1 + eta) * without - eta * own, rtol=1e-4, atol=1e-5)


@dataclass
class Prompts:
    """Embeddings of prompts, which notes what it was asked for."""

    asked: list[list[int]]

    def __call__(self, numbers: torch.Tensor) -> dict[str, torch.Tensor]:
        self.asked.append(numbers.tolist())
        return {"class_labels": numbers}


def test_prompts_have_the_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = Prompts([])
    full = DiffusionModel(tiny_unet(num_class_embeds=4).eval(), DDPM, "epsilon", prompts)
    made_from = context()
    monkeypatch.setattr(type(made_from.data.parent), "prompts", prompts)  # type: ignore[attr-defined]
    forget = noised(torch.rand(2, 1, 8, 8), torch.tensor([2, 3]), DDPM)
    with torch.no_grad():
        ESD().bind(made_from).forget_term(forget, full, full)
    assert sorted(prompts.asked) == sorted([[NO_PROMPT, NO_PROMPT], [2, 3]])


def test_an_unconditional_model_is_refused() -> None:
    expected = message(
        "ESD turns a condition round, and the full model takes none",
        "an unconditional full model",
        "a full model with class labels or prompts",
        "take another objective, such as ReTrack or EraseDiff",
    )
    with pytest.raises(ConfigError, match=expected):
        ESD(null_label=3).bind(replace(context(), conditional=False))
    with pytest.raises(ConfigError, match=expected):
        ESD().bind(TwoGroups(torch.zeros(2, 1, 8, 8), torch.ones(2, 1, 8, 8)).context(DDPM))


def test_classes_without_a_label_for_none_are_refused() -> None:
    expected = message(
        "ESD needs what the full model predicts without a class",
        "null_label=null",
        "the label that stood for a dropped class while the full model was trained",
        "set objective.init_args.null_label, or take another objective, such as ReTrack",
    )
    with pytest.raises(ConfigError, match=expected):
        ESD().bind(context())
    expected = message(
        "the label for no class is that of a class",
        "null_label=2, of 3 classes",
        "null_label >= 3",
        "set objective.init_args.null_label to what stood for a dropped class in training",
    )
    with pytest.raises(ConfigError, match=expected):
        ESD(null_label=2).bind(context())


def test_a_label_that_the_full_model_has_no_embedding_of_is_refused_before_any_step(tmp_path: Path) -> None:
    expected = message(
        "the full model has no embedding of the label for no class",
        "null_label=4, and embeddings of 4 labels",
        "null_label < 4",
        "train the full model with one label more (num_class_embeds) that stands for a dropped class, or "
        "take another objective, such as ReTrack",
    )
    network = DiffusionModule(tiny_unet(num_class_embeds=4), DDPMScheduler(), conditional=True)
    full, data = FullModel.of(network), shades()
    student = UnlearnModule(full, ESD(null_label=4), ["bright"], default_optimizer)
    with pytest.raises(ConfigError, match=expected):
        quiet_trainer(tmp_path, max_steps=1).fit(student, data.unlearning(["bright"]))
    assert student.global_step == 0
    assert isinstance(ESD(null_label=3).bind(context(num_labels=4)), BoundObjective)


def test_a_dit_has_a_label_more_than_classes() -> None:
    small = {"num_attention_heads": 1, "attention_head_dim": 8, "in_channels": 1, "num_layers": 1}
    dit = DiTTransformer2DModel(**small, num_embeds_ada_norm=3, sample_size=4)
    (table,) = (one for one in dit.modules() if isinstance(one, torch.nn.Embedding))
    assert num_labels(dit) == table.num_embeddings == 4
    assert num_labels(tiny_unet(num_class_embeds=4)) == 4
    assert num_labels(torch.nn.Linear(2, 2)) is None


@pytest.mark.parametrize(
    ("name", "value", "expected"), [("eta", -1.0, "eta >= 0"), ("null_label", -1, "a label >= 0, or null")]
)
def test_arguments_out_of_range_are_refused(name: str, value: Any, expected: str) -> None:
    fix = f"set objective.init_args.{name} to such a value"
    with pytest.raises(ConfigError, match=message(f"invalid {name} of ESD", value, expected, fix)):
        ESD(**{name: value})
