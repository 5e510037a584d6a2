"""Weights as other programs write them: the same weights are the same model."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import pathlib
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed import checkpoint as distributed
from torch.optim.swa_utils import AveragedModel
from torchmetrics import MeanMetric

from guda_lightning.callbacks import ResumeCheckpoint
from guda_lightning.diffusion import DiffusionModule, FullModel, open_full, save_full
from guda_lightning.diffusion.adapters import own_weights, set_own_weights
from guda_lightning.errors import StoreError
from guda_lightning.makers.training import fit
from toys import message, quiet_trainer, shades, tiny_unet


class Theirs(LightningModule):
    """A module that knows nothing of this library."""

    def __init__(self, seed: int = 0, outdir: Any = "out") -> None:
        super().__init__()
        self.save_hyperparameters()
        self.unet = tiny_unet(seed=seed)
        self.noise = DDPMScheduler(num_train_timesteps=50)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        t = torch.zeros(len(batch["image"]), dtype=torch.int64)
        return self.unet(batch["image"], t).sample.square().mean()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


PATHS = {"denoiser": "unet", "scheduler": "noise"}


def compiled(network: nn.Module) -> Any:
    return torch.compile(network, backend="eager")


def partly_compiled(network: Any) -> Any:
    network.mid_block = compiled(network.mid_block)
    network.down_blocks[0] = compiled(network.down_blocks[0])
    return network


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "none": lambda network: network,
    "compile": compiled,
    "partly": partly_compiled,
    "parallel": nn.DataParallel,
    "both": lambda network: nn.DataParallel(compiled(network)),
}


def wrapped(kind: str, seed: int) -> Theirs:
    module = Theirs(seed)
    module.unet = WRAPPERS[kind](module.unet)
    return module


HASH = FullModel.of(Theirs(1), **PATHS).hash


def opened(path: Path, module: LightningModule | None = None) -> str:
    return open_full(path, module or Theirs(), **PATHS).hash


@pytest.mark.parametrize("here", WRAPPERS)
@pytest.mark.parametrize("there", WRAPPERS)
def test_the_same_weights_are_the_same_model_whatever_wraps_them(
    here: str, there: str, tmp_path: Path
) -> None:
    source = wrapped(there, 1)
    assert FullModel.of(source, **PATHS).hash == HASH
    torch.save({"state_dict": source.state_dict()}, tmp_path / "x.ckpt")
    assert opened(tmp_path / "x.ckpt", wrapped(here, 0)) == HASH


@pytest.mark.parametrize("kind", WRAPPERS)
def test_what_is_saved_of_a_wrapped_network_is_an_ordinary_folder(kind: str, tmp_path: Path) -> None:
    full = FullModel.of(wrapped(kind, 1), **PATHS)
    save_full(tmp_path, full)
    network = UNet2DModel.from_pretrained(tmp_path / "unet", low_cpu_mem_usage=False)
    expected = Theirs(1).unet.state_dict()
    assert network.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())
    assert opened(tmp_path) == HASH


def test_our_own_module_and_its_average_compiled(tmp_path: Path) -> None:
    ours = [
        DiffusionModule(network, DDPMScheduler(num_train_timesteps=50), ema_decay=0.5)
        for network in (compiled(tiny_unet(seed=1)), tiny_unet())
    ]
    torch.save({"state_dict": ours[0].state_dict()}, tmp_path / "x.ckpt")
    assert open_full(tmp_path / "x.ckpt", ours[1]).hash == FullModel.of(ours[0]).hash == HASH


def test_a_counterfactual_of_a_partly_compiled_network_fits_an_ordinary_one() -> None:
    network = tiny_unet()
    set_own_weights(network, own_weights(partly_compiled(tiny_unet(seed=1))), "a store")
    assert FullModel.of(DiffusionModule(network, DDPMScheduler())).hash == HASH


def state(prefix: str = "") -> dict[str, Tensor]:
    return {prefix + name: value for name, value in Theirs(1).state_dict().items()}


def bare() -> dict[str, Tensor]:
    return dict(Theirs(1).unet.state_dict())


def with_more() -> dict[str, Tensor]:
    module = Theirs(1)
    module.ema = AveragedModel(tiny_unet(seed=2))
    module.metric = MeanMetric()
    module.metric.persistent(True)
    module.features = nn.Linear(2, 2)
    return module.state_dict()


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": state("_orig_mod.")},
        {"state_dict": state("module.")},
        {"state_dict": state("_forward_module.")},
        state(),
        {"model": state()},
        {"model_state_dict": state()},
        {"state_dict": bare()},
        bare(),
        {"state_dict": {f"module.{name}": value for name, value in bare().items()}},
        {"state_dict": with_more(), "epoch": 3},
        {"state_dict": {**state(), "unet_ema.conv_in.bias": torch.zeros(3), "text": "of no weight"}},
        {"state_dict": {f"model.net.{name}": value for name, value in bare().items()}, "ema": state()},
    ],
    ids=[
        "compiled",
        "ddp",
        "deepspeed",
        "raw",
        "model",
        "model_state_dict",
        "network",
        "raw_network",
        "parallel",
        "more",
        "extra",
        "prefix",
    ],
)
def test_forms_of_a_checkpoint(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pt")
    assert opened(tmp_path / "x.pt") == HASH


def test_a_safetensors_file_of_the_network(tmp_path: Path) -> None:
    save_file(bare(), tmp_path / "unet.safetensors")
    assert opened(tmp_path / "unet.safetensors") == HASH
    (tmp_path / "unet.safetensors").write_bytes(b"half")
    with pytest.raises(StoreError, match=r"^the full model cannot be read\n.*unet.safetensors: "):
        opened(tmp_path / "unet.safetensors")


def test_metrics_of_the_module_need_not_be_in_the_file(tmp_path: Path) -> None:
    torch.save({"state_dict": state()}, tmp_path / "x.ckpt")
    module = Theirs()
    module.metric = MeanMetric()
    module.metric.persistent(True)
    assert opened(tmp_path / "x.ckpt", module) == HASH


def test_the_average_is_taken_where_it_is_the_denoiser(tmp_path: Path) -> None:
    torch.save({"state_dict": with_more()}, tmp_path / "x.ckpt")
    module = Theirs()
    module.ema = AveragedModel(tiny_unet())
    full = open_full(tmp_path / "x.ckpt", module, "ema.module", "noise")
    assert full.hash == FullModel.of(Theirs(2), **PATHS).hash


@dataclasses.dataclass
class Config:
    lr: float = 1.0


class AttributeDict(dict[str, Any]):
    """As easydict and the like have it."""


class Names(list[str]):
    """A list of somebody's own."""


