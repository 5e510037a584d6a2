from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDPMScheduler,
    DiffusionPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DModel,
)
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from guda_lightning.diffusion import (
    DiffusionModule,
    FullModel,
    evaluating,
    open_full,
    open_schedule,
    save_full,
    weights_hash,
)
from guda_lightning.diffusion.full import model_hash
from guda_lightning.diffusion.schedulers import noise_schedule
from guda_lightning.errors import ConfigError, StoreError
from guda_lightning.storage.paths import refuse_missing_full, refuse_missing_start
from toys import assert_same_output, message, quiet_trainer, shades, tiny_unet

X = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
T = torch.tensor([1, 10, 500, 900])


def module(network: nn.Module | None = None, scheduler: Any = None, **arguments: Any) -> DiffusionModule:
    return DiffusionModule(network or tiny_unet(), scheduler or DDPMScheduler(), **arguments)


def predicted(full: FullModel) -> Tensor:
    with evaluating(full.model.denoiser):
        return full.model.predicted_noise(X, T)


def assert_same(full: FullModel, other: FullModel) -> None:
    assert full.hash == other.hash
    assert full.model.schedule.hash == other.model.schedule.hash
    assert full.model.prediction == other.model.prediction
    assert_same_output(predicted(full), predicted(other))


class OwnNetwork(nn.Module):
    """No diffusers model; two of its weights share memory, and one is a single number."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 1, 3, padding=1)
        self.second = nn.Conv2d(1, 1, 3, padding=1)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm2d(1)

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        return self.norm(self.second(self.first(x)))


class OwnUNet(UNet2DModel):
    """A diffusers model that diffusers does not know."""


@pytest.mark.parametrize(
    "scheduler", [DDPMScheduler(prediction_type="sample"), FlowMatchEulerDiscreteScheduler()]
)
def test_what_is_saved_is_an_ordinary_diffusers_folder(scheduler: Any, tmp_path: Path) -> None:
    full = FullModel.of(module(scheduler=scheduler))
    save_full(tmp_path, full)
    pipeline = DiffusionPipeline.from_pretrained(tmp_path, low_cpu_mem_usage=False)
    network = UNet2DModel.from_pretrained(tmp_path / "unet", low_cpu_mem_usage=False)
    assert pipeline.scheduler.config.items() <= scheduler.config.items()
    assert type(pipeline.scheduler) is type(scheduler)
    model_timesteps = full.model.schedule.model_timesteps[T]
    with torch.no_grad():
        expected = full.model.denoiser.eval()(X, model_timesteps).sample
        assert_same_output(pipeline.unet.eval()(X, model_timesteps).sample, expected)
        assert_same_output(network.eval()(X, model_timesteps).sample, expected)
    assert_same(open_full(tmp_path, module(tiny_unet(seed=1))), full)
    assert_same(FullModel.load(str(tmp_path)), full)


def test_weights_alone_need_the_module_that_they_belong_to(tmp_path: Path) -> None:
    own, network = module(OwnNetwork()), tmp_path / "network"
    (tmp_path / "own").mkdir()
    save_full(tmp_path / "own", FullModel.of(own))
    tiny_unet().save_pretrained(network)
    torch.save({"state_dict": own.state_dict()}, tmp_path / "last.ckpt")
    for path in (tmp_path / "own", network, tmp_path / "last.ckpt"):
        text = message(
            f"{path} does not say all of a full model",
            "weights without the module that they belong to, or without a noise scheduler",
            "the folder of a diffusers pipeline, or a module as it was built for training",
            "pass FullModel.load(path, module)",
        )
        with pytest.raises(StoreError, match=text):
            FullModel.load(path)
    assert FullModel.load(tmp_path / "last.ckpt", module(OwnNetwork())).hash == FullModel.of(own).hash
    with pytest.raises(StoreError, match="the full model does not exist"):
        FullModel.load(tmp_path / "nowhere")


def test_the_average_is_what_is_saved(tmp_path: Path) -> None:
    model = module(ema_decay=0.9)
    with torch.no_grad():
        for parameter in model.denoiser.parameters():
            parameter.add_(1)
    full = FullModel.of(model)
    average = replace(full.model, denoiser=model.ema.module)
    assert full.hash == model_hash(average) != model_hash(replace(average, denoiser=model.denoiser))
    save_full(tmp_path, full)
    assert_same(open_full(tmp_path, module()), full)


def test_a_diffusion_transformer_is_saved_and_opened(tmp_path: Path) -> None:
    network = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=1,
        out_channels=1,
        num_layers=1,
        norm_num_groups=1,
        sample_size=8,
        patch_size=4,
        num_embeds_ada_norm=10,
    ).eval()
    save_full(tmp_path, FullModel.of(module(network)))
    opened = open_full(tmp_path, module())
    labels = torch.tensor([1, 2, 3, 4])
    with torch.no_grad():
        assert_same_output(opened.model.output(X, T, labels), network(X, T, labels).sample)


@pytest.mark.parametrize("make", [OwnNetwork, lambda: own_unet()], ids=["module", "subclass"])
def test_a_network_that_diffusers_does_not_know(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    full = FullModel.of(module(make()))
    save_full(tmp_path, full)
    assert {path.name for path in tmp_path.iterdir()} == {"scheduler", "denoiser"}
    assert_same(open_full(tmp_path, module(make())), full)
    (tmp_path / "denoiser" / "model.safetensors").write_bytes(b"half")
    with pytest.raises(StoreError, match=beginning(tmp_path / "denoiser" / "model.safetensors")):
        open_full(tmp_path, module(make()))


def own_unet() -> OwnUNet:
    return OwnUNet.from_config(tiny_unet().config)


def test_a_lightning_checkpoint(tmp_path: Path) -> None:
    model = module(ema_decay=0.5)
    trainer = quiet_trainer(tmp_path, max_steps=3, limit_val_batches=0, log_every_n_steps=1)
    trainer.fit(model, shades())
    trainer.save_checkpoint(tmp_path / "full.ckpt")
    opened = open_full(tmp_path / "full.ckpt", module(tiny_unet(seed=1), ema_decay=0.5))
    assert_same(opened, FullModel.of(model))


class Theirs(LightningModule):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.unet = tiny_unet(seed)
        self.noise_scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")


def test_a_checkpoint_of_somebody_elses_module(tmp_path: Path) -> None:
    torch.save({"state_dict": Theirs().state_dict()}, tmp_path / "theirs.ckpt")
    opened = open_full(tmp_path / "theirs.ckpt", Theirs(seed=1), "unet", "noise_scheduler")
    assert_same(opened, FullModel.of(Theirs(), "unet", "noise_scheduler"))
    expected = message(
        "a Theirs does not say where its diffusion model is",
        "denoiser='unet', scheduler=None",
        "the dotted attribute paths of the network and of its noise scheduler",
        "pass both, e.g. denoiser='unet', scheduler='noise_scheduler'",
    )
    with pytest.raises(ConfigError, match=expected):
        FullModel.of(Theirs(), "unet")


def test_a_bare_network_takes_the_scheduler_of_the_configuration(tmp_path: Path) -> None:
    tiny_unet(seed=3).save_pretrained(tmp_path / "network")
    scheduler = DDPMScheduler(num_train_timesteps=1000, prediction_type="v_prediction")
    opened = open_full(tmp_path / "network", module(scheduler=scheduler))
    assert_same(opened, FullModel.of(module(tiny_unet(seed=3), scheduler)))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "saved"
    save_full(folder, FullModel.of(module()))
    return folder


def test_a_folder_in_the_home_folder_is_found(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(saved.parent))
    monkeypatch.setenv("NAME", saved.name)
    hashed = FullModel.of(module()).hash
    assert (
        open_full(Path("~", saved.name), module()).hash == open_full(Path("~/$NAME"), module()).hash == hashed
    )
    refuse_missing_start(Path("~", saved.name))
    refuse_missing_full(Path("~", saved.name))


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    expected = message(
        "the full model does not exist",
        f"nothing at {tmp_path / 'full'}",
        "a diffusers folder or a Lightning checkpoint",
        "pass --full PATH (full: PATH in the configuration), or train one with `guda fit`",
    )
    with pytest.raises(StoreError, match=expected):
        open_full(tmp_path / "full", module())


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    expected = message(
        "this folder holds no full model",
        f"{tmp_path} with ['a.png', 'b.png']",
        "model_index.json (a diffusers pipeline), config.json (a diffusers network) "
        "or denoiser/model.safetensors",
        "pass the folder that save_pretrained wrote, or run `guda fit` again",
    )
    with pytest.raises(StoreError, match=expected):
        open_full(tmp_path, module())


def test_a_pipeline_without_a_denoiser_is_refused(saved: Path) -> None:
    index = json.loads((saved / "model_index.json").read_text())
    index["vae"] = index.pop("unet")
    (saved / "model_index.json").write_text(json.dumps(index))
    expected = message(
        f"{saved / 'model_index.json'} names no denoiser and scheduler",
        "components ['scheduler', 'vae']",
        "unet or transformer, and scheduler",
        "pass the folder of a diffusion pipeline, as save_pretrained writes it",
    )
    with pytest.raises(StoreError, match=expected):
        open_full(saved, module())


@pytest.mark.parametrize("found", ["UNet5000", "DDPMScheduler", "logging", None])
def test_a_class_that_is_no_network_of_diffusers_is_refused(found: str | None, saved: Path) -> None:
    index = json.loads((saved / "model_index.json").read_text())
    index["unet"][1] = found
    (saved / "model_index.json").write_text(json.dumps(index))
    expected = message(
        f"{saved / 'model_index.json'} names a class that diffusers does not have",
        found,
        "a network of the installed diffusers",
        "update diffusers, or load the model in your own LightningModule and pass a checkpoint",
    )
    with pytest.raises(StoreError, match=expected):
        open_full(saved, module())


def unreadable(path: Path, reason: str) -> str:
    return message(
        "the full model cannot be read",
        f"{path}: {reason}",
        "a folder written by save_pretrained, a Lightning checkpoint, or a file with a state_dict",
        "restore the file, or run `guda fit` again",
    )


def beginning(path: Path) -> str:
    """The message up to the reason, in the words of the library that reads the file."""
    return rf"^the full model cannot be read\n  found:    {re.escape(str(path))}: \w"


def test_truncated_or_missing_weights_are_refused(saved: Path) -> None:
    weights = saved / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(StoreError, match=beginning(saved / "unet")):
        open_full(saved, module())
    weights.unlink()
    with pytest.raises(StoreError, match=beginning(saved / "unet")):
        open_full(saved, module())
    shutil.rmtree(saved / "unet")
    with pytest.raises(StoreError, match=beginning(saved / "unet")):
        open_full(saved, module())


def test_weights_of_another_architecture_are_refused(saved: Path) -> None:
    tiny_unet(num_class_embeds=3).save_pretrained(saved / "other")
    shutil.copy(saved / "other" / "config.json", saved / "unet" / "config.json")
    with pytest.raises(
        StoreError, match=unreadable(saved / "unet", "missing_keys ['class_embedding.weight']")
    ):
        open_full(saved, module())
    tiny_unet(num_class_embeds=3).save_pretrained(saved / "unet")
    tiny_unet().save_config(saved / "unet")
    with pytest.raises(
        StoreError, match=unreadable(saved / "unet", "unexpected_keys ['class_embedding.weight']")
    ):
        open_full(saved, module())


def test_a_damaged_or_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "full.ckpt"
    path.write_bytes(b"no checkpoint")
    with pytest.raises(StoreError, match=beginning(path)):
        open_full(path, module())
    torch.save({"weights": {}}, path)
    with pytest.raises(StoreError, match=unreadable(path, "no state_dict inside, but the keys 'weights'")):
        open_full(path, module())
    torch.save({"state_dict": module().state_dict()}, path)
    expected = message(
        f"the weights in {path} do not fit DiffusionModule",
        'Missing key(s) in state_dict: "ema.n_averaged"',
        "the architecture of the configuration's model",
        "use the configuration that the checkpoint was trained with (its `model` section)",
    )
    # Lightning's message lists every key; its beginning is enough to see what happened.
    with pytest.raises(StoreError, match=expected.split(r'"ema')[0]):
        open_full(path, module(ema_decay=0.5))


def test_weights_of_another_network_of_ones_own_are_refused(tmp_path: Path) -> None:
    save_full(tmp_path, FullModel.of(module(OwnNetwork())))
    other = OwnNetwork()
    other.norm = nn.BatchNorm2d(1, affine=False)
    expected = message(
        f"the weights in {tmp_path} do not fit OwnNetwork",
        'Unexpected key(s) in state_dict: "norm.bias", "norm.weight".',
        "the architecture of the configuration's model",
        "use the configuration that the checkpoint was trained with (its `model` section)",
    )
    with pytest.raises(StoreError, match=expected):
        open_full(tmp_path, module(other))


def test_the_hash_sees_names_types_shapes_and_values() -> None:
    base = {"a": torch.zeros(2, 3), "b": torch.tensor(1)}
    others = [
        {"a": torch.zeros(3, 2), "b": torch.tensor(1)},
        {"a": torch.zeros(2, 3, dtype=torch.float64), "b": torch.tensor(1)},
        {"c": torch.zeros(2, 3), "b": torch.tensor(1)},
        {"a": torch.zeros(2, 3), "b": torch.tensor(2)},
        {"a": -torch.zeros(2, 3), "b": torch.tensor(1)},
    ]
    assert len({weights_hash(state) for state in (base, *others)}) == 6
    assert weights_hash(base) == weights_hash({"b": base["b"], "a": torch.zeros(3, 2).T})


def test_a_schedule_with_infinities_in_its_configuration_is_read(tmp_path: Path) -> None:
    scheduler = DPMSolverMultistepScheduler(beta_schedule="scaled_linear")
    scheduler.save_pretrained(tmp_path / "scheduler")
    assert "Infinity" in (tmp_path / "scheduler" / "scheduler_config.json").read_text()
    assert open_schedule(tmp_path).hash == noise_schedule(scheduler).hash
