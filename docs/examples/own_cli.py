"""A LightningCLI that is yours: attribution is a callback in its configuration."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningCLI
from my_pictures import read_pictures  # you have your own
from own_module import TutorialModule
from torch import Tensor
from torch.utils.data import DataLoader


class Pictures(LightningDataModule):
    """Your data, which need not know of groups."""

    def __init__(self, folder: Path, batch_size: int = 24) -> None:
        super().__init__()
        self.folder, self.batch_size = folder, batch_size

    def setup(self, stage: str) -> None:
        self.images = [{"images": image} for image in read_pictures(self.folder)]

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return DataLoader(self.images, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return DataLoader(self.images[::12], self.batch_size)


def main(args: list[str] | None = None) -> LightningCLI:
    return LightningCLI(TutorialModule, Pictures, seed_everything_default=0, args=args)


if __name__ == "__main__":
    main()
