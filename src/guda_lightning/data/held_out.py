"""Training data of which a share is kept out, to calibrate on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from guda_lightning.data.batches import Batch
from guda_lightning.errors import check_range

if TYPE_CHECKING:
    from guda_lightning.data.datamodule import GroupDataModule


class HeldOutDataModule(LightningDataModule):
    """All groups at their natural frequencies, less a random share of all samples; the images are shared.

    Args:
        parent: The training data of the full model.
        share: Share of the samples that are held out, in [0, 1).
        batch_size: Images per step and process.
        seed: Seed of the split.

    Attributes:
        held_out: Indices of the samples that are not trained on, sorted.
        kept: Indices of the others, sorted.

    Raises:
        ConfigError: The share is out of range.
    """

    def __init__(self, parent: GroupDataModule, share: float, batch_size: int, seed: int) -> None:
        super().__init__()
        check_range(
            "the share of held-out samples",
            share,
            ge=0,
            lt=1,
            symbol="held_out",
            fix="pass --classifier.held_out 0.1, or 0 to train on all samples without calibration",
        )
        self.parent, self.batch_size = parent, batch_size
        order = np.random.default_rng(seed).permutation(len(parent.ids))
        count = round(share * len(order))
        self.held_out, self.kept = np.sort(order[:count]), np.sort(order[count:])

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled batches, mirrored as the full model saw them."""
        return self.parent.loader(self.trainer, self.kept, train=True, batch_size=self.batch_size)
