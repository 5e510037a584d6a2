"""Stages of ``guda`` in this process, timed and resumable."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.sizes import TOY, Size
from guda_lightning.cli.main import main
from guda_lightning.counterfactuals import RETRAIN, CounterfactualStore
from guda_lightning.posteriors import KINDS, PosteriorStore
from guda_lightning.storage.files import slug, write_atomic
from guda_lightning.storage.runs import RunFolder

DOCS = Path(__file__).parents[1] / "docs"
aside = 0.0  # seconds that a stage spent on what is no part of it, such as snapshots


def clock() -> float:
    """Seconds of one core, hardly changed by other work; where a GPU works, of the clock on the wall."""
    return time.perf_counter() if torch.cuda.is_available() else time.process_time()


def unit() -> str:
    """What the clock counts, as the head of a column."""
    return "seconds" if torch.cuda.is_available() else "core seconds"


@dataclass(frozen=True)
class Asked:
    """What the command line asked of the benchmarks.

    Attributes:
        runs: Folder for everything made.
        cifar10: Parquet file of the CIFAR-10 training images, if there is one.
        seeds: Oracle seeds, where other than a benchmark's own number.
        steps: Training steps of the CIFAR-10 models, where other than their configuration's.
        classes: Classes of digits whose parts are retrained, where not all of them.
        docs: Folder of benchmarks.md, whose tables are rewritten, and of images.
        size: How large everything is.
        remake: Whether oracles are retrained that could be read from a yardstick.
        only: The methods that ``methods``, ``lds`` and ``dampings`` score, where not all; what the first two
            have scored stays in their tables.
    """

    runs: Path
    cifar10: Path | None = None
    seeds: int | None = None
    steps: int | None = None
    classes: int | None = None
    docs: Path = DOCS
    size: Size = Size()  # noqa: RUF009  (frozen)
    remake: bool = False
    only: Sequence[str] = ()

    def methods(self, known: Iterable[str]) -> list[str]:
        """The methods that are scored, of those that could be.

        Raises:
            SystemExit: One that is wanted is none of them.
        """
        every = list(known)
        for name in self.only:
            if name not in every:
                raise SystemExit(f"no method {name!r}: choose from {', '.join(every)}")
        return (list(self.only) or every)[: None if self.only else self.size.kinds]

    def command(self, name: str) -> str:
        """How to measure the same again."""
        both = name in ("classifiers", "mixtures") and self.cifar10 is not None
        cifar10 = name.startswith("cifar10") or both
        images = " --cifar10 FILE" if cifar10 else ""
        seeds = "" if self.seeds is None else f" --seeds {self.seeds}"
        steps = "" if self.steps is None or not cifar10 else f" --steps {self.steps}"
        of_parts = self.classes is not None and name in ("halves", "tenths", "methods")
        classes = f" --classes {self.classes}" if of_parts else ""
        chosen = self.only and name in ("methods", "lds", "dampings")
        only = f" --only {','.join(self.only)}" if chosen else ""
        toy = " --toy FOLDER" if self.size is TOY else ""
        return f"python -m benchmarks {name}{images}{seeds}{steps}{classes}{only}{toy}"


class Bench:
    """A run folder and what its stages cost.

    Args:
        root: The run folder.
        options: Arguments of every stage, such as ``-c digits.yaml``.
        seeds: Oracle seeds, counted from 0.
        steps: Steps of a whole training.
        size: Adds the options that make it a toy.
        card: Of the yardstick that it is unpacked from, if it is.
    """

    def __init__(
        self,
        root: Path,
        *options: str,
        seeds: int = 1,
        steps: int = 0,
        size: Size = Size(),  # noqa: B008  (frozen)
        card: Mapping[str, Any] | None = None,
    ) -> None:
        self.card = card
        self.run, self.options, self.size = RunFolder(root), options, size
        self.seeds, self.steps = seeds, size.steps or steps
        self._costs = root / "costs"

    def beside(self, root: Path, *options: str) -> Bench:
        """Another run folder with the same full model, under more options."""
        return Bench(root, *self.options, *options, "--full", str(self.run.full), size=self.size)

    def stage(self, name: str, *arguments: str, label: str = "") -> None:
        """Run a stage unless it has run to its end before; what several attempts cost is added up."""
        path = self._path(label or " ".join([name, *arguments]))
        cost = json.loads(path.read_text()) if path.is_file() else {"seconds": 0.0, "complete": False}
        if cost["complete"]:
            return
        spent_before, aside_before = clock(), aside
        try:
            options = (*self.options, *self.size.network, *self.size.everywhere, "--run", str(self.run.root))
            code = main([name, *options, *arguments, *self.size.stages.get(name, ())])
            cost["complete"] = code == 0
        finally:
            cost["seconds"] += clock() - spent_before - (aside - aside_before)
            write_atomic(path, json.dumps(cost) + "\n")
        if code:
            raise SystemExit(code)

    def keep(self, label: str, seconds: float) -> None:
        """Count a stage as complete that was run elsewhere."""
        write_atomic(self._path(label), json.dumps({"seconds": seconds, "complete": True}) + "\n")

    def _path(self, label: str) -> Path:
        return self._costs / f"{slug(label)}.json"

    def evaluations(self, operator: str, seed: int | None = None) -> tuple[int, int]:
        """Evaluations that training spent on an operator, pairs of groups aside, and its number of models."""
        if operator in KINDS:
            posteriors = PosteriorStore(self.run.store).records()
            counts = [r.network_evaluations for r in posteriors if seed in (None, r.seed)]
        elif operator == RETRAIN and self.card is not None:
            models, share = self.card["models"], 1 if seed is None else self.seeds
            return models["network_evaluations"] // share, models["count"] // share
        else:
            records = CounterfactualStore(self.run.store).records()
            of = [r for r in records if r.operator == operator and len(r.groups) == 1]
            counts = [r.network_evaluations for r in of if seed in (None, r.seed)]
        return sum(counts), len(counts)

    def seconds(self, *labels: str) -> float:
        """Seconds that the stages of these labels took; those that have not run took none."""
        files = [self._path(label) for label in labels]
        return sum(float(json.loads(path.read_text())["seconds"]) for path in files if path.is_file())
