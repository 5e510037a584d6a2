from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from guda_lightning import (
    CounterfactualAttributor,
    CounterfactualStore,
    DiffusionModule,
    ELBOAttributionCallback,
    FullModel,
    Scoring,
    UnlearnModule,
)
from guda_lightning.attribution import AttributionContext, squared_errors
from guda_lightning.data import load_queries
from guda_lightning.data.grouping import Grouping
from guda_lightning.data.images import to_unit
from guda_lightning.errors import ConfigError, QueryError, StoreError
from guda_lightning.scores import ScoreRecord, SquaredErrors, score_table
from guda_lightning.scores.kinds import Custom
from guda_lightning.types import Queries
from guda_lightning.unlearning import Finetune, ReTrack
from toys import GROUPS, message, quiet_trainer, shades, tiny_unet

SCORING = Scoring(strata=4, draws=2)
pytestmark = pytest.mark.filterwarnings(
    "ignore:Found .* module.s. in eval mode",  # the frozen full model, on purpose
    "ignore:The number of training batches .* is smaller than the logging interval",
)
IN_FIT = "fit changes the {} that the counterfactuals were made from"


class Foreign(pl.LightningModule):
    """Somebody else's: its parts are nested, have other names, and batches are tuples."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.net = nn.ModuleDict({"unet": tiny_unet(seed, dropout=0.2), "head": nn.Dropout(0.1)})
        self.noise = DDPMScheduler(20)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("loss", torch.zeros(()), batch_size=1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.net["unet"](batch[0], torch.zeros(len(batch[0]))).sample.square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


PATHS = {"denoiser": "net.unet", "scheduler": "noise", "image_key": 0}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)  # networks this small only lose time to more


@pytest.fixture(scope="module")
def data() -> pl.LightningDataModule:
    return shades(probe_per_group=3)


@pytest.fixture(scope="module")
def full_module() -> DiffusionModule:
    return DiffusionModule(tiny_unet(), DDPMScheduler(20))


def unlearned(
    folder: Path, full: FullModel, data: Any, group: str, callbacks: list[pl.Callback] | None = None
) -> UnlearnModule:
    module = UnlearnModule(full, ReTrack(), [group], lambda p: torch.optim.AdamW(p, lr=1e-2))
    trainer = quiet_trainer(folder, max_steps=2, callbacks=callbacks, limit_val_batches=1.0)
    trainer.fit(module, datamodule=data.unlearning([group]))
    return module


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, full_module: DiffusionModule, data: Any) -> Path:
    folder = tmp_path_factory.mktemp("counterfactuals")
    for group in GROUPS:
        unlearned(folder, FullModel.of(full_module), data, group).save(folder / "store")
    return folder / "store"


@pytest.fixture(scope="module")
def foreign_store(tmp_path_factory: pytest.TempPathFactory, data: Any) -> Path:
    folder = tmp_path_factory.mktemp("foreign")
    full = FullModel.of(Foreign(), "net.unet", "noise")
    for group in GROUPS[:2]:
        unlearned(folder, full, data, group).save(folder / "store")
    return folder / "store"


def assert_close(scores: Tensor, expected: Tensor) -> None:
    """Equal up to 1e-5 of the ELBO, which is hundreds of nats here: Lightning validates in inference mode."""
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-3)


def probe(data: Any) -> Queries:
    rows = data.probe
    return Queries(tuple(map(str, rows)), to_unit(data.images[rows]))


def images(count: int = 6) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 1


def tuples(x: Tensor, batch_size: int = 4) -> DataLoader[Any]:
    return DataLoader(TensorDataset(x, torch.arange(len(x))), batch_size=batch_size)


def validated(folder: Path, callback: ELBOAttributionCallback, module: Any, **what: Any) -> pl.Trainer:
    trainer = quiet_trainer(folder, callbacks=[callback])
    trainer.validate(module, verbose=False, **what)
    return trainer


# What is scored


def test_the_student_is_the_counterfactual_of_its_group(
    tmp_path: Path, full_module: DiffusionModule, data: Any
) -> None:
    callback = ELBOAttributionCallback(scoring=SCORING)
    full = FullModel.of(full_module)
    module = UnlearnModule(full, Finetune(), ["dark"], lambda p: torch.optim.AdamW(p, lr=1e-2))
    trainer = quiet_trainer(
        tmp_path, max_steps=3, callbacks=[callback], val_check_interval=1, check_val_every_n_epoch=None
    )
    trainer.fit(module, datamodule=data.unlearning(["dark"]))

    queries = probe(data)
    schedule = full.model.schedule
    errors = [
        SquaredErrors(queries.ids, *squared_errors(model, queries, SCORING), {})
        for model in (full.model, module.student)
    ]
    expected = score_table(
        errors[0],
        {"dark": errors[1]},
        schedule,
        SCORING,
        method="finetune",
        seed=0,
        record=ScoreRecord(Custom()),
    )
    expected = expected.select(weighting="elbo")
    assert callback.table is not None
    assert callback.table.queries == queries.ids
    assert callback.table.groups == ("dark",)
    assert callback.table.methods == ("finetune",)
    assert_close(callback.table.matrix(), expected.matrix())
    assert_close(callback.table.stderr_matrix(), expected.stderr_matrix())
    assert callback.table.record.full_hash == full.hash
    assert_close(callback.table.per_sample().matrix(), expected.matrix() / 16)
    assert expected.matrix().abs().min() > 0

    assert [(row["group"], row["step"]) for row in callback.history] == [
        ("dark", 1),
        ("dark", 2),
        ("dark", 3),
    ]
    own = torch.tensor([row in data.grouping.forget(["dark"]) for row in data.probe])
    assert own.sum() == 3
    scores = expected.matrix()[:, 0]
    logged = trainer.callback_metrics
    for name, value in (("dark", scores), ("own", scores[own]), ("other", scores[~own])):
        assert float(logged[f"influence/{name}"]) == pytest.approx(float(value.mean()), abs=1e-3)
    assert callback.history[-1]["own"] == pytest.approx(float(logged["influence/own"]), rel=1e-6)


def test_samples_in_several_forgotten_groups_count_once(
    tmp_path: Path, full_module: DiffusionModule, data: Any
) -> None:
    groups, callback = ["dark", "bright"], ELBOAttributionCallback(scoring=SCORING)
    members = {"dark": range(16), "bright": range(8, 32), "noisy": range(32, 48)}
    overlapping = data.regrouped(Grouping({name: list(rows) for name, rows in members.items()}, 48))
    module = UnlearnModule(FullModel.of(full_module), Finetune(), groups)
    trainer = quiet_trainer(
        tmp_path, max_steps=1, callbacks=[callback], val_check_interval=1, check_val_every_n_epoch=None
    )
    trainer.fit(module, datamodule=overlapping.unlearning(groups))
    assert callback.table is not None
    assert callback.table.record.group_sizes == {"dark+bright": 32}


def test_curves_go_on_where_a_checkpoint_left_them(
    tmp_path: Path, full_module: DiffusionModule, data: Any
) -> None:
    def run(name: str, epochs: int, resume: Path | None = None) -> list[dict[str, Any]]:
        callback = ELBOAttributionCallback(scoring=SCORING)
        checkpoint = ModelCheckpoint(tmp_path, filename=name, save_on_train_epoch_end=True)
        trainer = quiet_trainer(
            tmp_path, max_epochs=epochs, callbacks=[callback, checkpoint], enable_checkpointing=True
        )
        module = UnlearnModule(FullModel.of(full_module), ReTrack(), ["bright"])
        trainer.fit(module, datamodule=data.unlearning(["bright"]), ckpt_path=resume, weights_only=True)
        return callback.history

    first = run("a", 1)
    both = run("b", 2, resume=tmp_path / "a.ckpt")
    assert [row["step"] for row in both] == [4, 8]
    assert both[0] == first[0]
    assert both == run("c", 2)


def test_a_callback_that_moves_to_another_student_measures_its_full_model_again(
    tmp_path: Path, full_module: DiffusionModule, data: Any
) -> None:
    callback = ELBOAttributionCallback(scoring=SCORING)
    unlearned(tmp_path, FullModel.of(full_module), data, "dark", [callback])
    other = FullModel.of(DiffusionModule(tiny_unet(seed=9), DDPMScheduler(20)))
    student = unlearned(tmp_path, other, data, "dark", [callback])
    trainer = validated(tmp_path, callback, student, datamodule=data.unlearning(["dark"]))
    assert callback.table is not None
    moved = callback.table.matrix()
    fresh = ELBOAttributionCallback(scoring=SCORING)
    validated(tmp_path, fresh, student, datamodule=trainer.datamodule)
    assert fresh.table is not None
    assert_close(moved, fresh.table.matrix())


def test_a_diffusion_module_is_scored_against_a_store_as_the_attributor_does(
    tmp_path: Path, full_module: DiffusionModule, data: Any, store: Path
) -> None:
    callback = ELBOAttributionCallback(store=store, scoring=SCORING, weighting="uniform")
    trainer = validated(tmp_path, callback, full_module, datamodule=data)
    attributor = CounterfactualAttributor(store, "retrack", SCORING)
    table = attributor.fit(AttributionContext(FullModel.of(full_module), data)).score(probe(data))
    expected = table.select(weighting="uniform")
    assert callback.table is not None
    assert callback.table.queries == expected.queries
    assert callback.table.groups == expected.groups == GROUPS
    assert_close(callback.table.matrix(), expected.matrix())
    assert_close(callback.table.stderr_matrix(), expected.stderr_matrix())
    assert callback.table.record == expected.record
    for column, group in enumerate(GROUPS):
        mean = float(expected.matrix()[:, column].mean())
        assert float(trainer.callback_metrics[f"influence/{group}"]) == pytest.approx(mean, abs=1e-3)


def test_a_label_conditional_module_is_asked_with_its_labels(tmp_path: Path, data: Any) -> None:
    module = DiffusionModule(tiny_unet(num_class_embeds=3), DDPMScheduler(20), conditional=True)
    full = FullModel.of(module)
    student = UnlearnModule(full, ReTrack(), ["dark"])
    watcher = ELBOAttributionCallback(scoring=SCORING)
    quiet_trainer(tmp_path, max_steps=1, callbacks=[watcher], limit_val_batches=1.0).fit(
        student, datamodule=data.unlearning(["dark"])
    )
    student.save(tmp_path / "store")
    assert data.labels is not None
    unlabelled = probe(data)
    queries = Queries(unlabelled.ids, unlabelled.images, data.labels[data.probe])
    expected = CounterfactualAttributor(tmp_path / "store", "retrack", SCORING).fit(AttributionContext(full))
    callback = ELBOAttributionCallback(store=tmp_path / "store", scoring=SCORING)
    trainer = quiet_trainer(tmp_path, callbacks=[callback])
    trainer.validate(module, data.val_dataloader(), verbose=False)
    assert callback.table is not None
    assert_close(callback.table.matrix(), expected.score(queries).select(weighting="elbo").matrix())


def test_any_module_by_dotted_path_and_position(tmp_path: Path, foreign_store: Path) -> None:
    module, x = Foreign(), images()
    x[5] = x[0]  # the same image twice is one query
    callback = ELBOAttributionCallback(store=foreign_store, scoring=SCORING, **PATHS)
    validated(tmp_path, callback, module, dataloaders=tuples(x))
    assert callback.table is not None
    assert len(callback.table.queries) == 5
    full = FullModel.of(module, "net.unet", "noise")
    attributor = CounterfactualAttributor(foreign_store, "retrack", SCORING).fit(AttributionContext(full))
    expected = attributor.score(Queries(callback.table.queries, x[:5])).select(weighting="elbo")
    assert_close(callback.table.matrix(), expected.matrix())


def test_scores_do_not_depend_on_how_validation_is_batched(tmp_path: Path, foreign_store: Path) -> None:
    tables = []
    for size in (1, 6):
        callback = ELBOAttributionCallback(store=foreign_store, scoring=SCORING, **PATHS)
        validated(tmp_path, callback, Foreign(), dataloaders=tuples(images(), size))
        tables.append(callback.table)
    assert tables[0] is not None and tables[1] is not None
    assert tables[0].table.equals(tables[1].table)


def test_several_validation_loaders_may_count_their_samples_alike(
    tmp_path: Path, full_module: DiffusionModule, data: Any, store: Path
) -> None:
    class Two(DiffusionModule):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            pass

    module = Two(full_module.denoiser, DDPMScheduler(20))
    callback = ELBOAttributionCallback(store=store, scoring=SCORING)
    validated(tmp_path, callback, module, dataloaders=[data.val_dataloader(), data.val_dataloader()])
    ids = probe(data).ids
    assert callback.table is not None
    assert callback.table.queries == (*ids, *(f"1/{i}" for i in ids))


def test_fixed_queries_are_scored_instead_of_the_validation_batches(
    tmp_path: Path, foreign_store: Path
) -> None:
    folder = tmp_path / "queries"
    (folder / "sub").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8)
    for name, array in zip(("b.png", "a.png", "sub/c.png"), pixels, strict=True):
        Image.fromarray(array).save(folder / name)
    callback = ELBOAttributionCallback(store=foreign_store, scoring=SCORING, queries=folder, **PATHS)
    validated(tmp_path, callback, Foreign(), dataloaders=tuples(images()))
    full = FullModel.of(Foreign(), "net.unet", "noise")
    attributor = CounterfactualAttributor(foreign_store, "retrack", SCORING).fit(AttributionContext(full))
    expected = attributor.score(load_queries(folder, (1, 8, 8))).select(weighting="elbo")
    assert callback.table is not None
    assert callback.table.queries == expected.queries == ("a", "b", "sub/c")
    assert_close(callback.table.matrix(), expected.matrix())
    assert callback.table.record == expected.record


def test_the_counterfactuals_of_a_seed_and_of_hyper_parameters_can_be_chosen(
    tmp_path: Path, full_module: DiffusionModule, data: Any
) -> None:
    records = []
    for steps in (1, 2):
        module = UnlearnModule(FullModel.of(full_module), ReTrack(), ["dark"], seed=5)
        quiet_trainer(tmp_path, max_steps=steps).fit(module, datamodule=data.unlearning(["dark"]))
        records.append(module.save(tmp_path / "store"))
    arguments: dict[str, Any] = {"store": tmp_path / "store", "scoring": SCORING, "seed": 5}
    loader = data.val_dataloader()
    with pytest.raises(StoreError, match="were made with several sets of hyper-parameters"):
        validated(tmp_path, ELBOAttributionCallback(**arguments), full_module, dataloaders=loader)
    chosen = ELBOAttributionCallback(**arguments, hparams=records[1].hparams_hash[:8])
    validated(tmp_path, chosen, full_module, dataloaders=loader)
    assert chosen.table is not None
    assert chosen.table.seeds == (5,)
    weights = CounterfactualStore(tmp_path / "store").record(records[1].key).files["model.safetensors"]
    assert chosen.table.record.details.counterfactuals == {"dark": weights}


# What is left alone


def test_everything_of_the_user_stays_as_it_is(
    tmp_path: Path, full_module: DiffusionModule, data: Any, foreign_store: Path
) -> None:
    module = Foreign()
    module.net["head"].eval()
    module.net["unet"].down_blocks[0].eval()  # e.g. frozen normalisation
    module.net["unet"].conv_in.requires_grad_(False)
    seen: dict[str, Any] = {}

    class Watch(pl.Callback):
        """Sits on both sides of the callback."""

        def __init__(self, name: str) -> None:
            self.name = name

        @property
        def state_key(self) -> str:
            return self.name

        def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            seen[self.name] = (
                {name: part.training for name, part in pl_module.named_modules()},
                {name: parameter.requires_grad for name, parameter in pl_module.named_parameters()},
                {name: value.clone() for name, value in pl_module.state_dict().items()},
                (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()),
                torch.is_inference_mode_enabled(),
            )

    callback = ELBOAttributionCallback(store=foreign_store, scoring=SCORING, **PATHS)
    modes = {name: part.training for name, part in module.named_modules()}
    logger = CSVLogger(tmp_path, name="mine", version="1")
    trainer = quiet_trainer(tmp_path, callbacks=[Watch("before"), callback, Watch("after")], logger=logger)
    trainer.validate(module, tuples(images()), verbose=False)
    for before, after in zip(seen["before"], seen["after"], strict=True):
        assert str(before) == str(after)
    assert {name: part.training for name, part in module.named_modules()} == modes
    assert not module.net["unet"]._forward_hooks
    assert trainer.loggers == [logger]
    assert (logger.name, logger.version) == ("mine", "1")

    # A checkpoint holds the module's weights and one entry more, under the callback's own name.
    keys = []
    for callbacks in ([], [ELBOAttributionCallback(scoring=SCORING)]):
        student = UnlearnModule(FullModel.of(full_module), ReTrack(), ["dark"])
        trainer = quiet_trainer(tmp_path, max_steps=1, callbacks=callbacks, limit_val_batches=1.0)
        trainer.fit(student, datamodule=data.unlearning(["dark"]))
        trainer.save_checkpoint(tmp_path / "one.ckpt")
        checkpoint = torch.load(tmp_path / "one.ckpt", weights_only=True)
        keys.append((set(checkpoint), set(checkpoint["state_dict"]), set(checkpoint["callbacks"])))
    assert keys[0][:2] == keys[1][:2]
    assert keys[1][2] - keys[0][2] == {"ELBOAttributionCallback[None,None,None]"}


def test_watching_does_not_change_what_is_unlearned(
    tmp_path: Path, full_module: DiffusionModule, data: Any
) -> None:
    weights = []
    for callbacks in ([], [ELBOAttributionCallback(scoring=SCORING)]):
        module = UnlearnModule(FullModel.of(full_module), ReTrack(), ["dark"])
        trainer = quiet_trainer(
            tmp_path, max_steps=4, callbacks=callbacks, val_check_interval=2, check_val_every_n_epoch=None
        )
        trainer.fit(module, datamodule=data.unlearning(["dark"]))
        weights.append(module.denoiser.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_sanity_check_scores_nothing(tmp_path: Path, full_module: DiffusionModule, data: Any) -> None:
    callback = ELBOAttributionCallback(scoring=SCORING)
    module = UnlearnModule(FullModel.of(full_module), ReTrack(), ["dark"])
    trainer = quiet_trainer(tmp_path, max_steps=1, callbacks=[callback], num_sanity_val_steps=1)
    trainer.fit(module, datamodule=data.unlearning(["dark"]))
    assert callback.table is None
    assert callback.history == []


# What is refused, before the first batch


def test_a_module_without_a_store_is_refused(tmp_path: Path, full_module: DiffusionModule, data: Any) -> None:
    expected = message(
        "ELBOAttributionCallback needs counterfactuals to score a DiffusionModule",
        f"store=None, and nothing at {tmp_path / 'store'}",
        "the folder of a counterfactual store, or an UnlearnModule",
        "pass store=RUN/store after `guda unlearn`",
    )
    with pytest.raises(ConfigError, match=expected):
        validated(tmp_path, ELBOAttributionCallback(), full_module, datamodule=data)


def test_max_queries_must_be_positive() -> None:
    expected = message(
        "max_queries is out of range", 0, "max_queries >= 1", "leave the callback out to score nothing"
    )
    with pytest.raises(ConfigError, match=expected):
        ELBOAttributionCallback(max_queries=0)


def test_an_empty_store_is_refused(tmp_path: Path, full_module: DiffusionModule, data: Any) -> None:
    expected = message(
        f"there are no counterfactuals in {tmp_path / 'none'}",
        "no such folder",
        "one counterfactual for each group",
        "run guda unlearn with --groups dark,bright,noisy",
    )
    callback = ELBOAttributionCallback(store=tmp_path / "none")
    with pytest.raises(StoreError, match=expected):
        validated(tmp_path, callback, full_module, datamodule=data)


def test_counterfactuals_of_another_full_model_are_refused(tmp_path: Path, foreign_store: Path) -> None:
    class Untouched(Foreign):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            raise AssertionError("the first batch was reached")

    other = Untouched(seed=1)
    keys = CounterfactualStore(foreign_store).select("retrack", 0)
    path = CounterfactualStore(foreign_store).path(keys["bright"])
    made_from = FullModel.of(Foreign(), "net.unet", "noise").hash
    expected = message(
        f"{path / 'record.json'}: the counterfactual 'retrack' without bright (seed 0) "
        "was made from another full model",
        f"full_hash {made_from}",
        f"full_hash {FullModel.of(other, 'net.unet', 'noise').hash}",
        f"use the full model it was made from, or remove {path} and run guda unlearn with --groups bright",
    )
    callback = ELBOAttributionCallback(store=foreign_store, scoring=SCORING, **PATHS)
    with pytest.raises(StoreError, match=expected):
        validated(tmp_path, callback, other, dataloaders=tuples(images()))


def test_a_module_that_keeps_its_parts_elsewhere_is_refused(tmp_path: Path, foreign_store: Path) -> None:
    unknown = message(
        "a Foreign does not say where its diffusion model is",
        "denoiser=None, scheduler=None",
        "the dotted attribute paths of the network and of its noise scheduler",
        "pass both, e.g. denoiser='unet', scheduler='noise_scheduler'",
    )
    with pytest.raises(ConfigError, match=unknown):
        validated(
            tmp_path, ELBOAttributionCallback(store=foreign_store), Foreign(), dataloaders=tuples(images())
        )
    missing = message(
        "Foreign has no denoiser at 'nets.unet'",
        "Foreign has no attribute 'nets'",
        "a dotted attribute path; near it: net, noise",
        "pass denoiser='...' with the path of the denoiser inside Foreign",
    )
    callback = ELBOAttributionCallback(store=foreign_store, denoiser="nets.unet", scheduler="noise")
    with pytest.raises(ConfigError, match=missing):
        validated(tmp_path, callback, Foreign(), dataloaders=tuples(images()))


@pytest.mark.parametrize(
    ("image_key", "batch", "found", "fix"),
    [
        ("image", "tuple", "a list of 0 float32 [4, 1, 8, 8], 1 int64 [4]", "pass image_key=0"),
        (2, "tuple", "a list of 0 float32 [4, 1, 8, 8], 1 int64 [4]", "pass image_key=0"),
        (1, "tuple", "a list of 0 float32 [4, 1, 8, 8], 1 int64 [4]", "pass image_key=0"),
        (
            "image",
            "dict",
            "a dict of picture float32 [4, 1, 8, 8], label int64 [4]",
            "pass image_key='picture'",
        ),
        (
            "data.image",
            "nested",
            "a dict of data.a float32 [4, 1, 8, 8], data.b float32 [4, 1, 8, 8]",
            "pass image_key='data.a' or image_key='data.b'",
        ),
        (
            "image",
            "gray",
            "a dict of image float32 [4, 8, 8]",
            "add the axis of the channels in the data: images.unsqueeze(1)",
        ),
        (
            "image",
            "texts",
            "a batch: list of 4 str",
            "let the data give such a tensor, or pass queries=FOLDER to score pictures of a folder",
        ),
    ],
)
def test_a_batch_without_images_is_refused(
    tmp_path: Path, foreign_store: Path, image_key: str | int, batch: str, found: str, fix: str
) -> None:
    x = images(4)
    items: Any = {
        "tuple": [(image, 1) for image in x],
        "dict": [{"picture": image, "label": 1} for image in x],
        "nested": [{"data": {"a": image, "b": image}} for image in x],
        "gray": [{"image": image[0]} for image in x],
        "texts": ["a", "b", "c", "d"],
    }[batch]
    expected = message(
        f"the validation images: the batch has no images at image_key={image_key!r}",
        found,
        "a tensor [batch, channels, height, width]",
        fix,
    )
    callback = ELBOAttributionCallback(store=foreign_store, **{**PATHS, "image_key": image_key})
    with pytest.raises(ConfigError, match=expected):
        validated(tmp_path, callback, Foreign(), dataloaders=DataLoader(items, batch_size=4))


def test_training_the_model_that_the_counterfactuals_were_made_from_is_refused(
    tmp_path: Path, foreign_store: Path
) -> None:
    module = Foreign()
    expected = message(
        IN_FIT.format("Foreign"),
        f"{len(list(module.parameters()))} trainable parameters",
        "a frozen model, or an UnlearnModule",
        "after training and unlearning, pass this callback to a trainer that validates",
    )
    callback = ELBOAttributionCallback(store=foreign_store, scoring=SCORING, **PATHS)
    trainer = quiet_trainer(tmp_path, max_steps=1, callbacks=[callback])
    with pytest.raises(ConfigError, match=expected):
        trainer.fit(module, tuples(images()), tuples(images()))
    assert trainer.global_step == 0


def test_a_frozen_model_may_be_watched_in_fit(tmp_path: Path, foreign_store: Path) -> None:
    class Frozen(Foreign):
        def configure_optimizers(self) -> None:
            return None

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return torch.zeros((), requires_grad=True)

    module = Frozen().requires_grad_(False)
    callback = ELBOAttributionCallback(store=foreign_store, scoring=SCORING, **PATHS)
    trainer = quiet_trainer(tmp_path, max_epochs=1, callbacks=[callback])
    with pytest.warns(UserWarning, match="`LightningModule.configure_optimizers` returned `None`"):
        trainer.fit(module, tuples(images()), tuples(images()))
    assert callback.table is not None
    assert len(callback.table.queries) == 6


NOTHING = message(
    "there is nothing to score",
    "no validation batch",
    "a validation loader with at least one batch",
    "pass val_dataloaders, also for fixed queries, or leave ELBOAttributionCallback out",
)


@pytest.mark.filterwarnings("ignore:Total length of .DataLoader. across ranks is zero")
def test_an_empty_validation_is_refused(tmp_path: Path, foreign_store: Path) -> None:
    callback = ELBOAttributionCallback(store=foreign_store, **PATHS)
    with pytest.raises(QueryError, match=NOTHING):
        validated(tmp_path, callback, Foreign(), dataloaders=tuples(images(0)))


@pytest.mark.filterwarnings("ignore:Total length of .list. across ranks is zero")
def test_a_training_that_never_validates_is_refused_unless_asked_for(
    tmp_path: Path, full_module: DiffusionModule, data: Any
) -> None:
    def fit(**arguments: Any) -> None:
        split = data.unlearning(["dark"])
        split.val_dataloader = lambda: []  # type: ignore[method-assign]
        module = UnlearnModule(FullModel.of(full_module), ReTrack(), ["dark"])
        trainer = quiet_trainer(tmp_path, max_steps=1, callbacks=[ELBOAttributionCallback()], **arguments)
        trainer.fit(module, datamodule=split)

    with pytest.raises(QueryError, match=NOTHING):
        fit()
    fit(limit_val_batches=0)


def test_fixed_queries_that_do_not_fit_are_refused_at_the_first_batch(
    tmp_path: Path, full_module: DiffusionModule, data: Any
) -> None:
    expected = message(
        "there are no queries",
        f"nothing at {tmp_path / 'mine'}",
        "an image file or a folder of images",
        "correct the path",
    )
    callback = ELBOAttributionCallback(queries=tmp_path / "mine")
    module = UnlearnModule(FullModel.of(full_module), ReTrack(), ["dark"])
    trainer = quiet_trainer(tmp_path, max_steps=1, callbacks=[callback], num_sanity_val_steps=1)
    with pytest.raises(QueryError, match=expected):
        trainer.fit(module, datamodule=data.unlearning(["dark"]))
    assert trainer.global_step == 0
