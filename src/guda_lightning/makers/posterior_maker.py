"""What makes posteriors: of kinds that train, of kernels, and of their mixture."""

from __future__ import annotations

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from guda_lightning.data import GroupDataModule
from guda_lightning.diffusion import FullModel
from guda_lightning.errors import ConfigError
from guda_lightning.makers.trainers import TrainerFactory
from guda_lightning.posteriors import PosteriorKey, PosteriorRecord, PosteriorStore
from guda_lightning.posteriors.feature_moments import NOISE_LEVELS
from guda_lightning.posteriors.mixture import mixed
from guda_lightning.posteriors.patch_kernel import KernelLevel, PatchKernel
from guda_lightning.posteriors.store import GUIDANCE
from guda_lightning.posteriors.windows import fit_windows, windows_for
from guda_lightning.progress_bar import progress_bar
from guda_lightning.storage.files import sha256_json
from guda_lightning.storage.provenance import Provenance
from guda_lightning.storage.weights_record import RECORD

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, kw_only=True, eq=False)
class PosteriorMaker(ABC):
    """Makes one posterior of all groups of a full model.

    Attributes:
        full: The full model.
        data: Its training data, which say who belongs to which group.
        store: Where posteriors go.
        trainers: Makes the trainers, where any are needed.
        hparams: Every hyper-parameter, as JSON values.
        seed: Seed of the posterior.
    """

    full: FullModel
    data: GroupDataModule
    store: PosteriorStore
    trainers: TrainerFactory
    hparams: Mapping[str, Any]
    seed: int = 0

    operator: ClassVar[str]  # the kind, which is what counterfactuals that follow from it are called
    trains: ClassVar[bool] = False  # with a trainer, which starts the processes

    @property
    @abstractmethod
    def cost(self) -> str:
        """What making it takes, as users are told before it begins."""

    @abstractmethod
    def make(self) -> PosteriorRecord | None:
        """Make and store the posterior; continues what was interrupted.

        Returns:
            How it was made; None after a dry run (``fast_dev_run``), which stores nothing.

        Raises:
            GudaError: The data and the full model do not fit this kind.
        """

    @property
    def parts(self) -> tuple[PosteriorMaker, ...]:
        """All that has to be made, in order; this one last."""
        return (self,)

    @property
    def name(self) -> str:
        """What to call it, to tell it from its siblings."""
        return self.operator.replace("_", " ")

    @property
    def left_out(self) -> Mapping[str, str]:
        """Kinds of posteriors that would be part of it but cannot, and why."""
        return {}

    def lines(self, record: PosteriorRecord) -> list[str]:
        """The noise levels with least and with most noise; its record has those between."""
        said = [f"t {level['first']:>4}-{level['last']:<4} {self._at(level)}" for level in record.levels]
        between = f"{len(said) - 2} noise levels between: {self.store.path(record.key) / RECORD}"
        return [said[0], between, said[-1]] if len(said) > 2 else said

    def _at(self, level: Mapping[str, Any]) -> str:
        """What users are told of a noise level."""
        return ""

    def key(self) -> PosteriorKey:
        """What the posterior is stored under."""
        names = self.data.grouping.names
        return PosteriorKey(self.operator, names, self.seed, sha256_json(dict(self.hparams)))

    @cached_property
    def provenance(self) -> Provenance:
        """What the posterior is made from."""
        return self.full.provenance(self.data.grouping.hash, self.data.input_shape, self.data.hash)

    def has(self) -> bool:
        """Whether the posterior is stored.

        Raises:
            StoreError: It was made from another full model, grouping or schedule.
        """
        return self.store.holds(self.key(), self.provenance)

    def make_all(self) -> None:
        """Make what is missing of it."""
        for part in self.parts:
            if not part.has():
                part.make()

    def seconds(self) -> float:
        """What the posterior that is stored did cost, with all its parts.

        Raises:
            StoreError: One is not stored.
        """
        return sum(self.store.record(part.key()).seconds for part in self.parts)

    def elsewhere(self, data: GroupDataModule, store: Path) -> Self:
        """The same for other groups of the same samples, into another store, without logs."""
        return replace(self, data=data, store=PosteriorStore(store), trainers=self.trainers.silent())

    def _kept(
        self, started: tuple[float, float], weights: Mapping[str, Tensor] | None = None, **own: Any
    ) -> PosteriorRecord:
        """Store what no trainer has made; without weights, its record tells it whole."""
        evaluations = own.pop("network_evaluations", 0)
        seconds, cores = (now - then for now, then in zip(clocks(), started, strict=True))
        spent = {"seconds": seconds, "core_seconds": cores, "steps": 0, "network_evaluations": evaluations}
        record = PosteriorRecord.of(self.key(), self.hparams, self.provenance, **spent, **own)
        self.store.save(weights or {}, record)
        return record


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageKernelMaker(PosteriorMaker):
    """Notes down the training images, which are the whole posterior."""

    operator = "image_kernel"

    @property
    def cost(self) -> str:
        """It takes nothing."""
        return f"the {len(self.data.ids)} training images"

    def make(self) -> PosteriorRecord:
        """Store its record."""
        return self._kept(clocks())


