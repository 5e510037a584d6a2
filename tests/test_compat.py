"""Every private symbol in ``compat`` is still there, and does what its caller relies on."""

from __future__ import annotations

import argparse
import ast
from pathlib import Path

import pytest
import pytorch_lightning.loggers
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.configuration_utils import register_to_config
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import ModelSummary
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.strategies import ModelParallelStrategy
from wandb_workspaces.workspaces import Workspace

from guda_lightning import compat
from guda_lightning.callbacks import ResumeCheckpoint
from toys import quiet_trainer

SOURCES = Path(compat.__file__).parent


def test_options_and_their_groups() -> None:
    parser = ArgumentParser(prog="tool", exit_on_error=False)
    parser.add_argument("--run", help="where")
    parser.add_argument("--secret", help=argparse.SUPPRESS)
    parser.add_argument_group("more", name="more").add_argument("--steps", type=int)
    assert [action.dest for action in compat.ungrouped(parser)] == ["help", "run", "secret"]
    assert parser.groups is not None
    assert [action.dest for action in compat.actions(parser.groups["more"])] == ["steps"]
    assert compat.option_names(parser) == ["--help", "--run", "--steps"]
    before = parser.format_help()
    with compat.help_sections(parser, {"mine": compat.ungrouped(parser)[1:], "none": ()}):
        assert parser.format_help() == (
            "usage: tool [--run RUN] [--steps STEPS]\n\nmine:\n  --run RUN  where (default: null)\n"
        )
    assert parser.format_help() == before


def test_deprecations_of_jsonargparse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "all")  # each, and not the first of a process
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_argument("--run")
    parser.add_argument("--steps", type=int)
    with pytest.raises(DeprecationWarning, match="Abbreviated options"):
        parser.instantiate_classes(parser.parse_args(["--ru", "here"]))
    with compat.no_deprecations():
        assert parser.instantiate_classes(parser.parse_args(["--ru", "here"])).run == "here"


def test_strategies(tmp_path: Path) -> None:
    spawning = quiet_trainer(tmp_path, strategy="ddp_spawn", devices=2).strategy
    assert compat.hands_nothing_back(spawning)
    assert not compat.hands_nothing_back(quiet_trainer(tmp_path, strategy="ddp", devices=2).strategy)
    assert not compat.hands_nothing_back(quiet_trainer(tmp_path).strategy)
    strategy = ModelParallelStrategy(tensor_parallel_size=3, save_distributed_checkpoint=False)
    assert (compat.tensor_parallel_size(strategy), compat.saves_in_pieces(strategy)) == (3, False)
    assert compat.saves_in_pieces(ModelParallelStrategy())
    assert vars(strategy)["_data_parallel_size"] == "auto"  # what is set is what Lightning reads
    compat.set_data_parallel_size(strategy, 2)
    assert vars(strategy)["_data_parallel_size"] == 2


def test_the_trainer_of_a_module(tmp_path: Path) -> None:
    module = LightningModule()
    assert compat.trainer_of(module) is None
    trainer = quiet_trainer(tmp_path)
    module.trainer = trainer
    assert compat.trainer_of(module) is trainer


def test_the_callbacks_of_a_trainer(tmp_path: Path) -> None:
    mine = ModelSummary()
    assert mine in compat.callbacks(quiet_trainer(tmp_path, enable_model_summary=True, callbacks=[mine]))


def test_a_dry_run(tmp_path: Path) -> None:
    assert [compat.is_dry_run(quiet_trainer(tmp_path, fast_dev_run=count)) for count in (False, True, 3)] == [
        False,
        True,
        True,
    ]


