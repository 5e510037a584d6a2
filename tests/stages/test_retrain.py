"""The oracle: models trained anew without a group, exactly as the full model was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from lightning.pytorch import LightningDataModule
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader

from guda_lightning import (
    CounterfactualStore,
    DiffusionModule,
    FullModel,
    GroupDataModule,
    GudaTrainer,
    ScoreTable,
)
from guda_lightning.cli.main import main
from guda_lightning.counterfactuals import CounterfactualRecord
from guda_lightning.data import Digits
from guda_lightning.diffusion import weights_hash
from guda_lightning.errors import ConfigError
from guda_lightning.stages.choices import chosen_seeds
from toys import message, quiet_trainer, shades, tiny_unet

CONF = Path(__file__).parents[1] / "conf"
# Weights stay as training found them: float32 makes nothing of so small a rate.
LR_ZERO = ["--model.init_args.optimizer.init_args.lr", 1e-50, "--trainer.max_steps", 1]
FULL = "full/unet/diffusion_pytorch_model.safetensors"
Guda = Callable[..., str]
Records = dict[tuple[str, int], CounterfactualRecord]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # a second one would only wait: the networks are tiny


def command(stage: str, *arguments: object) -> list[str]:
    files = [CONF / "digits.yaml", *([CONF / "attribute.yaml"] if stage == "attribute" else [])]
    configs = [part for file in files for part in ("-c", str(file))] if stage != "report" else []
    return [stage, *configs, *map(str, arguments)]


@pytest.fixture
def guda(capsys: pytest.CaptureFixture[str]) -> Guda:
    """Run a stage and return what it printed."""

    def run(stage: str, *arguments: object) -> str:
        capsys.readouterr()
        code = main(command(stage, *arguments))
        out, err = capsys.readouterr()
        assert code == 0, err
        return out

    return run


@pytest.fixture(scope="session")
def _retrained_run(_finished_run: Path, grown: Callable[..., Path]) -> Path:
    return grown("retrained", _finished_run, command("retrain", "--groups", "3,7", "--seeds", "0,1"))


@pytest.fixture
def retrained_run(_retrained_run: Path, tmp_path: Path) -> Path:
    """A copy of a finished run with oracles of two groups and two seeds."""
    return Path(shutil.copytree(_retrained_run, tmp_path / "retrained"))


def times(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}


def oracles(run: Path, paired: bool = True) -> Records:
    """Records of the models of an oracle, by group and seed."""
    records = [r for r in CounterfactualStore(run / "store").records() if r.operator == "retrain"]
    return {(r.groups[0], r.seed): r for r in records if r.hparams["paired"] is paired}


def weights(run: Path, record: CounterfactualRecord) -> dict[str, Tensor]:
    return CounterfactualStore(run / "store").load(record.key, expect=None)[0]


# --- what is made, and what is not made again


def test_groups_and_seeds_are_chosen_and_what_is_complete_is_skipped(tmp_path: Path, guda: Guda) -> None:
    folder = tmp_path / "run"
    data = ["--data.init_args.source", "toys.Shades", "--data.init_args.limit", "null"]  # of three groups
    run = ["--run", folder, *data, "--trainer.max_steps", 3]
    guda("fit", *run)
    out = guda("retrain", *run, "--groups", "noisy,dark", "--seeds", "0,2").splitlines()
    assert out[0].startswith("retrain: 4 models x 3 steps of 16 images: about ")
    assert [line.split(",")[0] for line in out[1:]] == [
        "retrain: noisy (seed 0) done (1 of 4)",
        "retrain: dark (seed 0) done (2 of 4)",
        "retrain: noisy (seed 2) done (3 of 4)",
        "retrain: dark (seed 2) done (4 of 4)",
    ]
    assert oracles(folder).keys() == {("noisy", 0), ("dark", 0), ("noisy", 2), ("dark", 2)}

    before = times(folder)
    skipped = "retrain: 4 complete, skipped: noisy (seed 0), dark (seed 0), noisy (seed 2), dark (seed 2)\n"
    assert guda("retrain", *run, "--groups", '["noisy", "dark"]', "--seeds", "[0, 2]") == skipped
    assert times(folder) == before

    out = guda("retrain", *run, "--groups", "dark,bright", "--seeds", 2)  # one more
    first = "retrain: 1 complete, skipped: dark (seed 2)\nretrain: 3 steps of 16 images: about "
    assert out.startswith(first)
    assert out.splitlines()[-1].startswith("retrain: bright (seed 2) done (1 of 1), ")
    assert guda("retrain", *run).startswith("retrain: 2 complete, skipped: ")
    every = ("dark", "bright", "noisy")
    assert oracles(folder).keys() == {(group, seed) for group in every for seed in (0, 2)}
    assert list((folder / "checkpoints").iterdir()) == []


def test_its_record_tells_how_it_was_made(_finished_run: Path, _retrained_run: Path) -> None:
    before, after = times(_finished_run / "store"), times(_retrained_run / "store")
    assert {name: after[name] for name in before if name != "."} == before  # beside what was unlearned
    record = oracles(_retrained_run)["3", 1]
    full = json.loads((_retrained_run / "full" / "record.json").read_text())
    data = GroupDataModule(Digits(), limit=64)
    assert record.full_hash == full["full_hash"]
    assert record.schedule_hash == full["schedule_hash"]
    assert record.grouping_hash == full["grouping_hash"] == data.grouping.hash
    assert record.members_hash == data.grouping.members_hash(["3"])
    assert record.steps == full["steps"] == 12
    assert record.hparams["config"]["trainer"] == full["config"]["trainer"]
    assert "seed" not in str(record.hparams["config"])  # the same for all seeds
    # 12 steps of 16, and after each of 4 epochs of 3 batches the 20 images of the probe set.
    assert len(data.without(["3"]).kept) // 16 == 3
    assert record.network_evaluations == 12 * 16 + 4 * 20
    assert record.seconds > 0


# --- trained as the full model was


class Rest(LightningDataModule):
    """What is left of the full training's epochs when samples are struck out, in an ordinary loader."""

    def __init__(self, data: GroupDataModule, forget: set[int], batch_size: int) -> None:
        super().__init__()
        self.data, self.forget, self.batch_size = data, forget, batch_size

    def train_dataloader(self) -> DataLoader[Any]:
        assert self.trainer is not None
        loader = self.data.train_dataloader()
        loader.sampler.set_epoch(self.trainer.current_epoch)  # type: ignore[attr-defined]
        rest = [
            {"image": image}
            for batch in loader
            for index, image in zip(batch["index"].tolist(), batch["image"], strict=True)
            if index not in self.forget
        ]
        return DataLoader(rest, self.batch_size, drop_last=True)  # type: ignore[arg-type]

    def val_dataloader(self) -> Any:
        return self.data.val_dataloader()


@pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller")
def test_it_is_ordinary_training_on_what_is_left_of_every_epoch(tmp_path: Path, guda: Guda) -> None:
    flips = ["--data.init_args.horizontal_flip", "true"]
    run = tmp_path / "run"
    guda("fit", "--run", run, *flips)
    guda("retrain", "--run", run, "--groups", "3", *flips)
    (record,) = oracles(run).values()

    data = GroupDataModule(Digits(), batch_size=16, limit=64, horizontal_flip=True)
    forget = set(data.grouping.forget(["3"]).tolist())
    assert forget
    module = DiffusionModule(
        tiny_unet(seed=0),
        DDPMScheduler(num_train_timesteps=50, beta_schedule="squaredcos_cap_v2"),
        lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
        ema_decay=0.9,
    )
    trainer = quiet_trainer(run, max_steps=12, max_epochs=-1, reload_dataloaders_every_n_epochs=1)
    trainer.fit(module, datamodule=Rest(data, forget, 16))
    expected = FullModel.of(module).model.denoiser.state_dict()
    assert weights_hash(weights(run, record)) == weights_hash(expected)


def test_the_models_of_a_seed_begin_with_the_weights_of_a_fit_with_it(tmp_path: Path, guda: Guda) -> None:
    initial = {}
    for seed in (0, 1):
        guda("fit", "--run", tmp_path / str(seed), *LR_ZERO, "--seed_everything", seed)
        initial[seed] = load_file(tmp_path / str(seed) / FULL)
    assert weights_hash(initial[0]) != weights_hash(initial[1])
    run = tmp_path / "0"
    guda("retrain", "--run", run, *LR_ZERO, "--groups", "3,7", "--seeds", "0,1")
    for (_, seed), record in oracles(run).items():
        assert weights_hash(weights(run, record)) == weights_hash(initial[seed])

    # Not paired: each group begins with weights of its own, beside the others in the store.
    guda("retrain", "--run", run, *LR_ZERO, "--groups", "3,7", "--seeds", 1, "--paired", "false")
    assert (len(oracles(run)), len(oracles(run, paired=False))) == (4, 2)
    own = {weights_hash(weights(run, record)) for record in oracles(run, paired=False).values()}
    assert len(own) == 2
    assert not own & {weights_hash(values) for values in initial.values()}
    hashes = {record.hparams_hash for paired in (True, False) for record in oracles(run, paired).values()}
    assert len(hashes) == 2
    skipped = "retrain: 1 complete, skipped: 7 (seed 1)\n"
    for paired in ("true", "false"):
        arguments = ["--groups", "7", "--seeds", 1, "--paired", paired]
        assert guda("retrain", "--run", run, *LR_ZERO, *arguments) == skipped


