"""The example of README.md, run as it stands there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
from diffusers import DDPMScheduler
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import WandbLogger
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from guda_lightning import CounterfactualStore, ScoreTable
from guda_lightning.cli.main import main
from guda_lightning.data import ImageFolder
from toys import Shades, tiny_unet

README = Path(__file__).parents[2] / "README.md"
TITLE = "## Five minutes into your own trainer"


class MyModule(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.unet = tiny_unet()
        self.noise_scheduler = DDPMScheduler()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("val_loss", batch["images"].mean(), batch_size=len(batch["images"]))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What the example begins with: images in a folder per group, samples, and a checkpoint."""
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    table = Shades(per_group=128).load()  # an epoch takes as long as its steps
    assert table.labels is not None
    for index, group in enumerate(table.labels[:256]):  # "dark" and "bright"
        file = tmp_path / "images" / group / f"{table.ids[index]}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        table.read(index).save(file)
    (tmp_path / "my_samples").mkdir()
    for name, value in (("black", 20), ("white", 230)):
        Image.new("L", (8, 8), value).save(tmp_path / "my_samples" / f"{name}.png")
    torch.save({"state_dict": MyModule().state_dict()}, tmp_path / "my.ckpt")
    yield tmp_path
    wandb.finish()


@pytest.mark.filterwarnings(
    "ignore:.*litlogger",
    "ignore:.*tensorboard",
    "ignore:.*GPU available",
    "ignore:Found .* module.s. in eval mode",
    "ignore:The number of training batches .* is smaller",
)
def test_the_readme_answers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    section = README.read_text("utf-8").split(TITLE)[1].split("\n## ")[0]
    blocks = re.findall(r"```(python|console)\n(.*?)```", section, re.DOTALL)
    assert [kind for kind, _ in blocks] == ["python", "console", "python", "python"]
    module = MyModule()
    module.load_state_dict(torch.load(folder / "my.ckpt")["state_dict"])
    images = ImageFolder("images").load().pixels() / 127.5 - 1
    names: dict[str, Any] = {
        "my_module": module,
        "my_loader": DataLoader([{"images": image} for image in images[::32]], 4),
        "my_wandb_logger": WandbLogger(project="mine", save_dir=folder),
    }
    for kind, text in blocks:
        if kind == "python":
            exec(text, names)
            continue
        words = text.split("#")[0].split()
        assert words[:2] == ["$", "guda"]
        assert main(words[2:]) == 0
        assert "report: open runs/mine/report/index.html\n" in capsys.readouterr().out
    assert (folder / "runs/mine/report/index.html").is_file()
    (scores,) = (folder / "runs/mine/scores").glob("*.parquet")
    table = ScoreTable.load(scores).select(weighting="elbo")
    assert table.methods == ("classifier",)
    top = [table.groups[best] for best in table.matrix().argmax(dim=1).tolist()]
    assert dict(zip(table.queries, top, strict=True)) == {"black": "dark", "white": "bright"}
    assert set(names["callback"].table.groups) == set(table.groups)
    records = CounterfactualStore("runs/mine/store").records()
    assert [(record.steps, record.input_shape) for record in records] == [(60, (1, 8, 8))] * 2