@dataclass(frozen=True, kw_only=True, eq=False)
class PatchKernelMaker(PosteriorMaker):
    """Fits the window of every noise level to the full model.

    Attributes:
        device: Where to fit.
        levels: Those of the same data under other groups, which windows do not depend on.
    """

    device: torch.device
    levels: tuple[KernelLevel, ...] = ()

    operator = "patch_kernel"

    @property
    def cost(self) -> str:
        """Of the fit."""
        return f"windows by fit to the full model on {len(self.data.ids)} training images"

    def make(self) -> PosteriorRecord:
        """Fit, and store the record."""
        started = clocks()
        spent: list[int] = []
        levels = self.levels or self._fitted(spent)
        rows = [level.to_row() for level in levels]
        return self._kept(started, levels=rows, network_evaluations=sum(spent))

    def _fitted(self, spent: list[int]) -> tuple[KernelLevel, ...]:
        network = copy.deepcopy(self.full.model.denoiser).to(self.device)
        network.register_forward_pre_hook(
            lambda _, args, named: spent.append(len(next(iter((*args, *named.values()))))), with_kwargs=True
        )
        shown = self.trainers.recipe.get("enable_progress_bar") is not False
        with progress_bar("guide patch kernel", "levels", NOISE_LEVELS, shown=shown, lines=True) as bar:
            full = replace(self.full.model, denoiser=network)
            return fit_windows(self.data, full, self.device, self.seed, lambda _: bar.update())

    def refusal(self) -> str | None:
        """Why there is no patch kernel of the data; None: there is."""
        if self.data.prompts is not None:
            return "it knows no prompts"
        every = [KernelLevel(0, 0, window, 0, 0) for window in windows_for(self.data.input_shape)]
        try:
            PatchKernel.of(self.data, self.full.model.schedule, every)
        except ConfigError as error:
            return f"{error.problem} ({error.found})"
        return None

    def _at(self, level: Mapping[str, Any]) -> str:
        window = level["window"]
        return (
            f"window {window} x {window}, r² {level['r2']:.2f} of the full model's ε, mean squared distance "
            f"{level['mse']:.3f}"
        )

    def elsewhere(self, data: GroupDataModule, store: Path) -> Self:
        """See ``PosteriorMaker.elsewhere``: with the windows that are known already."""
        known = tuple(KernelLevel(**row) for row in self.store.record(self.key()).levels)
        return replace(super().elsewhere(data, store), levels=known)


@dataclass(frozen=True, kw_only=True, eq=False)
class MixtureMaker(PosteriorMaker):
    """Weighs classifiers and a patch kernel by noise level.

    Attributes:
        members: What makes the classifiers and, last, the patch kernel if there is one.
    """

    members: tuple[PosteriorMaker, ...]

    operator = GUIDANCE

    @classmethod
    def of(cls, classifiers: Sequence[PosteriorMaker], kernel: PatchKernelMaker) -> MixtureMaker:
        """The mixture of classifiers, and of a patch kernel where there is one of these data."""
        reason = kernel.refusal()
        members = (*classifiers, *([kernel] if reason is None else []))
        return cls(
            full=kernel.full,
            data=kernel.data,
            store=kernel.store,
            trainers=kernel.trainers,
            seed=kernel.seed,
            hparams={
                "members": [[member.operator, member.key().hparams_hash] for member in members],
                "left_out": {} if reason is None else {kernel.operator: reason},
            },
            members=members,
        )

    @property
    def left_out(self) -> Mapping[str, str]:
        """See ``PosteriorMaker.left_out``."""
        found: dict[str, str] = self.hparams["left_out"]
        return found

    @property
    def cost(self) -> str:
        """It takes nothing but its members."""
        return f"the mixture of {', '.join(member.name for member in self.members)}"

    @property
    def parts(self) -> tuple[PosteriorMaker, ...]:
        """The members, then their weights."""
        return (*self.members, self)

    def lines(self, record: PosteriorRecord) -> list[str]:
        """One line per stretch of noise levels with the same weights."""
        alike = [list(levels) for _, levels in groupby(record.levels, key=lambda level: level["weights"])]
        merged = [{**levels[0], "last": levels[-1]["last"]} for levels in alike]
        return super().lines(replace(record, levels=merged))

    def _at(self, level: Mapping[str, Any]) -> str:
        weights = zip(self.members, level["weights"], strict=True)
        return ", ".join(f"{weight:.2g} {member.name}" for member, weight in weights if weight)

    def has(self) -> bool:
        """Whether the mixture of the very members that are stored is, by today's rule for their weights."""
        if not super().has() or not all(member.has() for member in self.members):
            return False
        stored = self.store.record(self.key())
        return (stored.members, stored.levels) == (self._members(), self._levels())

    def make(self) -> PosteriorRecord:
        """Store the weights, and which posteriors they are of."""
        learnt = [one.last_quarter for one in self._records() if one.last_quarter is not None]
        return self._kept(
            clocks(),
            levels=self._levels(),
            members=self._members(),
            last_quarter=max(learnt, default=None),
        )

    def elsewhere(self, data: GroupDataModule, store: Path) -> Self:
        """See ``PosteriorMaker.elsewhere``: with all its members."""
        members = tuple(member.elsewhere(data, store) for member in self.members)
        return replace(super().elsewhere(data, store), members=members)

    def _members(self) -> list[dict[str, str]]:
        return [{"name": one.key.folder_name, "hash": one.weights_hash} for one in self._records()]

    def _levels(self) -> list[dict[str, Any]]:
        records = self._records()
        of_kernel = [record for record in records if record.kind == PatchKernelMaker.operator]
        kernel = [KernelLevel(**row) for record in of_kernel for row in record.levels]
        scored = self.full.model.schedule.scored_timesteps
        return mixed(len(records) - len(of_kernel), kernel, (int(scored[0]), int(scored[-1])))

    def _records(self) -> list[PosteriorRecord]:
        return [self.store.record(member.key()) for member in self.members]


def clocks() -> tuple[float, float]:
    """Seconds of the clock and of the cores of this process."""
    return time.perf_counter(), time.process_time()
