"""The checkpoint that an interrupted stage goes on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from guda_lightning import compat
from guda_lightning.diffusion.training import early_stop
from guda_lightning.storage.leftovers import discard
from guda_lightning.storage.seals import folder_fault, intact_work, sealed_folder

_FILE = "trainer.ckpt"
# Hyper-parameters may be objects of any class, which cannot be read back safely; going on restores none.
_HYPER_PARAMETERS = ("hparams_name", "hyper_parameters", "hparams_type")


class ResumeCheckpoint(Checkpoint):
    """Keeps one checkpoint, of the end of the last whole epoch.

    Only whole epochs: data order and noise are functions of the epoch, so a run that resumes there repeats
    what an uninterrupted one does. Not a ``ModelCheckpoint``, which leaves half a file behind when it is
    killed or the disk is full.

    Args:
        folder: Where to keep it.
        every_n_epochs: How often to write it; raise it where an epoch is short and the model large.
    """

    def __init__(self, folder: Path, every_n_epochs: int = 1) -> None:
        self.folder, self.every_n_epochs = folder, every_n_epochs
        self._writing = False

    @property
    def path(self) -> Path | None:
        """The checkpoint, if there is one; a damaged one is removed, with a note.

        Raises:
            StoreError: An earlier version wrote it, without a seal.
        """
        folder = self.folder / "resume"
        if not folder.is_dir():
            return None
        goes_on = intact_work(folder, folder_fault(folder), "the training begins again")
        return folder / _FILE if goes_on else None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop at once where EarlyStopping had ended a training before it was interrupted."""
        if early_stop(trainer) is not None:
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace the checkpoint, unless something has stopped the training amid the epoch.

        Raises:
            StoreError: The disk is full; the checkpoint before is untouched.
        """
        cut_short = trainer.should_stop and not trainer.is_last_batch
        if cut_short or (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        self._writing = True
        try:
            if not trainer.is_global_zero:
                trainer.save_checkpoint(self.folder / _FILE)  # all ranks take part, rank zero writes
                return
            with sealed_folder(self.folder / "resume") as temporary:
                trainer.save_checkpoint(temporary / _FILE)
        finally:
            self._writing = False

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Leave hyper-parameters out of this checkpoint; others of the trainer keep them."""
        if self._writing:
            for name in [name for name in checkpoint if name.endswith(_HYPER_PARAMETERS)]:
                del checkpoint[name]

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Begin with the epoch after the one that the checkpoint was written at the end of."""
        compat.complete_epoch(checkpoint)

    def discard(self) -> None:
        """Remove the checkpoint: the stage is complete."""
        discard(self.folder)
