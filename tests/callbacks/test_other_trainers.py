"""The callback beside other people's modules, data and loggers, in trainers of both Lightning packages."""

from __future__ import annotations

import gc
import hashlib
import importlib.util
import re
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import pytest
import pytorch_lightning
import torch
import wandb
from diffusers import DDPMScheduler, UNet2DConditionModel
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import CombinedLoader
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
    notes,
)
from guda_lightning.attribution import AttributionContext
from guda_lightning.callbacks import elbo_attribution
from guda_lightning.callbacks.draw import Draw
from guda_lightning.callbacks.image_range import ImageRange
from guda_lightning.callbacks.network_inputs import NetworkInputs
from guda_lightning.callbacks.validation_queries import ValidationQueries
from guda_lightning.counterfactuals import CounterfactualKey, CounterfactualRecord
from guda_lightning.data import load_queries
from guda_lightning.data.gathering import Collected, drawn, evenly
from guda_lightning.distributed.ranks import Ranks
from guda_lightning.errors import ConfigError, GudaError, QueryError
from guda_lightning.report.pictures import picture_of
from guda_lightning.types import Queries
from guda_lightning.unlearning import Finetune
from toys import message, quiet_trainer, shades, tiny_unet
from wandb_files import runs

SCORING = Scoring(strata=2, draws=1)
PACKAGES = [lightning, pytorch_lightning]
pytestmark = pytest.mark.filterwarnings(
    "ignore:Found .* module.s. in eval mode",
    "ignore:The number of training batches .* is smaller than the logging interval",
)
DOCS = Path(__file__).parents[2] / "docs" / "trainers.md"


