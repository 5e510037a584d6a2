"""The checkpoint that an interrupted stage goes on from."""

from __future__ import annotations

import shutil
from pathlib import Path

from lightning.pytorch.callbacks import ModelCheckpoint


class ResumeCheckpoint(ModelCheckpoint):
    """Keeps one checkpoint, of the end of the last whole epoch.

    Only whole epochs: data order and noise are functions of the epoch, so a run that resumes there repeats
    what an uninterrupted one does. It never clashes with the user's own ``ModelCheckpoint``.

    Args:
        folder: Where to keep it.
        every_n_epochs: How often to write it; raise it where an epoch is short and the model large.
    """

    def __init__(self, folder: Path, every_n_epochs: int = 1) -> None:
        super().__init__(
            dirpath=folder,
            filename="resume",
            every_n_epochs=every_n_epochs,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
            auto_insert_metric_name=False,
        )
        self.folder = folder

    @property
    def path(self) -> Path | None:
        """The checkpoint, if there is one."""
        path = self.folder / f"resume{self.FILE_EXTENSION}"
        return path if path.is_file() else None

    @property
    def state_key(self) -> str:
        """Its own key, whatever other checkpoint callbacks there are."""
        return type(self).__qualname__

    def discard(self) -> None:
        """Remove the checkpoint: the stage is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)