OBJECTS = {
    "path": pathlib.Path("/data"),
    "omegaconf": OmegaConf.create({"a": [1, {"b": "${a}"}], "p": pathlib.Path("/data")}),
    "namespace": argparse.Namespace(lr=1.0),
    "dataclass": Config(),
    "dict": AttributeDict(a=1, b=pathlib.Path("x")),
    "list": Names(["a"]),
    "class": torch.optim.AdamW,
    "partial": functools.partial(torch.optim.AdamW, lr=1.0),
    "numpy": np.float64(1),
    "array": np.ones(2),
}


@pytest.mark.parametrize("value", OBJECTS.values(), ids=OBJECTS)
def test_hyper_parameters_of_any_class(value: Any, tmp_path: Path) -> None:
    torch.save({"state_dict": state(), "hyper_parameters": {"value": value}}, tmp_path / "x.ckpt")
    assert opened(tmp_path / "x.ckpt") == HASH


class Attack:
    """What a file does that is read by pickle."""

    def __init__(self, function: Any, *args: str) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


def test_no_code_of_a_checkpoint_runs(tmp_path: Path) -> None:
    path, mark = tmp_path / "x.ckpt", tmp_path / "mark"
    torch.save({"state_dict": state(), "x": Attack(os.mkdir, str(mark))}, path)
    expected = message(
        "the full model cannot be read",
        f"{path}: Trying to load unsupported GLOBAL posix.mkdir whose module posix is blocked.",
        "a folder written by save_pretrained, a Lightning checkpoint, or a file with a state_dict",
        "restore the file, or run `guda fit` again",
    )
    with pytest.raises(StoreError, match=expected):
        opened(path)
    torch.save({"state_dict": state(), "x": Attack(exec, f"import os; os.mkdir({str(mark)!r})")}, path)
    assert opened(path) == HASH
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"state_dict": {}, "epoch": 1}, "no state_dict inside, but the keys 'epoch', 'state_dict'"),
        ([1], "no state_dict inside, but a list"),
        ({}, "no state_dict inside, but nothing"),
        (nn.Linear(1, 1), "no state_dict inside, but objects of torch.nn.modules.linear.Linear"),
    ],
)
def test_a_file_without_weights_is_refused(content: Any, reason: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(StoreError, match=re.escape(f"{tmp_path / 'x.ckpt'}: {reason}") + "\n"):
        opened(tmp_path / "x.ckpt")


def test_several_networks_below_other_names_are_told_apart(tmp_path: Path) -> None:
    weights = {f"{place}.{name}": value for place in ("online", "ema") for name, value in bare().items()}
    torch.save({"model": weights}, tmp_path / "x.pt")
    expected = message(
        f"{tmp_path / 'x.pt'} holds several networks that fit UNet2DModel",
        "weights below ema. and online.",
        "those of one, or of the configured module under its own names",
        "save the state_dict of one of them alone",
    )
    with pytest.raises(StoreError, match=expected):
        opened(tmp_path / "x.pt")


def test_an_average_is_not_made_up_from_a_checkpoint_without_one(tmp_path: Path) -> None:
    torch.save({"state_dict": state()}, tmp_path / "x.ckpt")
    module = Theirs()
    module.ema = AveragedModel(tiny_unet())
    with pytest.raises(StoreError, match=r'Missing key\(s\) in state_dict: "ema.n_averaged", .* more'):
        open_full(tmp_path / "x.ckpt", module, "ema.module", "noise")


def test_a_larger_network_is_not_read_in_part(tmp_path: Path) -> None:
    torch.save(
        {f"net.{n}": value for n, value in {**bare(), "more": torch.ones(1)}.items()}, tmp_path / "x.pt"
    )
    with pytest.raises(StoreError, match=r"do not fit Theirs\n  found:    Missing key"):
        opened(tmp_path / "x.pt")


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.ckpt").touch()
    with pytest.raises(StoreError, match=re.escape(f"{tmp_path / 'x.ckpt'}: an empty file\n")):
        opened(tmp_path / "x.ckpt")


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("key", ["state_dict", "model"], ids=["FSDP2", "FSDP"])
def test_a_folder_of_a_sharded_checkpoint_is_refused_with_the_command_that_makes_it_a_file(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "sharded"
    distributed.save({key: state(), "optimizer_0": {"lr": 1.0}}, checkpoint_id=folder, no_dist=True)
    with pytest.raises(StoreError) as caught:
        opened(folder)
    _, module, *arguments = caught.value.fix.removeprefix("make one file of it: python ").split()
    assert arguments == ["dcp_to_torch", str(folder), f"{folder}.ckpt"]
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    monkeypatch.delitem(sys.modules, module, raising=False)  # runpy warns of a module that is there already
    runpy.run_module(module, run_name="__main__")
    assert opened(tmp_path / "sharded.ckpt") == HASH


@pytest.mark.parametrize(
    ("file", "fix"),
    [
        ("checkpoint/__0_0.distcp", "pass the folder that save_pretrained wrote, or run `guda fit` again"),
        (
            "zero_to_fp32.py",
            "consolidate it: python {folder}/zero_to_fp32.py {folder} FOLDER; then pass the file in FOLDER",
        ),
        ("unet/config.json", "pass {folder}/unet"),
        ("model.safetensors", "pass {folder}/model.safetensors"),
    ],
)
def test_a_folder_beside_the_right_path_is_refused_with_it(file: str, fix: str, tmp_path: Path) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    with pytest.raises(StoreError, match=re.escape(f"  fix:      {fix.format(folder=tmp_path)}") + r"\Z"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda weights: weights.pop("unet.conv_in.bias"), "Missing key"),
        (lambda weights: weights.update({"unet.more": torch.ones(1)}), "Unexpected key"),
        (lambda weights: weights.update({"unet.conv_in.bias": torch.ones(1)}), "size mismatch"),
    ],
)
def test_a_network_that_is_not_the_same_is_refused(
    change: Callable[[Any], Any], reason: str, tmp_path: Path
) -> None:
    weights = state()
    change(weights)
    torch.save({"state_dict": weights}, tmp_path / "x.ckpt")
    with pytest.raises(StoreError, match=rf"do not fit Theirs\n  found:    {reason}.*unet\."):
        opened(tmp_path / "x.ckpt")


