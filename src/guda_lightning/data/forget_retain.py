"""Forget and retain batches in pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor
from torch.utils.data import DataLoader

from guda_lightning.data.batches import Batch
from guda_lightning.data.grouping import Grouping

if TYPE_CHECKING:
    from guda_lightning.data.datamodule import GroupDataModule


@runtime_checkable
class ForgetData(Protocol):
    """What a datamodule for unlearning offers besides its loaders."""

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups to forget."""
        ...

    @property
    def grouping(self) -> Grouping:
        """All groups, in the order of ``batch["groups"]``."""
        ...

    def forget_images(self) -> Tensor:
        """``[samples, channels, height, width]`` in [-1, 1], the groups to forget."""
        ...

    def retain_images(self) -> Tensor:
        """``[samples, channels, height, width]`` in [-1, 1], the rest."""
        ...


class UnlearnDataModule(LightningDataModule):
    """Training data split at a set of groups; the images are shared with the parent.

    A training batch is ``{"forget": batch, "retain": batch}``, each as ``GroupDataModule`` makes them. An
    epoch ends with the larger side; the smaller one starts over in a new order. Validation is the parent's
    probe set.

    Args:
        parent: The training data of the full model.
        groups: Names of the groups to forget.

    Raises:
        GroupError: An unknown or empty group, or groups that cover all samples.
    """

    def __init__(self, parent: GroupDataModule, groups: Sequence[str]) -> None:
        super().__init__()
        self.parent = parent
        self.groups = tuple(groups)
        self.forget = parent.grouping.forget(groups)
        self.retain = parent.grouping.retain(groups)

    @property
    def grouping(self) -> Grouping:
        """Who belongs to which groups, as in the parent."""
        return self.parent.grouping

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height, width, as in the parent."""
        return self.parent.input_shape

    @property
    def hash(self) -> str:
        """Identity of the training data, as in the parent."""
        return self.parent.hash

    def train_dataloader(self) -> CombinedLoader:
        """Pairs of forget and retain batches."""
        sides = {"forget": self.forget, "retain": self.retain}
        loaders = {name: self.parent.loader(self.trainer, side, train=True) for name, side in sides.items()}
        return CombinedLoader(loaders, mode="max_size_cycle")

    def val_dataloader(self) -> DataLoader[Batch]:
        """The probe set: the same few samples of every group, forget and retain alike."""
        return self.parent.loader(self.trainer, self.parent.probe, train=False)

    def forget_images(self) -> Tensor:
        """``[samples, ...]`` as the model takes them; with flips, the mirrored copies too."""
        return self.parent.seen_inputs(self.forget)

    def retain_images(self) -> Tensor:
        """``[samples, ...]`` as the model takes them; with flips, the mirrored copies too."""
        return self.parent.seen_inputs(self.retain)
