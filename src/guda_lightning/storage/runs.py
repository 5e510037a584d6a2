"""Where everything of one run lies."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from guda_lightning.errors import StoreError
from guda_lightning.storage.files import slug, unique_slug

# What stages leave, the least of them: a run folder has one of these.
_MARKS = (
    ".full.aside",
    "full/*.json",
    "store/*/record.json",
    "store/posteriors/*/record.json",
    "scores/*.parquet",
    "scores/*.parts",
    "ensembles/*.parquet",
    "checkpoints/*",
)
# Folders of a run folder in which commands write.
FOLDERS = (
    "balanced",
    "checkpoints",
    "curation",
    "ensembles",
    "evaluation",
    "features",
    "full",
    "history",
    "placebo",
    "properties",
    "queries",
    "report",
    "scores",
    "spread",
    "store",
    "without",
)
TAKEN = ("__metadata__",)  # no names of tensors in a safetensors file


@dataclass(frozen=True)
class RunFolder:
    """The folder of one full model and all that was made from it.

    Attributes:
        root: The folder; need not exist yet.
    """

    root: Path

    @property
    def name(self) -> str:
        """Its name, which is also the W&B group of all its runs."""
        return self.root.resolve().name

    @property
    def exists(self) -> bool:
        """Whether any stage has written there."""
        return any(next(self.root.glob(mark), None) for mark in _MARKS)

    def refuse_files(self) -> None:
        """Refuse a file or a link to nothing where a folder belongs, before anything is made to lie in it.

        Raises:
            StoreError: There is one.
        """
        for name in FOLDERS:
            path = self.root / name
            if path.is_symlink() and not path.exists():  # as to a disk that is not there
                raise StoreError(
                    f"{path} is a link to nothing",
                    found=f"nothing at {os.readlink(path)}",
                    expected="a folder, or nothing",
                    fix="bring back the disk, or make the folder, that it leads to; or remove the link",
                )
            if path.exists() and not path.is_dir():
                raise StoreError(
                    f"{path} is a file", found="a file", expected="a folder, or nothing", fix="move it away"
                )

    @classmethod
    def below(cls, folder: Path, depth: int = 3) -> list[RunFolder]:
        """The run folders in a folder, by name; those inside of others are none.

        Args:
            folder: The folder; one that is a run folder itself has none below.
            depth: How many levels down to look.
        """
        inner = sorted(one for one in _folders(folder) if not one.name.startswith("."))
        runs = [cls(one) for one in inner if cls(one).exists]
        if depth > 1:
            others = (one for one in inner if not cls(one).exists)
            runs += [run for one in others for run in cls.below(one, depth - 1)]
        return sorted(runs, key=lambda run: run.root)

    @property
    def full(self) -> Path:
        """The full model: a diffusers folder with a ``record.json``."""
        return self.root / "full"

    @property
    def fit_stamp(self) -> Path:
        """What ``guda fit`` was last found complete with, for the next time."""
        return self.root / ".fit.json"

    @property
    def history(self) -> Path:
        """What was run on it, one file a command."""
        return self.root / "history"

    @property
    def manifest(self) -> Path:
        """All that an auditor needs in one file, with the hash of every other one."""
        return self.root / "manifest.json"

    @property
    def queries(self) -> Path:
        """Samples of the full model, one PNG each."""
        return self.root / "queries"

    @property
    def without(self) -> Path:
        """Pictures from the noise of the queries, by operator and groups."""
        return self.root / "without"

    def without_groups(self, operator: str, groups: str) -> Path:
        """What an operator's counterfactual without some groups draws, one PNG each."""
        return self.without / slug(operator) / unique_slug(groups)

    def distances(self, operator: str) -> Path:
        """How far an operator's pictures lie from the queries."""
        return self.without / slug(operator) / "distances.parquet"

    @property
    def store(self) -> Path:
        """The counterfactual store."""
        return self.root / "store"

    @property
    def scores(self) -> Path:
        """Score tables, ``METHOD-SEED.parquet``."""
        return self.root / "scores"

    @property
    def errors(self) -> Path:
        """Squared errors that the score tables derive from, one file a model."""
        return self.scores / "errors"

    @property
    def features(self) -> Path:
        """What attributors keep of the training samples, such as gradients: one folder each."""
        return self.root / "features"

    @property
    def examples(self) -> Path:
        """A few training images of every group, for the page."""
        return self.root / "examples.safetensors"

    @property
    def evaluation(self) -> Path:
        """How well the methods agree with the oracle."""
        return self.root / "evaluation"

    @property
    def placebo(self) -> Path:
        """Scores of random groups, one table for each score table that they are compared with."""
        return self.root / "placebo"

    def ensemble(self, name: str) -> Path:
        """The members of an ensemble, what they were trained without and what they cost."""
        return self.ensembles / f"{name}.parquet"

    @property
    def ensembles(self) -> Path:
        """The ensembles of this run, one file each."""
        return self.root / "ensembles"

    @property
    def distribution(self) -> Path:
        """How the law of a query's likelihood over seeds changes without each group."""
        return self.root / "distribution.parquet"

    @property
    def audit(self) -> Path:
        """What an audit of the groups found."""
        return self.root / "groups.parquet"

    @property
    def curation(self) -> Path:
        """Which groups should leave the data, and the groups without them."""
        return self.root / "curation"

    @property
    def balanced(self) -> Path:
        """Images drawn for each group, and the manifests of them, by what drew them."""
        return self.root / "balanced"

    def balanced_by(self, operator: str) -> Path:
        """The set that an operator's models of groups, or a posterior, drew."""
        return self.balanced / slug(operator)

    @property
    def properties(self) -> Path:
        """Score tables of properties of sets of samples, one a property."""
        return self.root / "properties"

    @property
    def report(self) -> Path:
        """The page."""
        return self.root / "report"

    def table(self, method: str, seed: int, *names: str) -> Path:
        """The score table of a method and a seed; names, which are slugs, tell it from others."""
        return self.scores / ("-".join([method, str(seed), *names]) + ".parquet")

    def queries_of(self, table: Path) -> Path:
        """The queries that a score table is about."""
        return self.scores / "queries" / table.stem

    def maps_of(self, table: Path) -> Path:
        """Which part of these queries came from which group, where the method of a score table can tell."""
        return self.scores / "maps" / f"{table.stem}.safetensors"

    def nearest_of(self, table: Path) -> Path:
        """The training images of leading groups that look most like these queries."""
        return self.scores / "nearest" / f"{table.stem}.safetensors"

    def cost_of(self, table: Path) -> Path:
        """What a score table cost."""
        return self.scores / "costs" / f"{table.stem}.json"

    @property
    def preparations(self) -> Path:
        """What these cost, one file each; gone where all of them are removed."""
        return self.features / "costs"

    @property
    def spread(self) -> Path:
        """What tasks of a spread print, and the configuration that they run."""
        return self.root / "spread"

    def parts_of(self, table: Path) -> Path:
        """The parts of an unfinished score table, one for each chunk of its queries."""
        return table.with_suffix(".parts")

    def checkpoints(self, what: str) -> Path:
        """Where an unfinished training keeps what it resumes from."""
        return self.root / "checkpoints" / what


def _folders(folder: Path) -> list[Path]:
    try:
        return [one for one in folder.iterdir() if one.is_dir()]
    except OSError:  # no folder, or one that others own
        return []