def foreign(package: ModuleType = lightning, network: nn.Module | None = None) -> Any:
    """A module that knows nothing of this library, of either package."""

    class Foreign(package.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.unet = network or tiny_unet()
            self.noise_scheduler = DDPMScheduler(20)

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.log("loss", torch.zeros(()), batch_size=1)

    return Foreign()


def store_of(module: Any, folder: Path) -> Path:
    """Two counterfactuals: the same network with other weights."""
    full = FullModel.of(module, "unet", "noise_scheduler")
    for seed, group in enumerate(("a", "b")):
        noise = torch.Generator().manual_seed(seed)
        weights = {
            name: value + 0.02 * torch.randn(value.shape, generator=noise)
            for name, value in full.model.denoiser.state_dict().items()
        }
        record = CounterfactualRecord.of(
            CounterfactualKey("retrack", (group,), 0, "0" * 64),
            {},
            full.provenance("1" * 64),
            members_hash="2" * 64,
            seconds=1.0,
            steps=1,
            network_evaluations=1,
        )
        CounterfactualStore(folder / "store").save(weights, record)
    return folder / "store"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_of(foreign(), tmp_path_factory.mktemp("counterfactuals"))


def images(count: int = 6) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 1


def watching(store: Path, **arguments: Any) -> ELBOAttributionCallback:
    paths = {"denoiser": "unet", "scheduler": "noise_scheduler"}
    return ELBOAttributionCallback(store, scoring=SCORING, **{**paths, **arguments})


def validated(
    folder: Path,
    callbacks: Any,
    loaders: Any,
    module: Any = None,
    package: ModuleType = lightning,
    **more: Any,
) -> Any:
    trainer = quiet_trainer(folder, package, callbacks=callbacks, **more)
    trainer.validate(foreign(package) if module is None else module, loaders, verbose=False)
    return trainer


def one_batch(batch: Any) -> DataLoader[Any]:
    """A loader of one batch of any form."""
    return DataLoader([0], collate_fn=lambda _: batch)  # type: ignore[arg-type]


def test_no_batch_is_held_after_its_step(store: Path, tmp_path: Path) -> None:
    class Batch(dict[str, Tensor]):
        """One that can be referred to weakly."""

    seen: list[Any] = []
    module, callback = foreign(), watching(store)
    module.validation_step = lambda batch, batch_idx: seen.append(weakref.ref(batch))
    validated(tmp_path, callback, one_batch(Batch(image=images())), module)
    assert_scored(callback, store, images())
    gc.collect()
    assert [reference() for reference in seen] == [None]


def expected_scores(store: Path, queries: Queries, module: Any = None) -> Tensor:
    full = FullModel.of(foreign() if module is None else module, "unet", "noise_scheduler")
    attributor = CounterfactualAttributor(store, "retrack", SCORING).fit(AttributionContext(full))
    return attributor.score(queries).select(weighting="elbo").matrix()


def of_ids(callback: ELBOAttributionCallback, x: Tensor) -> Tensor:
    """The images that were scored, found by the hashes that name them."""
    assert callback.table is not None
    named = {hashlib.sha256(image.numpy().tobytes()).hexdigest()[:16]: image for image in x}
    return torch.stack([named[query] for query in callback.table.queries])


def assert_scored(callback: ELBOAttributionCallback, store: Path, x: Tensor, module: Any = None) -> None:
    assert callback.table is not None
    expected = expected_scores(store, Queries(callback.table.queries, x), module)
    torch.testing.assert_close(callback.table.matrix(), expected, rtol=0, atol=1e-3)


# Trainers and loggers


@pytest.fixture
def _no_run_left() -> Iterator[None]:
    yield
    wandb.finish()


@pytest.mark.usefixtures("_no_run_left")
@pytest.mark.parametrize("number", [0, 1], ids=["lightning", "pytorch_lightning"])
def test_the_examples_of_the_docs_run(
    number: int, tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = re.findall(r"```python\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)[number]
    assert "runs/mine/store" in code
    code = code.replace("runs/mine/store", str(store))
    code = code.replace('project="mine"', f'project="mine", name="docs", save_dir={str(tmp_path)!r}')
    loader = one_batch({"pixel_values": images(), "input_ids": torch.zeros(6, 3)})
    names: dict[str, Any] = {"my_module": foreign(PACKAGES[number]), "my_loader": loader}
    exec(code, names)
    wandb.finish()
    trainer, table = names["trainer"], names["callback"].table
    assert isinstance(trainer, PACKAGES[number].Trainer)
    assert "retrack" in capsys.readouterr().out
    for column, group in enumerate("ab"):
        mean = float(table.matrix()[:, column].mean())
        assert float(trainer.callback_metrics[f"influence/{group}"]) == pytest.approx(mean, rel=1e-6)
    (run,) = runs(tmp_path).values()
    columns, rows, thumbnails = run.table("influence/scores")
    assert columns[:6] == ["query", "image", "source group", "top group", "margin", "undecided"]
    assert columns[6:] == ["a", "a ±", "b", "b ±", "method", "weighting", "unit"]
    assert [row[0] for row in rows] == [f"image {row} ({name})" for row, name in enumerate(table.queries)]
    assert {row[2] for row in rows} == {None}  # nobody knows
    assert len(thumbnails) == 6
    assert run.picture("influence/heatmap").size


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_trainers_of_both_packages_give_the_same_scores(
    package: ModuleType, tmp_path: Path, store: Path
) -> None:
    callback = watching(store, image_key=0)
    loader = DataLoader(TensorDataset(images(), torch.arange(6)), batch_size=4)
    trainer = validated(tmp_path, [callback], loader, package=package)
    assert_scored(callback, store, images())
    assert callback.table is not None
    for column, group in enumerate("ab"):
        mean = float(callback.table.matrix()[:, column].mean())
        assert float(trainer.callback_metrics[f"influence/{group}"]) == pytest.approx(mean, rel=1e-6)


# Lightning 2.6 with jsonargparse 4.49 and later.
@pytest.mark.filterwarnings("ignore:(?s).*(v5.0.0|Jsonargparse):DeprecationWarning")
@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_command_lines_of_both_packages_take_the_callback(
    package: ModuleType, tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a process that has imported ``pytorch_lightning`` first, which a command line of it has."""
    spec = importlib.util.spec_from_file_location("imported_later", elbo_attribution.__file__)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "imported_later", module)
    spec.loader.exec_module(module)
    cli = importlib.import_module(f"{package.__name__}.cli").LightningCLI
    callback = {
        "class_path": "imported_later.ELBOAttributionCallback",
        "init_args": {
            "store": str(store),
            "denoiser": "unet",
            "scheduler": "noise_scheduler",
            "image_key": "0",
            "image_range": [0, 255],
            "scoring": {"strata": 2, "draws": 1},
        },
    }
    quiet = {"logger": False, "enable_checkpointing": False, "accelerator": "cpu"}
    trainer = {**quiet, "default_root_dir": str(tmp_path), "callbacks": [callback]}
    built = cli(
        type(foreign(package)),
        run=False,
        args={"trainer": trainer},
        save_config_callback=None,
        seed_everything_default=False,
    )
    pixels = ((images() + 1) * 127.5).round().byte()
    built.trainer.validate(built.model, DataLoader(TensorDataset(pixels), 6), verbose=False)
    (watch,) = (c for c in built.trainer.callbacks if isinstance(c, module.ELBOAttributionCallback))
    assert_scored(watch, store, pixels / 127.5 - 1)


def test_what_a_logger_does_not_show_is_said_once(
    tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Own(Logger):
        """Somebody else's, for numbers alone."""

        name, version = "own", 0

        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            pass

        def log_hyperparams(self, params: Any) -> None:
            pass

    notes.begin()
    loader = one_batch({"image": images()})
    csv, board = CSVLogger(tmp_path), TensorBoardLogger(tmp_path, name="board")
    for loggers in ([Own()], [Own()], [csv], [board, Own()], [csv, board], False):
        validated(tmp_path, [watching(store)], loader, logger=loggers)
    rest = "and the callback's `table` holds all scores"
    assert capsys.readouterr().out.splitlines() == [
        "ELBOAttributionCallback: Own shows mean scores alone; a WandbLogger also shows tables and pictures, "
        f"{rest}",
        "ELBOAttributionCallback: CSVLogger shows tables, no pictures; a WandbLogger or TensorBoardLogger "
        f"also shows these, {rest}",
        "ELBOAttributionCallback: TensorBoardLogger shows pictures, no tables; a WandbLogger or CSVLogger "
        f"also shows these, {rest}",
    ]


def test_two_callbacks_log_under_names_of_their_own(tmp_path: Path, store: Path) -> None:
    both = [watching(store), watching(store, weighting="uniform")]
    trainer = validated(tmp_path, both, one_batch({"image": images()}))
    for callback, prefix in zip(both, ("influence", "influence-2"), strict=True):
        assert callback.table is not None
        mean = float(callback.table.matrix()[:, 0].mean())
        assert float(trainer.callback_metrics[f"{prefix}/a"]) == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_images_of_any_number_of_channels_have_a_picture(channels: int) -> None:
    image = torch.rand(channels, 3, 4) * 2 - 1
    found = np.asarray(picture_of(image))
    pixels = ((image + 1) * 127.5).round().byte().numpy()
    if channels == 3:
        assert found.tolist() == pixels.transpose(1, 2, 0).tolist()
    else:
        assert found.tolist() == np.concatenate(list(pixels), axis=1).tolist()


# Batches


def test_batches_that_are_tensors_bytes_and_used_up(tmp_path: Path, store: Path) -> None:
    """Bytes of which the scores are those of data of ours, by a loader that ends before another."""
    pixels = ((images() + 1) * 127.5).round().byte()
    loaders = CombinedLoader({"a": DataLoader(pixels, 6), "b": DataLoader(range(4), 2)}, "max_size")
    callback = watching(store, image_key="a", image_range=(0, 255))
    validated(tmp_path, [callback], loaders)
    assert_scored(callback, store, pixels / 127.5 - 1)
    bare = watching(store, image_range=(0, 255))
    validated(tmp_path, [bare], DataLoader(pixels, 6))
    assert bare.table is not None and callback.table is not None
    assert bare.table.table.equals(callback.table.table)


def test_images_of_another_range_are_refused_before_anything_is_scored(tmp_path: Path, store: Path) -> None:
    x = (images() + 1) / 2
    expected = message(
        "the validation images look like images in [0, 1]",
        "no value below 0 or above 1 in the whole validation",
        "values from -1 to 1, as image_range says",
        "pass image_range=(0, 1); if they are right, image_range=None takes them as they are",
    )
    with pytest.raises(QueryError, match=expected):
        validated(tmp_path, [watching(store)], one_batch({"image": x}))
    for image_range, scored in (((0, 1), x * 2 - 1), (None, x)):
        callback = watching(store, image_range=image_range)
        validated(tmp_path, [callback], one_batch({"image": x}))
        assert_scored(callback, store, scored)


def test_batches_of_our_data_alone_have_a_range_that_is_known(tmp_path: Path) -> None:
    """A trainer keeps the datamodule of its last fit."""
    trainer, module, data = quiet_trainer(tmp_path), foreign(), shades(4)
    trainer.datamodule = data  # type: ignore[attr-defined]
    queries = ValidationQueries(None, Draw(4, 0), "image", None, None, ImageRange((-1, 1)))
    for groups, ambiguous in (({"groups": torch.zeros(6, 3)}, None), ({}, True)):
        queries.start(trainer, module, NetworkInputs(FullModel.of(module, "unet", "noise_scheduler").model))
        queries.add(trainer, module, {"image": images().abs(), **groups}, 0)
        assert queries.image_range.ambiguous is ambiguous


def test_a_dark_image_beyond_max_queries_tells_the_range(tmp_path: Path, store: Path) -> None:
    x = torch.cat([images(2).abs(), images(2)])
    callback = watching(store, max_queries=2)
    validated(tmp_path, [callback], DataLoader(x, batch_size=1))
    assert_scored(callback, store, of_ids(callback, x))


def test_several_loaders_share_max_queries_evenly(tmp_path: Path, store: Path) -> None:
    def loader(count: int, first: int) -> DataLoader[Any]:
        items = [{"image": x, "index": f"{n}"} for n, x in enumerate(images(8)[first:][:count])]
        return DataLoader(items, batch_size=2)  # type: ignore[arg-type]

    callback = watching(store, max_queries=5)
    validated(tmp_path, [callback], [loader(1, 0), loader(4, 1), loader(3, 5)])
    assert callback.table is not None
    ids = callback.table.queries
    assert [name.split("/")[0] for name in ids] == ["0", "1", "1", "2", "2"]
    assert list(ids) == sorted(set(ids))  # in the order of the loaders
    first = {"0": 0, "1": 1, "2": 5}
    rows = [0, *(first[loader] + int(n) for loader, n in (name.split("/") for name in ids[1:]))]
    assert_scored(callback, store, images(8)[rows])


def collected(*names: str, shift: float = 0.0, labels: list[int] | None = None) -> Collected:
    x = torch.stack([torch.full((1, 2, 2), float(ord(name[-1])) + shift) for name in names])
    return Collected.of(Queries(names, x, None if labels is None else torch.tensor(labels)))


@pytest.mark.parametrize(
    ("parts", "labels", "found", "fix"),
    [
        (0.5, None, "two images", "correct it"),
        (
            0.0,
            [[0], [1]],
            "the same image with two labels",
            "add it to the data: without it, the pixels are the name",
        ),
    ],
)
def test_two_samples_of_one_name_are_refused(
    parts: float, labels: list[list[int]] | None, found: str, fix: str
) -> None:
    expected = message(
        "two validation samples have the id 'a'",
        found,
        "an entry 'index' in every batch that gives each sample a name of its own",
        fix,
    )
    first, second = labels or (None, None)
    with pytest.raises(QueryError, match=expected):
        drawn([collected("a", labels=first), collected("a", shift=parts, labels=second)], 2)


def test_the_same_sample_twice_is_one_and_counts_for_the_first_loader() -> None:
    assert set(drawn([collected("a", "b"), collected("b", "c")], 4).ids) == {"a", "b", "c"}
    assert evenly([collected("a", "b"), collected("b", "c", "d")], 4).ids == ("a", "b", "c", "d")


def test_images_of_several_sizes_are_refused() -> None:
    expected = message(
        "the images of the validation are not all of one size",
        "[1, 2, 2] and [1, 4, 4]",
        "the same channels, height and width in every batch",
        "resize them in the data, or pass queries=FOLDER to score pictures of one size",
    )
    large = Collected.of(Queries(("b",), torch.zeros(1, 1, 4, 4)))
    with pytest.raises(QueryError, match=expected):
        drawn([collected("a"), large], 2)


class _Two(Ranks):
    """Two processes, of which the other one has had no batch."""

    def all_gather(self, value: Any) -> list[Any]:
        return [value, ({}, {}) if isinstance(value, tuple) else None]


def test_a_process_without_a_batch_shares_the_scores_of_the_others(tmp_path: Path) -> None:
    trainer, module = quiet_trainer(tmp_path), foreign()
    queries = ValidationQueries(None, Draw(4, 0), "image", None, None, ImageRange((-1, 1)))
    full = FullModel.of(module, "unet", "noise_scheduler")
    queries.start(trainer, module, NetworkInputs(full.model))
    queries.add(trainer, module, {"image": images(), "index": torch.arange(6)}, 0)
    queries.draw._ranks = _Two()
    taken, count = queries.gathered(trainer, _Two())
    assert (len(set(taken.ids)), count) == (4, 6)
    queries.start(trainer, module, NetworkInputs(full.model))
    expected = message(
        "there is nothing to score",
        "no image in any validation batch",
        "a validation loader with at least one batch",
        "pass val_dataloaders, also for fixed queries, or leave ELBOAttributionCallback out",
    )
    queries.draw._ranks = _Two()
    with pytest.raises(QueryError, match=expected):
        queries.gathered(trainer, _Two())


def test_a_step_may_change_images_and_take_them_out_and_put_others_in(tmp_path: Path, store: Path) -> None:
    def step(batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        batch["halved"] = batch["image"] / 2
        batch.pop("image").zero_()

    for key, scored in (("image", images()), ("halved", images() / 2)):  # before, and after
        module, callback = foreign(), watching(store, image_key=key)
        module.validation_step = step
        validated(tmp_path, [callback], one_batch({"image": images()}), module)
        assert_scored(callback, store, scored)


# Fixed queries


def pictures(folder: Path, mode: str = "L") -> Path:
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8), dtype=np.uint8)
    for name, array in zip("ab", pixels, strict=True):
        Image.fromarray(array).convert(mode).save(folder / f"{name}.png")
    return folder


class Untouchable:
    """A batch that must not be looked at."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"somebody has asked the batch for {name}")


class Wide(nn.Module):
    """A network that returns something else than the noise: broadcast, it would give a number."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 3, 1)

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        output: Tensor = self.layer(x)
        return output


class Broken(Wide):
    """A network that raises an error of its own."""

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        raise ZeroDivisionError("in the middle")


class Plain(nn.Module):
    """A network without a configuration that says what it takes."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = tiny_unet()

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        output: Tensor = self.unet(x, timesteps).sample
        return output


@pytest.mark.parametrize("network", [None, Plain], ids=["diffusers", "own"])
@pytest.mark.parametrize("batch", [["a text", "another"], Untouchable()], ids=["texts", "anything"])
def test_fixed_queries_do_not_look_at_the_batches(
    batch: Any, network: Callable[[], nn.Module] | None, tmp_path: Path
) -> None:
    module = foreign(network=network and network())
    module.transfer_batch_to_device = lambda batch, device, dataloader_idx: batch
    made, queries = store_of(module, tmp_path), pictures(tmp_path / "queries")
    callback = watching(made, queries=queries)
    validated(tmp_path, [callback], one_batch(batch), module)
    assert callback.table is not None
    assert callback.table.queries == ("a", "b")
    assert_scored(callback, made, load_queries(queries, (1, 8, 8)).images, module)


def test_fixed_queries_that_a_network_cannot_take_are_refused(tmp_path: Path) -> None:
    queries = pictures(tmp_path / "queries")

    def refused(module: Any, match: str, **arguments: Any) -> None:
        callback = watching(tmp_path / "store", queries=queries, **arguments)
        with pytest.raises(GudaError, match=match):
            validated(tmp_path, [callback], one_batch("a text"), module)

    four = message(
        "a network of 4 channels takes no pictures",
        f"queries={str(queries)!r}",
        "a network for gray or RGB pictures",
        "leave queries out: then the images of the validation batches are scored",
    )
    refused(foreign(network=tiny_unet(in_channels=4, out_channels=4)), four)
    size = message(
        f"the query {queries / 'a.png'} does not fit the model",
        "8 x 8 pixels, 1 channel",
        "16 x 16 pixels, 1 channel",
        "resize and convert it, or pass --resize true",
    )
    refused(foreign(network=tiny_unet(sample_size=16)), size)
    labels = message(
        "a label-conditional model cannot score queries without labels",
        "2 queries without labels",
        "a metadata.jsonl beside them with file_name and label on each line",
        "write it, or use queries that `guda sample` drew",
    )
    refused(foreign(network=tiny_unet(num_class_embeds=3)), labels, label_key="label")


# Networks


@pytest.mark.parametrize(
    "labels",
    [
        torch.tensor([0, 2]),
        torch.tensor([[0], [2]]),
        torch.tensor([0, 2], dtype=torch.uint8),
        torch.tensor([0, 2], dtype=torch.int16),
        np.array([0, 2]),
        [0, 2],
    ],
    ids=str,
)
def test_class_labels_may_be_whole_numbers_of_any_form(labels: Any, tmp_path: Path) -> None:
    module = foreign(network=tiny_unet(num_class_embeds=3))
    made = store_of(module, tmp_path)
    callback = watching(made, label_key="meta.y")
    validated(tmp_path, [callback], one_batch({"image": images(2), "meta": {"y": labels}}), module)
    assert callback.table is not None
    queries = Queries(callback.table.queries, images(2), torch.tensor([0, 2]))
    expected = expected_scores(made, queries, module)
    torch.testing.assert_close(callback.table.matrix(), expected, rtol=0, atol=1e-3)


HELD = "a dict of image float32 [2, 1, 8, 8], y {}"


@pytest.mark.parametrize(
    ("labels", "key", "found", "fix"),
    [
        (torch.tensor([0.0, 2.0]), "y", "float32 [2]", "convert them in the data: labels.long()"),
        (torch.eye(2), "y", "float32 [2, 2]", "convert them in the data: labels.argmax(dim=1)"),
        (["cat", "dog"], "y", "list of 2 str", "let the data give the number of each sample's class"),
        (torch.tensor([0, 2]), "label", "int64 [2]", "pass label_key='y'"),
    ],
)
def test_what_is_no_class_label_is_refused(
    labels: Any, key: str, found: str, fix: str, tmp_path: Path
) -> None:
    module = foreign(network=tiny_unet(num_class_embeds=3))
    expected = message(
        f"the validation batch has no class labels at label_key={key!r}",
        HELD.format(found),
        "[2] whole numbers",
        fix,
    )
    callback = watching(store_of(module, tmp_path), label_key=key)
    with pytest.raises(ConfigError, match=expected):
        validated(tmp_path, [callback], one_batch({"image": images(2), "y": labels}), module)


def prompted() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8,),
        down_block_types=("CrossAttnDownBlock2D",),
        mid_block_type=None,
        up_block_types=("CrossAttnUpBlock2D",),
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=4,
    )


FITS = "the validation images do not fit the network"
REFUSED: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], Tensor, str]] = {
    "other channels": (
        tiny_unet,
        {},
        torch.zeros(2, 3, 8, 8) - 1,
        message(
            FITS,
            "images [2, 3, 8, 8]",
            "[batch, 1, height, width], as its in_channels say",
            "pass image_key=... of what the network takes, such as latents in place of pictures",
        ),
    ),
    "channels last": (
        tiny_unet,
        {},
        torch.zeros(2, 8, 8, 1) - 1,
        message(
            FITS,
            "images [2, 8, 8, 1]",
            "[batch, 1, height, width], as its in_channels say",
            "move their channels forward in the data: images.permute(0, 3, 1, 2)",
        ),
    ),
    "labels that it does not take": (
        tiny_unet,
        {"label_key": "y"},
        images(2),
        message(
            "the UNet2DModel takes no class labels",
            "label_key='y', and num_class_embeds None in its configuration",
            "label_key for a label-conditional network, and for no other",
            "leave label_key out",
        ),
    ),
    "labels that it takes": (
        lambda: tiny_unet(num_class_embeds=2),
        {},
        images(2),
        message(
            "the UNet2DModel takes class labels",
            "label_key=None, and num_class_embeds 2 in its configuration",
            "label_key for a label-conditional network, and for no other",
            "pass label_key=... with the key of the labels in a validation batch",
        ),
    ),
    "a class that it does not have": (
        lambda: tiny_unet(num_class_embeds=2),
        {"label_key": "y"},
        images(2),
        message(
            "a validation sample has a label that the network has no class for",
            "label 5",
            "0 to 1",
            "pass label_key=... of the class labels, or correct them in the data",
        ),
    ),
    "prompts": (
        prompted,
        {},
        images(2),
        "encoder_hidden_states",
    ),
    "a network that fails": (
        Broken,
        {},
        images(2),
        message(
            "the Broken cannot be called on a validation image",
            "images [1, 1, 8, 8]: ZeroDivisionError: in the middle",
            "a network called as denoiser(x_t, timesteps) that returns the shape of x_t",
            "pass denoiser=... with the path of such a network, or of one around it (docs/models.md)",
        ),
    ),
    "a network that returns another shape": (
        Wide,
        {},
        images(2),
        r"\[1, 3, 8, 8\]",
    ),
    "converted weights": (
        lambda: tiny_unet().half(),
        {},
        images(2),
        message(
            "the weights of the UNet2DModel were converted",
            "float16",
            "float32, as the counterfactuals",
            "pass precision='bf16-mixed' or '32-true' to the trainer, without module.half(); "
            "scoring=Scoring(precision='bf16') scores faster",
        ),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_network_cannot_take_is_refused_before_anything_is_scored(case: str, tmp_path: Path) -> None:
    network, arguments, x, expected = REFUSED[case]
    module = foreign(network=network())
    callback = watching(store_of(module, tmp_path), **arguments)
    with pytest.raises(GudaError, match=expected):
        validated(tmp_path, [callback], one_batch({"image": x, "y": torch.tensor([1, 5])}), module)
    assert callback.table is None


# Trainings


def student() -> UnlearnModule:
    full = FullModel.of(DiffusionModule(tiny_unet(), DDPMScheduler(20)))
    return UnlearnModule(full, Finetune(), ["dark"], lambda p: torch.optim.SGD(p, lr=0.1))


@pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback with a model that overrides")
def test_the_average_is_scored_where_validation_runs_on_it(tmp_path: Path) -> None:
    def fit(*order: int) -> tuple[ELBOAttributionCallback, UnlearnModule, Any]:
        callback, module = ELBOAttributionCallback(scoring=SCORING), student()
        data = shades(4).unlearning(["dark"])
        both = [callback, EMAWeightAveraging(decay=0.5)]
        trainer = quiet_trainer(tmp_path, callbacks=[both[n] for n in order], max_epochs=2)
        trainer.fit(module, datamodule=data)
        return callback, module, data

    callback, module, data = fit(0, 1)  # Lightning ends with the average in the module
    after = ELBOAttributionCallback(scoring=SCORING)
    quiet_trainer(tmp_path, callbacks=[after]).validate(module, datamodule=data, verbose=False)
    assert callback.table is not None and after.table is not None
    assert callback.table.table.equals(after.table.table)
    expected = message(
        "the weights that would be scored are not those that validation runs on",
        "EMAWeightAveraging has exchanged them",
        "the same weights until ELBOAttributionCallback has scored",
        "list ELBOAttributionCallback first in the trainer's callbacks, which scores the average of an "
        "UnlearnModule; for any other module leave the average out of the trainer that validates",
    )
    with pytest.raises(ConfigError, match=expected):
        fit(1, 0)


def test_a_second_training_has_a_curve_of_its_own_and_checkpoints_follow_it(tmp_path: Path) -> None:
    callback = ELBOAttributionCallback(scoring=SCORING)
    curves, data = [], shades(4).unlearning(["dark"])
    for _ in range(2):
        best = ModelCheckpoint(tmp_path, monitor="influence/dark", mode="max")
        trainer = quiet_trainer(
            tmp_path,
            callbacks=[best, callback],
            max_epochs=2,
            check_val_every_n_epoch=2,
            enable_checkpointing=True,
        )
        trainer.fit(student(), datamodule=data)
        curves.append(list(callback.history))
        assert best.best_model_score == trainer.callback_metrics["influence/dark"]
    assert [row["step"] for row in curves[0]] == [2]
    assert curves[0] == curves[1]


def test_a_training_without_a_validation_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notes.begin()
    for every, said in ((1, ""), (2, "ELBOAttributionCallback: no validation, hence no scores\n")):
        trainer = quiet_trainer(
            tmp_path,
            callbacks=[ELBOAttributionCallback(scoring=SCORING)],
            max_epochs=1,
            check_val_every_n_epoch=every,
        )
        trainer.fit(student(), datamodule=shades(4).unlearning(["dark"]))
        assert capsys.readouterr().out == said


@pytest.mark.parametrize("precision", ["16-true", "bf16-true", "64-true"])
def test_a_student_keeps_its_precision(precision: str, tmp_path: Path) -> None:
    expected = message(
        "UnlearnModule keeps its weights in float32",
        f"precision={precision!r}",
        "a precision that converts no weights",
        "pass precision='bf16-mixed' or '16-mixed' to the trainer",
    )
    trainer = quiet_trainer(tmp_path, precision=precision, max_steps=1)
    with pytest.raises(ConfigError, match=expected):
        trainer.fit(student(), datamodule=shades(4).unlearning(["dark"]))


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (
            [images(2), 1],
            message(
                "a batch holds no images under the key 'image'",
                "a list",
                "a dictionary with 'image': [batch, channels, height, width] in [-1, 1]",
                "let the data set return {'image': image}, or pass a GroupDataModule to the trainer",
            ),
        ),
        (
            {"image": images(2)},
            message(
                "the validation data do not say which samples belong to which groups",
                "datamodule NoneType, and batch keys ['image']",
                "a datamodule with groups, and 'groups' in every batch",
                "pass datamodule=GroupDataModule(...).unlearning(groups) to the trainer",
            ),
        ),
    ],
)
def test_a_student_says_what_it_needs_of_a_batch(batch: Any, expected: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=expected):
        validated(tmp_path, [ELBOAttributionCallback(scoring=SCORING)], one_batch(batch), student())