def test_an_average_that_the_configuration_does_not_have_is_refused(tmp_path: Path) -> None:
    ours = DiffusionModule(tiny_unet(), DDPMScheduler(), ema_decay=0.5)
    torch.save({"state_dict": ours.state_dict()}, tmp_path / "x.ckpt")
    with pytest.raises(StoreError, match=r'do not fit.*\n.*Unexpected key\(s\) in state_dict: "ema'):
        open_full(tmp_path / "x.ckpt", DiffusionModule(tiny_unet(), DDPMScheduler()))


def pipeline(folder: Path, **options: Any) -> None:
    DDPMPipeline(tiny_unet(seed=1), DDPMScheduler(num_train_timesteps=50)).save_pretrained(folder, **options)


@pytest.mark.parametrize("options", [{}, {"max_shard_size": "5KB"}], ids=["one file", "shards"])
def test_weights_that_come_in_half_precision_only(options: dict[str, Any], tmp_path: Path) -> None:
    pipeline(tmp_path)
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    tiny_unet(seed=1).half().save_pretrained(tmp_path / "unet", variant="fp16", **options)
    weights = open_full(tmp_path, Theirs(), **PATHS).model.denoiser.state_dict()
    expected = {name: value.half().float() for name, value in tiny_unet(seed=1).state_dict().items()}
    assert all(torch.equal(weights[name], value) for name, value in expected.items())


