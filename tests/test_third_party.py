"""A LightningModule written as the diffusers training tutorial does, without any of our base classes."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import LightningModule, seed_everything
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from guda_lightning import (
    CounterfactualAttributor,
    CounterfactualStore,
    DiffusionModule,
    ELBOAttributionCallback,
    FullModel,
    GroupDataModule,
    GudaTrainer,
    ScoreTable,
    Scoring,
    UnlearnModule,
    open_run,
)
from guda_lightning.attribution import AttributionContext
from guda_lightning.cli.main import main
from guda_lightning.data import Digits, load_queries
from guda_lightning.errors import ConfigError
from guda_lightning.unlearning import ReTrack
from toys import message, quiet_trainer

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
SCORING = Scoring(strata=2, draws=2)
PATHS = {"denoiser": "unet", "scheduler": "noise_scheduler"}
pytestmark = [
    pytest.mark.filterwarnings("ignore:Found .* module.s. in eval mode"),
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller"),
]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("own_module")


@pytest.fixture
def queries(tmp_path: Path) -> Path:
    folder = tmp_path / "queries"
    folder.mkdir()
    for index in range(2):
        pixels = np.random.default_rng(index).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def digits() -> GroupDataModule:
    return GroupDataModule(Digits(), limit=64, batch_size=16)


def test_the_module_has_none_of_our_base_classes(example: ModuleType) -> None:
    module = example.TutorialModule(width=8)
    assert type(module).__mro__[1] is LightningModule
    assert not isinstance(module, DiffusionModule)


# What Lightning recommends to somebody who sits before a screen.
@pytest.mark.filterwarnings("ignore:.*litlogger", "ignore:.*tensorboard", "ignore:.*GPU available")
def test_the_example_of_the_documentation_answers(tmp_path: Path, queries: Path, example: ModuleType) -> None:
    module = example.TutorialModule(width=8)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    table = example.main(tmp_path / "run", queries, module, fit_steps=2, unlearn_steps=1)
    assert table.queries == ("0", "1")
    assert table.groups == tuple("0123456789")
    assert table.weightings == ("elbo", "uniform", "middle")
    assert ScoreTable.load(tmp_path / "run" / "scores.parquet").table.equals(table.table)
    records = CounterfactualStore(tmp_path / "run" / "store").records()
    full = FullModel.of(module, **PATHS)
    assert len(records) == 10
    assert {(record.full_hash, record.steps) for record in records} == {(full.hash, 1)}
    assert any(not torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_its_documentation_shows_the_example_itself() -> None:
    recipes = (EXAMPLES.parent / "recipes.md").read_text()
    assert "```{literalinclude} examples/own_module.py" in recipes


def test_its_own_trainer_and_the_attributor_agree(
    tmp_path: Path, example: ModuleType, digits: GroupDataModule
) -> None:
    module = example.TutorialModule(width=8)
    full = FullModel.of(module, **PATHS)
    hashes = [full.hash]
    for group in ("3", "7"):
        student = UnlearnModule(full, ReTrack(), [group])
        quiet_trainer(tmp_path, max_steps=2).fit(student, datamodule=digits.unlearning([group]))
        record = student.save(tmp_path / "store")
        assert record.groups == (group,)
        assert record.network_evaluations > 0
        assert record.seconds > 0
        hashes.append(FullModel.of(student).hash)
        assert module.unet.training  # the user's own network is left as it was
        assert all(parameter.requires_grad for parameter in module.parameters())
    assert len(set(hashes)) == 3
    assert FullModel.of(module, **PATHS).hash == full.hash

    images = digits.images[:5] / 127.5 - 1
    callback = ELBOAttributionCallback(
        store=tmp_path / "store", scoring=SCORING, weighting="uniform", image_key="images", **PATHS
    )
    trainer = quiet_trainer(tmp_path, callbacks=[callback])
    loader = DataLoader([{"images": image} for image in images], batch_size=2)
    (metrics,) = trainer.validate(module, loader, verbose=False)
    assert set(metrics) == {"val_loss", "influence/3", "influence/7"}
    assert callback.table is not None

    folder = tmp_path / "images"
    folder.mkdir()
    for name, pixels in zip(callback.table.queries, digits.images[:5, 0], strict=True):
        Image.fromarray(pixels.numpy()).save(folder / f"{name}.png")
    attributor = CounterfactualAttributor(tmp_path / "store", "retrack", SCORING)
    table = attributor.fit(AttributionContext(full)).score(load_queries(folder, (1, 8, 8)))
    expected = table.select(weighting="uniform")
    order = [expected.queries.index(query) for query in callback.table.queries]
    torch.testing.assert_close(callback.table.matrix(), expected.matrix()[order], rtol=0, atol=1e-4)


def test_a_student_is_stored_as_the_command_line_would(
    tmp_path: Path, example: ModuleType, digits: GroupDataModule, capsys: pytest.CaptureFixture[str]
) -> None:
    module = example.TutorialModule(width=8)
    student = UnlearnModule(FullModel.of(module, **PATHS), ReTrack(), ["3"])
    quiet_trainer(tmp_path, max_steps=2).fit(student, datamodule=digits.unlearning(["3"]))
    student.save(tmp_path / "run" / "store")
    torch.save({"state_dict": module.state_dict()}, tmp_path / "full.ckpt")
    trainer = GudaTrainer(
        default_root_dir=tmp_path / "run", accelerator="cpu", devices=1, logger=False, **PATHS
    )
    trainer.unlearn(module, digits, ReTrack(), steps=2, groups=["3"], full=tmp_path / "full.ckpt")
    assert capsys.readouterr().out == "unlearn: 1 complete, skipped: 3\n"


def test_it_is_retrained_without_a_group(tmp_path: Path, queries: Path, example: ModuleType) -> None:
    data = GroupDataModule(Digits(), limit=64, batch_size=16, batch_keys={"image": "images"})
    epochs: list[list[int]] = []

    class Watched(example.TutorialModule):  # type: ignore[misc, name-defined]
        """Writes down which samples it is trained on."""

        def on_train_epoch_start(self) -> None:
            epochs.append([])

        def on_train_batch_start(self, batch: dict[str, Tensor], batch_idx: int) -> None:
            epochs[-1].extend(batch["index"].tolist())

    def build() -> LightningModule:
        return Watched(width=8)

    def trainer(folder: Path) -> GudaTrainer:
        quiet: dict[str, Any] = dict.fromkeys(
            ("enable_progress_bar", "enable_model_summary", "logger"), False
        )
        return GudaTrainer(
            default_root_dir=folder,
            accelerator="cpu",
            devices=1,
            max_epochs=8,
            num_sanity_val_steps=0,
            **quiet,
            **PATHS,
        )

    seed_everything(0, verbose=False)
    trainer(tmp_path / "run").fit_full(build(), data)
    whole, epochs = epochs, []
    trainer(tmp_path / "run").retrain(build, data, groups=["3", "7"], seeds=[0])
    assert len(whole) == 8 and len(epochs) == 2 * 8
    for group, seen in (("3", epochs[:8]), ("7", epochs[8:])):
        rest = set(data.grouping.retain([group]).tolist())
        assert {index for epoch in seen for index in epoch} == rest  # and none of the group, ever
        for mine, full in zip(seen, whole, strict=True):
            assert len(mine) == len(rest) // 16 * 16
            assert mine == [index for index in full if index in rest][: len(mine)]

    # Which one is made first changes nothing, although this module draws from the global generator.
    trainer(tmp_path / "alone").retrain(build, data, groups=["7"], seeds=[0], full=tmp_path / "run" / "full")
    (alone,) = CounterfactualStore(tmp_path / "alone" / "store").records()
    made = {record.groups: record for record in CounterfactualStore(tmp_path / "run" / "store").records()}
    assert made.keys() == {("3",), ("7",)}
    assert made["7",].files == alone.files
    assert made["7",].key == alone.key
    assert made["7",].steps == 8 * 3
    assert made["7",].network_evaluations == 8 * (3 * 16 + len(data.probe))

    scoring = trainer(tmp_path / "run")
    (table,) = scoring.attribute(build(), data, queries, "retrain", SCORING, groups=["3", "7"])
    assert ScoreTable.load(table).methods == ("retrain",)


def test_a_student_is_stored_only_after_its_training(
    tmp_path: Path, example: ModuleType, digits: GroupDataModule
) -> None:
    full = FullModel.of(example.TutorialModule(width=8), **PATHS)
    expected = message(
        "only a student that has unlearned can be stored",
        "no finished training in this process",
        "a training to its end",
        "call trainer.fit(module, datamodule=data.unlearning(groups)) first",
    )
    student = UnlearnModule(full, ReTrack(), ["3"])
    with pytest.raises(ConfigError, match=expected):
        student.save(tmp_path / "store")
    assert not (tmp_path / "store").exists()

    class Mine:
        """Data of the user's own making."""

    split: Any = digits.unlearning(["3"])
    trainer = quiet_trainer(tmp_path, max_steps=1)
    trainer.fit(student, datamodule=split)
    trainer.datamodule = Mine()
    unknown = message(
        "unknown hyper-parameters of this unlearning",
        "datamodule Mine",
        "a training on GroupDataModule(...).unlearning(groups), or hparams",
        "pass hparams={...} with all that the counterfactual depends on",
    )
    with pytest.raises(ConfigError, match=unknown):
        student.save(tmp_path / "store")


