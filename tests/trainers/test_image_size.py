"""The size of images: what the network says that it takes, the same in data, records and queries."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from PIL import Image
from torch.optim.swa_utils import AveragedModel

from guda_lightning import (
    CounterfactualAttributor,
    DiffusionModule,
    FullModel,
    GroupDataModule,
    UnlearnModule,
    notes,
    open_run,
)
from guda_lightning.attribution import AttributionContext
from guda_lightning.cli.main import main
from guda_lightning.data import ImageFolder
from guda_lightning.diffusion import CallAs
from guda_lightning.errors import ConfigError, DataError, GudaError, QueryError, StoreError
from guda_lightning.storage.data_identity import DataIdentity
from guda_lightning.storage.full_record import FullRecord
from guda_lightning.types import Queries
from guda_lightning.unlearning import Finetune
from toys import TimeFirst, as_earlier, message, quiet_trainer, tiny_unet

pytestmark = pytest.mark.filterwarnings("ignore:Found .* module.s. in eval mode")
CONF = Path(__file__).parents[1] / "conf"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of 12 x 10 pixels in two groups."""
    generator = np.random.default_rng(0)
    for number in range(8):
        file = tmp_path / "images" / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (10, 12), dtype=np.uint8)).save(file)
    return tmp_path / "images"


def full_of(sample_size: int | tuple[int, int] | None = 8) -> FullModel:
    return FullModel.of(DiffusionModule(tiny_unet(sample_size=sample_size), DDPMScheduler(20)))


def unlearned(data: GroupDataModule, folder: Path, full: FullModel) -> UnlearnModule:
    module = UnlearnModule(full, Finetune(), ["a"])
    quiet_trainer(folder, max_steps=1).fit(module, datamodule=data.unlearning(["a"]))
    return module


def refused(error: type[GudaError], found: str, expected: str, fix: str) -> object:
    problem = "the training images have another size than the network takes"
    return pytest.raises(error, match=message(problem, found, expected, fix))


def test_images_are_read_at_the_size_that_the_network_takes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes.begin()
    data = GroupDataModule(ImageFolder(str(folder)), batch_size=2)
    assert data.grouping.names == ("a", "b")  # without reading a pixel
    record = unlearned(data, tmp_path, full_of()).save(tmp_path / "store")
    assert record.input_shape == data.image_shape == (1, 8, 8)
    assert torch.equal(data.images, GroupDataModule(ImageFolder(str(folder)), image_size=8).images)
    told = (
        "data: images are cropped and resized to 8 x 8 pixels, the sample_size of the network, as a/0.png\n"
    )
    assert capsys.readouterr().out == told


def test_a_trainer_of_ones_own_trains_at_the_size_that_the_network_takes(
    folder: Path, tmp_path: Path
) -> None:
    data = GroupDataModule(ImageFolder(str(folder)), batch_size=2)
    module = DiffusionModule(tiny_unet(), DDPMScheduler(20))
    quiet_trainer(tmp_path, max_steps=1).fit(module, datamodule=data)
    assert data.image_shape == (1, 8, 8)
    read = GroupDataModule(ImageFolder(str(folder)), batch_size=2)
    read.setup()
    fix = "set data.image_size to 8; or build the network with sample_size=(10, 12)"
    takes = "8 x 8 pixels, the sample_size of the network"
    with refused(DataError, "images of 12 x 10 pixels", takes, fix):
        quiet_trainer(tmp_path, max_steps=1).fit(module, datamodule=read)


@pytest.mark.parametrize(
    ("network", "size"),
    [
        (tiny_unet(sample_size=(10, 12)), (10, 12)),
        (AveragedModel(tiny_unet()), (8, 8)),
        (CallAs(tiny_unet(), sample="sample", timesteps="timestep"), (8, 8)),
        (tiny_unet(sample_size=None), None),
        (TimeFirst(), None),
    ],
)
def test_networks_that_say_their_size_and_others(
    network: torch.nn.Module, size: tuple[int, int] | None, folder: Path
) -> None:
    full = FullModel.of(DiffusionModule(network, DDPMScheduler(20)))
    assert full.model.sample_size == size
    data = GroupDataModule(ImageFolder(str(folder)))
    AttributionContext(full, data)
    assert data.image_shape == (1, *(size or (10, 12)))


def test_data_of_another_size_are_refused_before_training(folder: Path, tmp_path: Path) -> None:
    takes = "8 x 8 pixels, the sample_size of the network"
    fix = "set data.image_size to 8, or leave it out; or build the network with sample_size=16"
    with refused(DataError, "images of 16 x 16 pixels", takes, fix):
        unlearned(GroupDataModule(ImageFolder(str(folder)), image_size=16), tmp_path, full_of())
    read = GroupDataModule(ImageFolder(str(folder)))
    read.setup()
    fix = "set data.image_size to 8; or build the network with sample_size=(10, 12)"
    with refused(DataError, "images of 12 x 10 pixels", takes, fix):
        unlearned(read, tmp_path, full_of())
    small = message(
        "the image 'a/0.png' is smaller than the network takes",
        "12 x 10 pixels",
        "16 x 16 pixels, the sample_size of the network",
        "build the network with a smaller sample_size, or set data.image_size, which enlarges it",
    )
    with pytest.raises(DataError, match=small):
        unlearned(GroupDataModule(ImageFolder(str(folder))), tmp_path, full_of(16))
    unlearned(GroupDataModule(ImageFolder(str(folder)), image_size=16), tmp_path, full_of(16))