def test_full_precision_is_preferred_and_two_variants_are_refused(tmp_path: Path) -> None:
    pipeline(tmp_path, variant="fp16")
    pipeline(tmp_path, variant="ema")
    expected = message(
        f"the weights in {tmp_path / 'unet'} come in several variants",
        "ema, fp16",
        "one variant, or weights without a variant's name",
        "move all but one of them away",
    )
    with pytest.raises(StoreError, match=expected):
        opened(tmp_path)
    pipeline(tmp_path)
    assert opened(tmp_path) == HASH


def test_a_training_goes_on_whatever_its_hyper_parameters_are(tmp_path: Path) -> None:
    resume = ResumeCheckpoint(tmp_path / "checkpoints")
    theirs = ModelCheckpoint(tmp_path / "theirs", filename="x")
    callbacks = [resume, theirs]
    first = quiet_trainer(tmp_path, max_epochs=1, callbacks=callbacks, enable_checkpointing=True)
    fit(first, Theirs(outdir=pathlib.Path("out")), shades(), resume)
    assert resume.path is not None
    kept = torch.load(tmp_path / "theirs" / "x.ckpt", weights_only=False)
    assert kept["hyper_parameters"]["outdir"] == pathlib.Path("out")
    again = quiet_trainer(tmp_path, max_epochs=3, callbacks=callbacks, enable_checkpointing=True)
    module = Theirs(outdir=OmegaConf.create({"a": pathlib.Path("out")}))
    fit(again, module, shades(), resume)
    assert again.current_epoch == 3
    assert module.hparams.outdir.a == pathlib.Path("out")


class WithObjects(Theirs):
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = Config()


def test_a_checkpoint_with_objects_beside_is_refused_with_their_names(tmp_path: Path) -> None:
    resume = ResumeCheckpoint(tmp_path)
    options = {"max_epochs": 1, "callbacks": [resume], "enable_checkpointing": True}
    fit(quiet_trainer(tmp_path, **options), WithObjects(), shades(), resume)
    expected = message(
        f"{tmp_path / 'resume' / 'trainer.ckpt'} cannot be read without running code of the classes in it",
        f"{Config.__module__}.Config",
        "tensors, numbers, texts, and lists and dicts of them",
        "let the state_dict and on_save_checkpoint of your module and callbacks return these, and remove "
        f"{tmp_path / 'resume'} to begin again",
    )
    with pytest.raises(StoreError, match=expected):
        fit(quiet_trainer(tmp_path, **options), WithObjects(), shades(), resume)
