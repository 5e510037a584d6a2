"""``guda evaluate --yardstick``: attributors scored against an oracle that comes with guda."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from guda_lightning.cli.commands import Stage, find
from guda_lightning.cli.configs import located
from guda_lightning.cli.inputs import Inputs
from guda_lightning.cli.stage import parse
from guda_lightning.storage.environment import environment
from guda_lightning.storage.history import Step, noted
from guda_lightning.storage.runs import RunFolder
from guda_lightning.storage.yardsticks import CONFIG, Yardstick

if TYPE_CHECKING:
    from guda_lightning.cli.lightning import StageCLI

# Options of `guda attribute` for the cheap attributors, which are scored unasked: one line each.
CHEAP: Mapping[str, Sequence[str]] = {
    "guidance": ("-c", "attribute/elbo.yaml", "--operator", "guidance"),
    "nda": ("-c", "attribute/nda.yaml"),
    "similarity": ("-c", "attribute/similarity.yaml"),
}


def scored(name: str, root: Path | None, configs: Sequence[str], images: Path | None) -> Path:
    """Unpack a yardstick and score its queries; returns the run folder.

    Args:
        name: Of the yardstick, or the path of a card.
        root: The run folder; runs/yardstick-NAME if left out.
        configs: Configurations of ``guda attribute``, one for each attributor; all of ``CHEAP`` if there are
            none.
        images: The file of images, where the yardstick needs one.

    Raises:
        GudaError: There is no such yardstick, it is damaged, or a stage refuses what it finds.
    """
    yardstick = Yardstick.find(name)
    run = RunFolder(root or Path("runs") / f"yardstick-{yardstick.name}")
    options = [located(given) for given in [("-c", config) for config in configs] or CHEAP.values()]
    step = Step("yardstick", str(run.root), (yardstick.name,), environment=environment())
    with noted(run, step):
        unpacked = yardstick.unpack(run.root, images)
    if unpacked:
        print(f"evaluate: {run.root} unpacked: {yardstick.card['title']}")
    config = ("-c", str(run.root / CONFIG))
    inputs = [Inputs.of("attribute", [*config, *given]) for given in options]
    # What is misspelt for the last attributor shows before the first one works.
    parsed = [_parsed("attribute", one.arguments) for one in inputs]
    for one, cli in zip(inputs, parsed, strict=True):
        if _is_guided(one):
            _parsed("guide", config).run()
        cli.run()
    return run.root


def _parsed(stage: str, arguments: Sequence[str]) -> StageCLI:
    command = find(stage)
    assert isinstance(command, Stage)
    return parse(command, arguments)


def _is_guided(inputs: Inputs) -> bool:
    """Whether an attributor reads what ``guda guide`` makes."""
    from guda_lightning.posteriors import KINDS  # imports torch, which help must not

    options = ("operator", "attributor.init_args.operator", "attributor.init_args.posterior")
    named: list[object] = [value for name in options for value in inputs.values.get(name, ())]
    if named:
        return named[-1] in KINDS
    return "attributor.class_path" not in inputs.values or "attributor.init_args.store" in inputs.values
