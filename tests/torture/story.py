"""One run of every stage, as small as it can be: what the harness disturbs, and what it compares with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CONF = Path(__file__).parents[1] / "conf"
RUN = "RUN"  # stands for the run folder among arguments
FEW = ("--scoring.strata", "2", "--scoring.draws", "1")


@dataclass(frozen=True)
class Step:
    """A command of the story.

    Attributes:
        name: What it is called here.
        arguments: Of ``guda``; ``RUN`` stands for the run folder.
    """

    name: str
    arguments: tuple[str, ...]

    def command(self, run: Path) -> list[str]:
        """What ``guda`` is called with."""
        return [argument.replace(RUN, str(run)) for argument in self.arguments]


def _stage(name: str, *options: str, stage: str = "", files: tuple[str, ...] = ()) -> Step:
    configs = [part for file in ("digits", *files) for part in ("-c", f"{CONF}/{file}.yaml")]
    return Step(name, (stage or name, *configs, "--run", RUN, *options))


_UNLEARN = ("--groups", "3,7", "--trainer.callbacks", "null")
STORY: tuple[Step, ...] = (
    _stage("fit"),
    _stage("sample", files=("sample",)),
    _stage("guide", files=("guide",)),
    _stage("unlearn", *_UNLEARN, files=("unlearn",)),
    _stage("attribute", "--operator", "retrack", "--groups", "3,7", files=("attribute",)),
    _stage("attribute by guidance", "--operator", "guidance", stage="attribute", files=("attribute",)),
    _stage("retrain", "--groups", "3,7", "--seeds", "0,1"),
    _stage(
        "attribute by retraining",
        *("--operator", "retrain", "--groups", "3,7", "--seed", "0,1"),
        stage="attribute",
        files=("attribute",),
    ),
    _stage("without", "--operator", "retrack", "--without", "3", stage="sample", files=("sample",)),
    _stage("similarity", "-c", "attribute/similarity.yaml", stage="attribute"),
    _stage("placebo", "-c", "attribute/similarity.yaml"),
    _stage("property", "--property", "guda_lightning.attribution.Brightness", "--num", "4", "--steps", "3"),
    _stage("balance", "--num", "2", "--steps", "3", "--groups", "3,7", "--least", "0", files=("attribute",)),
    _stage("ensemble", "--members", "6"),
    _stage("attribute by ensemble", stage="attribute", files=("ensemble",)),
    _stage("groups"),
    Step("evaluate", ("evaluate", RUN, "--resamples", "20")),
    Step("curate", ("curate", RUN, "--scores", f"{RUN}/scores/guidance-0.parquet")),
    Step("report", ("report", RUN, "--scores", f"{RUN}/scores/guidance-0.parquet")),
)