def test_a_network_that_takes_labels_says_so_before_it_unlearns(folder: Path, tmp_path: Path) -> None:
    full = FullModel.of(DiffusionModule(tiny_unet(num_class_embeds=2), DDPMScheduler(20)))
    expected = message(
        "UNet2DModel needs class labels, which an unconditional model does not give",
        "2 class embeddings, and conditional=False",
        "both, or neither",
        "set model.init_args.conditional (with a module of your own, trainer.conditional, in Python "
        "conditional of FullModel.of) to true, or leave num_class_embeds of the network out",
    )
    with pytest.raises(ConfigError, match=expected):
        unlearned(GroupDataModule(ImageFolder(str(folder))), tmp_path, full)


def test_the_command_line_refuses_it_before_it_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert (
        main(["fit", "-c", f"{CONF}/digits.yaml", "--run", str(run), "--data.init_args.image_size", "16"])
        == 2
    )
    error = capsys.readouterr().err
    assert error.startswith("error: the training images have another size than the network takes\n")
    assert "images of 16 x 16 pixels" in error and "8 x 8 pixels, the sample_size of the network" in error
    assert not run.exists()


def test_queries_and_stores_of_another_shape_are_refused(folder: Path, tmp_path: Path) -> None:
    full, store = full_of(None), tmp_path / "store"
    data = GroupDataModule(ImageFolder(str(folder)), batch_size=2, image_size=8)
    unlearned(data, tmp_path, full).save(store)
    fitted = CounterfactualAttributor(store).fit(AttributionContext(full))
    expected = message(
        "the queries have another shape than the counterfactuals were made for",
        "(1, 16, 16): channels, height, width",
        "(1, 8, 8)",
        "resize and convert them, or take a store that was made at their size",
    )
    with pytest.raises(QueryError, match=expected):
        fitted.score(Queries(("a",), torch.zeros(1, 1, 16, 16)))
    (made,) = store.iterdir()
    expected = message(
        f"{made}/record.json: the counterfactual 'finetune' without a (seed 0) was made from another "
        "image shape",
        "input_shape (1, 8, 8)",
        "input_shape (1, 16, 16)",
        f"use the image shape it was made from, or remove {made} and run guda unlearn with --groups a",
    )
    larger = GroupDataModule(ImageFolder(str(folder)), image_size=16)
    with pytest.raises(StoreError, match=expected):
        CounterfactualAttributor(store, groups=["a"]).fit(AttributionContext(full, larger))


def test_other_pictures_under_the_same_names_are_refused(folder: Path, tmp_path: Path) -> None:
    """A full model that a user brings does not say what it was trained on; what was made of it does."""
    full, store = full_of(), tmp_path / "store"
    data = GroupDataModule(ImageFolder(str(folder)), batch_size=2)
    unlearned(data, tmp_path, full).save(store)
    before = data.hash
    CounterfactualAttributor(store, groups=["a"]).fit(AttributionContext(full, data))
    Image.new("L", (12, 10)).save(folder / "a" / "0.png")
    today = GroupDataModule(ImageFolder(str(folder)), batch_size=2)
    assert today.grouping.hash == data.grouping.hash
    context = AttributionContext(full, today)
    (made,) = store.iterdir()
    expected = message(
        f"{made}/record.json: the counterfactual 'finetune' without a (seed 0) was made from another "
        "set of training data",
        f"data_hash {before}",
        f"data_hash {today.hash}",
        f"use the set of training data it was made from, or remove {made} and run guda unlearn with "
        "--groups a",
    )
    with pytest.raises(StoreError, match=expected):
        CounterfactualAttributor(store, groups=["a"]).fit(context)


def test_a_full_model_of_another_shape_is_refused_and_one_of_before_is_not(tmp_path: Path) -> None:
    of_before = FullRecord("f", "s", {}, 1, 1.0, 1, data_hash="d", grouping_hash="g")
    assert "input_shape" not in of_before.to_json()
    of_before.refuse_other_data(tmp_path, DataIdentity((1, 16, 16), "d", "g"))
    file = tmp_path / "record.json"
    file.write_text(FullRecord("f", "s", {}, 1, 1.0, 1, input_shape=(1, 8, 8)).to_json())
    expected = message(
        f"{tmp_path} was trained on other data",
        "input_shape (1, 16, 16) of the configured data",
        "input_shape (1, 8, 8)",
        "use the data section that the full model was trained with, or another --run",
    )
    with pytest.raises(StoreError, match=expected):
        FullRecord.from_file(file).refuse_other_data(tmp_path, DataIdentity((1, 16, 16), "d", "g"))


def test_a_run_of_before_keeps_the_size_of_its_images(finished_run: Path, tmp_path: Path) -> None:
    """Earlier versions trained networks of one ``sample_size`` on images of another, and kept no shape."""
    run = shutil.copytree(finished_run, tmp_path / "run")
    (config,) = run.glob("full/*/config.json")
    if "sample_size" not in json.loads(config.read_text()):
        config = next(path for path in run.glob("full/*/config.json") if "sample_size" in path.read_text())
    config.write_text(json.dumps({**json.loads(config.read_text()), "sample_size": 16}))
    as_earlier(run / "full")
    with pytest.raises(DataError, match="have another size than the network takes"):
        _ = open_run(run).full
    record = run / "full" / "record.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "input_shape": None}))  # no seal
    opened = open_run(run)
    assert opened.full.model.sample_size == (16, 16)
    assert opened.data.image_shape == (1, 8, 8)