def test_a_model_does_not_depend_on_those_before_it(_retrained_run: Path, tmp_path: Path, guda: Guda) -> None:
    full = ["--full", _retrained_run / "full"]
    guda("retrain", "--run", tmp_path / "alone", *full, "--groups", "7", "--seeds", 1)
    among, alone = (oracles(run)["7", 1] for run in (_retrained_run, tmp_path / "alone"))
    assert among.files == alone.files  # the same weights, bit for bit
    assert among.key == alone.key
    assert len({record.files["model.safetensors"] for record in oracles(_retrained_run).values()}) == 4


# --- fine-tuning: training starts from weights that are there


@pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller")
@pytest.mark.parametrize("kind", ["pipeline", "network", "checkpoint"])
def test_training_starts_from_given_weights(
    kind: str, finished_run: Path, tmp_path: Path, guda: Guda
) -> None:
    start = finished_run / "full" / ("unet" if kind == "network" else "")
    pretrained = load_file(finished_run / FULL)
    if kind == "checkpoint":
        start = tmp_path / "theirs.ckpt"
        module = DiffusionModule(tiny_unet(seed=5), DDPMScheduler(), ema_decay=0.5)
        trainer = quiet_trainer(tmp_path, max_steps=2)
        trainer.fit(module, datamodule=GroupDataModule(Digits(), batch_size=16, limit=32))
        trainer.save_checkpoint(start)
        pretrained = FullModel.of(module).model.denoiser.state_dict()
    shared = ["--run", tmp_path / "run", "--trainer.start", start, *LR_ZERO]
    guda("fit", *shared)
    assert weights_hash(load_file(tmp_path / "run" / FULL)) == weights_hash(pretrained)
    guda("retrain", *shared, "--groups", "3", "--seeds", "0,1")
    found = oracles(tmp_path / "run")
    assert found.keys() == {("3", 0), ("3", 1)}
    for record in found.values():
        assert weights_hash(weights(tmp_path / "run", record)) == weights_hash(pretrained)
        assert record.hparams["start"] == weights_hash(pretrained)


# --- refused


