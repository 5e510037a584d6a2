"""What modules are told as their hyper-parameters, which end up in checkpoints and loggers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from torch import nn

from guda_lightning import DiffusionModule
from guda_lightning.cli.commands import Stage, find
from guda_lightning.cli.stage import parse

CONF = Path(__file__).parents[1] / "conf"


class Remembering(DiffusionModule):
    """Keeps what it was configured with, as modules do for their checkpoints."""

    def __init__(self, denoiser: nn.Module, scheduler: Any, share: float = 0.5) -> None:
        super().__init__(denoiser, scheduler)
        self.save_hyperparameters()


def test_they_are_those_of_the_configuration(tmp_path: Path) -> None:
    digits = yaml.safe_load((CONF / "digits.yaml").read_text())
    parts = {name: digits["model"]["init_args"][name] for name in ("denoiser", "scheduler")}
    model = {"class_path": f"{__name__}.Remembering", "init_args": {**parts, "share": float("inf")}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"model": model, "data": digits["data"]}))
    stage = find("fit")
    assert isinstance(stage, Stage)
    cli = parse(stage, ["-c", f"{tmp_path}/own.yaml", "--run", f"{tmp_path}/run"])
    cli._build()
    told = cli.model.hparams
    assert (told["_class_path"], told["share"]) == (model["class_path"], float("inf"))
    assert told["denoiser"]["init_args"]["block_out_channels"] == [8]
    assert told["scheduler"]["class_path"] == "diffusers.DDPMScheduler"