def test_a_checkpoint_of_the_end_of_an_epoch(tmp_path: Path) -> None:
    """Without ``complete_epoch`` Lightning would begin again with the epoch that is over."""
    checkpoint = ResumeCheckpoint(tmp_path / "kept")
    quiet_trainer(
        tmp_path,
        max_epochs=2,
        limit_train_batches=3,
        callbacks=[checkpoint],
        enable_checkpointing=True,
        limit_val_batches=0,
    ).fit(BoringModel())
    assert checkpoint.path is not None
    written = torch.load(checkpoint.path, weights_only=True)
    epochs = written["loops"]["fit_loop"]["epoch_progress"]["current"]
    assert (epochs["processed"], epochs["completed"]) == (2, 1)
    compat.complete_epoch(written)
    assert epochs["completed"] == 2
    batches = written["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    assert set(batches["current"].values()) == {0} and not batches["is_last_batch"]

    class Seen(BoringModel):
        epochs: list[int] = []  # noqa: RUF012  (of this test alone)

        def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
            self.epochs.append(self.current_epoch)

    resumed = quiet_trainer(
        tmp_path,
        max_steps=9,
        max_epochs=-1,
        limit_train_batches=3,
        limit_val_batches=0,
        callbacks=[ResumeCheckpoint(tmp_path / "again")],
        enable_checkpointing=True,
    )
    resumed.fit(Seen(), ckpt_path=str(checkpoint.path), weights_only=True)
    assert Seen.epochs == [2, 2, 2]


def test_classes_of_either_package_have_one_name(tmp_path: Path) -> None:
    class Mine(pytorch_lightning.loggers.WandbLogger):
        pass

    theirs = Mine(project="mine", save_dir=tmp_path, offline=True)
    assert not isinstance(theirs, WandbLogger)
    for logger in (theirs, WandbLogger(project="mine", save_dir=tmp_path, offline=True)):
        assert compat.is_lightning(logger, "WandbLogger")
        assert not compat.is_lightning(logger, "CSVLogger")
    impostor = type("WandbLogger", (), {"__module__": "mine"})
    assert not compat.is_lightning(impostor(), "WandbLogger")


def test_a_callback_of_both_packages() -> None:
    both = compat.callback_class()
    assert issubclass(both, Callback) and issubclass(both, pytorch_lightning.Callback)


def test_wandb_loggers(tmp_path: Path) -> None:
    logger = WandbLogger(project="mine", group="ours", save_dir=tmp_path, offline=True)
    assert compat.is_offline(logger)
    online = WandbLogger(project="mine", save_dir=tmp_path, log_model=True)
    assert not compat.is_offline(online)
    assert compat.uploads_models(online) and not compat.uploads_models(logger)
    fresh = compat.copy_of_logger(logger)
    assert isinstance(fresh, WandbLogger)
    compat.wandb_arguments(fresh)["group"] = "theirs"
    assert compat.wandb_arguments(fresh)["project"] == "mine"
    assert compat.wandb_arguments(logger)["group"] == "ours"
    assert not list(tmp_path.iterdir())  # no run has begun


def test_a_workspace_takes_the_place_of_another() -> None:
    workspace = Workspace(entity="me", project="mine", name="x")
    compat.take_place_of(workspace, "nw-abc-v", "an identity")
    view = compat.view_of(workspace)
    assert (view.name, view.id, view.entity, view.display_name) == ("nw-abc-v", "an identity", "me", "x")


def test_schedulers_keep_their_values() -> None:
    """With diffusers' list of default values another class would put its own in their place."""

    class Other(DDPMScheduler):
        @register_to_config
        def __init__(self, beta_start: float = 0.5) -> None:
            super().__init__(beta_start=beta_start)

    assert Other.from_config(DDIMScheduler().config).config["beta_start"] == 0.5
    assert Other.from_config(compat.scheduler_config(DDIMScheduler())).config["beta_start"] == 0.0001
    scheduler = DDIMScheduler()
    assert "_use_default_values" in scheduler.config
    config = compat.scheduler_config(scheduler)
    assert {"_use_default_values", *config} == set(scheduler.config)


def _foreign(path: Path) -> list[str]:
    """Private attributes and imports that no class or module of ours defines."""
    tree = ast.parse(path.read_text("utf-8"))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not (node.module or "").startswith(("guda_lightning", "__")):
            found += [alias.name for alias in node.names if alias.name.startswith("_")]
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            found.append(node.attr)
    return found


PUBLIC = {"_replace", "_exit"}  # of named tuples and os: documented


def _defined() -> set[str]:
    names: set[str] = set()
    for path in SOURCES.rglob("*.py"):
        if path.name == "compat.py":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                names.add(node.attr)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(node.target.id)
    return names


def test_private_symbols_of_libraries_are_in_compat_alone() -> None:
    defined = _defined() | PUBLIC
    strays = {
        path.relative_to(SOURCES).as_posix(): sorted(set(names))
        for path in sorted(SOURCES.rglob("*.py"))
        if path.name != "compat.py" and (names := [name for name in _foreign(path) if name not in defined])
    }
    assert strays == {}


def test_every_function_of_compat_is_used() -> None:
    text = "\n".join(path.read_text("utf-8") for path in SOURCES.rglob("*.py") if path.name != "compat.py")
    functions = [
        node.name
        for node in ast.parse((SOURCES / "compat.py").read_text("utf-8")).body
        if isinstance(node, ast.FunctionDef)
    ]
    assert functions and all(f"compat.{name}(" in text for name in functions)