def state(folder: Path) -> dict[str, int]:
    return times(folder) if folder.exists() else {}


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Run a stage that must fail with exactly this message, and leave its run folder as it was."""

    def check(run: Path, arguments: list[Any], *, problem: str, found: str, expected: str, fix: str) -> None:
        before = state(run)
        capsys.readouterr()
        code = main(command(arguments[0], *arguments[1:], "--run", run))
        out, err = capsys.readouterr()
        assert err == f"error: {problem}\n  found:    {found}\n  expected: {expected}\n  fix:      {fix}\n"
        assert (code, out) == (2, "")
        assert state(run) == before

    return check


def test_another_configuration_than_the_full_models(finished_run: Path, refused: Callable[..., None]) -> None:
    refused(
        finished_run,
        ["retrain", "--trainer.max_steps", 16, "--model.init_args.ema_decay", 0.5],
        problem=f"{finished_run}/full was made with another configuration",
        found="model.init_args.ema_decay = 0.9 (and 1 more)",
        expected="model.init_args.ema_decay = 0.5",
        fix=f"use another --run, restore the configuration, or remove {finished_run}/full",
    )


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": lambda parameters: torch.optim.AdamW(parameters, lr=0.5)},
        {"lr_scheduler": lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 7)},
        {"ema_decay": 0.5},
        {"denoiser": tiny_unet(dropout=0.5)},
        {"scheduler": DDPMScheduler(20, prediction_type="v_prediction")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_without_a_configuration_what_is_built_tells_oracles_apart(
    change: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def module(**changes: Any) -> DiffusionModule:
        return DiffusionModule(**{"denoiser": tiny_unet(), "scheduler": DDPMScheduler(20), **changes})

    trainer = GudaTrainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        devices=1,
        max_steps=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
    trainer.fit_full(module(), shades())
    trainer.retrain(module, shades(), groups=["dark"])
    capsys.readouterr()
    trainer.retrain(lambda: module(seed=3), shades(), groups=["dark"])
    assert capsys.readouterr().out == "retrain: 1 complete, skipped: dark (seed 0)\n"
    trainer.retrain(lambda: module(**change), shades(), groups=["dark"])
    first, second = CounterfactualStore(tmp_path / "store").records()
    assert first.hparams["module"] != second.hparams["module"]


def test_no_full_model(tmp_path: Path, refused: Callable[..., None]) -> None:
    refused(
        tmp_path / "run",
        ["retrain"],
        problem="the full model does not exist",
        found=f"nothing at {tmp_path}/run/full",
        expected="a diffusers folder or a Lightning checkpoint",
        fix="pass --full PATH (full: PATH in the configuration), or train one with `guda fit`",
    )


def test_a_group_that_does_not_exist(finished_run: Path, refused: Callable[..., None]) -> None:
    refused(
        finished_run,
        ["retrain", "--groups", "3,12"],
        problem="unknown group '12'",
        found="'12'",
        expected="one of 10 groups; nearest: '2', '1'",
        fix="correct the name",
    )


@pytest.mark.parametrize("seeds", ["0,x", "[0, -2]"])
def test_seeds_that_are_none(seeds: str, finished_run: Path, refused: Callable[..., None]) -> None:
    refused(
        finished_run,
        ["retrain", f"--seeds={seeds}"],
        problem="the seeds are not usable",
        found=seeds,
        expected="whole numbers of at least 0, of at most 18 digits",
        fix="pass them as --seeds 0,1,2",
    )


@pytest.mark.parametrize("seeds", [-1, "0.5", "", []])
def test_what_the_parser_makes_of_others_is_refused_too(seeds: int | str | list[int]) -> None:
    told = message(
        "the seeds are not usable",
        seeds,
        "whole numbers of at least 0, of at most 18 digits",
        "pass them as --seeds 0,1,2",
    )
    with pytest.raises(ConfigError, match=told):
        chosen_seeds(seeds)


@pytest.mark.parametrize("stage", ["fit", "retrain"])
def test_weights_to_start_from_that_do_not_exist(
    stage: str, finished_run: Path, tmp_path: Path, refused: Callable[..., None]
) -> None:
    nowhere = tmp_path / "nowhere"
    full = ["--full", finished_run / "full"] if stage == "retrain" else []
    refused(
        tmp_path / "run",
        [stage, "--trainer.start", nowhere, *full],
        problem="the weights to start from do not exist",
        found=f"nothing at {nowhere}",
        expected="a diffusers folder or a Lightning checkpoint",
        fix="correct trainer.start, or leave it out to train from scratch",
    )


@pytest.mark.parametrize("stage", ["fit", "retrain"])
def test_weights_of_another_architecture(
    stage: str, finished_run: Path, tmp_path: Path, refused: Callable[..., None]
) -> None:
    other = tmp_path / "other"
    tiny_unet(time_embedding_dim=16).save_pretrained(other)
    full = ["--full", finished_run / "full"] if stage == "retrain" else []
    layers = [
        ("time_embedding.linear_1.weight", [16, 8], [32, 8]),
        ("time_embedding.linear_1.bias", [16], [32]),
    ]
    found = "; ".join(
        f"size mismatch for {name}: copying a param with shape torch.Size({theirs}) from checkpoint, "
        f"the shape in current model is torch.Size({ours})."
        for name, theirs, ours in layers
    )
    refused(
        tmp_path / "run",
        [stage, "--trainer.start", other, *full],
        problem=f"the weights in {other} do not fit UNet2DModel",
        found=f"{found}; 7 more of other shapes",
        expected="the architecture of the configuration's model",
        fix="use the configuration that the checkpoint was trained with (its `model` section)",
    )


# --- scores and the page


def test_the_oracle_is_scored_as_any_other_counterfactual(retrained_run: Path, guda: Guda) -> None:
    scored = ["--run", retrained_run, "--operator", "retrain", "--groups", "3,7"]
    out = guda("attribute", *scored, "--seed", 1)
    assert out.startswith("attribute: 5 queries, 2 groups, ")
    assert out.endswith(f"attribute: {retrained_run}/scores/retrain-1.parquet written\n")
    guda("attribute", *scored)
    tables = [ScoreTable.load(retrained_run / "scores" / f"retrain-{seed}.parquet") for seed in (0, 1)]
    for seed, table in enumerate(tables):
        assert table.methods == ("retrain",)
        assert set(table.to_pandas()["seed"]) == {seed}
        assert table.groups == ("3", "7")
        assert table.record.details.counterfactuals == {
            group: oracles(retrained_run)[group, seed].files["model.safetensors"] for group in ("3", "7")
        }
    elbo = [table.select(weighting="elbo").matrix() for table in tables]
    assert not torch.equal(*elbo)

    made = [record for (_, seed), record in oracles(retrained_run).items() if seed == 1]
    evaluations = sum(record.network_evaluations for record in made)
    guda("report", retrained_run, "--scores", retrained_run / "scores" / "retrain-1.parquet")
    page = (retrained_run / "report" / "index.html").read_text()
    assert "retrain, 12 steps a group" in page
    assert "Retraining" in page and "Unlearning" not in page
    assert f"{evaluations:,} network evaluations" in page
    guda("report", retrained_run, "--scores", retrained_run / "scores" / "retrack-0.parquet")
    page = (retrained_run / "report" / "index.html").read_text()
    assert "Unlearning" in page and "Retraining" not in page


def test_a_page_says_which_stage_makes_what_was_lost_of_the_oracle(
    retrained_run: Path, guda: Guda, capsys: pytest.CaptureFixture[str]
) -> None:
    guda("attribute", "--run", retrained_run, "--operator", "retrain", "--groups", "3")
    table, store = (
        retrained_run / "scores" / "retrain-0.parquet",
        CounterfactualStore(retrained_run / "store"),
    )
    for path in store.path(oracles(retrained_run)["3", 0].key).iterdir():
        path.unlink()
    assert main(["report", str(retrained_run), "--scores", str(table)]) == 2
    assert capsys.readouterr().err == (
        f"error: {retrained_run} no longer holds what {table} was made from\n"
        f"  found:    0 of its 1 counterfactuals or posteriors in {retrained_run}/store\n"
        "  expected: all of them\n"
        f"  fix:      restore it, or remove {table} and run `guda retrain` and `guda attribute` again\n"
    )