@pytest.mark.parametrize("keys", [{"pixels": "images"}, {"image": "label"}, {"image": "a", "label": "a"}])
def test_batch_keys_must_rename_the_entries_of_a_batch(keys: dict[str, str]) -> None:
    expected = message(
        "data.batch_keys is invalid",
        keys,
        "a new name for each of image, label, index, groups, or for some of them",
        "set data.batch_keys, e.g. to {image: images}",
    )
    with pytest.raises(ConfigError, match=expected):
        GroupDataModule(Digits(), batch_keys=keys)


def test_every_stage_of_the_command_line(
    tmp_path: Path, queries: Path, example: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    config = {
        "run": str(run),
        "model": {"class_path": "own_module.TutorialModule", "init_args": {"width": 8}},
        "data": {
            "class_path": "guda_lightning.GroupDataModule",
            "init_args": {
                "source": {"class_path": "guda_lightning.data.Digits"},
                "batch_size": 16,
                "limit": 64,
                "batch_keys": {"image": "images"},
            },
        },
        "trainer": {
            **PATHS,
            "max_epochs": 1,
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
        },
    }
    watch = {
        "class_path": "guda_lightning.ELBOAttributionCallback",
        "init_args": {
            "store": str(run / "store"),
            "image_key": "images",
            "scoring": {"strata": 2, "draws": 1},
            **PATHS,
        },
    }
    path, callback = tmp_path / "mine.yaml", tmp_path / "watch.yaml"
    path.write_text(yaml.safe_dump(config))
    callback.write_text(yaml.safe_dump({"trainer": {"callbacks+": [watch]}}))
    shared = ["-c", str(path)]
    assert main(["fit", *shared]) == 0
    assert main(["unlearn", *shared, "--steps", "1", "--groups", "3,7"]) == 0
    assert main(["sample", *shared, "--num", "2", "--steps", "2"]) == 0
    small = ["--scoring.strata", "2", "--scoring.draws", "1", "--groups", "3,7"]
    assert main(["attribute", *shared, *small]) == 0
    assert main(["attribute", *shared, *small, "--queries", str(queries)]) == 0
    for name in ("retrack-0", "retrack-0-queries"):
        table = ScoreTable.load(run / "scores" / f"{name}.parquet")
        assert (len(table.queries), table.groups) == (2, ("3", "7"))
    found = open_run(run).attribute(queries, groups=["3", "7"])  # whose network is no model of diffusers
    assert found.record == table.record
    torch.testing.assert_close(
        found.select(weighting="elbo").matrix(), table.select(weighting="elbo").matrix()
    )
    assert main(["unlearn", *shared, "--steps", "1"]) == 0  # the other groups, for validation with all
    capsys.readouterr()
    assert main(["validate", *shared, "-c", str(callback)]) == 0
    out = capsys.readouterr().out
    assert all(f"influence/{digit}" in out for digit in "0123456789")
    assert main(["validate", *shared, "--trainer.denoiser", "net"]) == 2
    assert "TutorialModule has no denoiser at 'net'" in capsys.readouterr().err
