"""Paths of the user that must exist."""

from __future__ import annotations

from pathlib import Path

from guda_lightning.errors import QueryError, StoreError


def refuse_missing_full(path: Path) -> None:
    """Refuse a full model that is not there.

    Raises:
        StoreError: There is nothing at the path.
    """
    if not path.exists():
        raise StoreError(
            "the full model does not exist",
            found=f"nothing at {path}",
            expected="a diffusers folder or a Lightning checkpoint",
            fix="run `guda fit` with the same configuration first, or pass --full PATH",
        )


def refuse_missing_start(path: Path) -> None:
    """Refuse to fine-tune weights that are not there.

    Raises:
        StoreError: There is nothing at the path.
    """
    if not path.exists():
        raise StoreError(
            "the weights to start from do not exist",
            found=f"nothing at {path}",
            expected="a diffusers folder or a Lightning checkpoint",
            fix="correct trainer.start, or leave it out to train from scratch",
        )


def refuse_missing_checkpoint(path: Path) -> None:
    """Refuse a checkpoint that is not there.

    Raises:
        StoreError: There is nothing at the path.
    """
    if not path.exists():
        raise StoreError(
            "the checkpoint does not exist",
            found=f"nothing at {path}",
            expected="a Lightning checkpoint",
            fix="correct --ckpt_path, or leave it out for RUN/full",
        )


def refuse_missing_queries(path: Path) -> None:
    """Refuse queries that are not there.

    Raises:
        QueryError: There is nothing at the path.
    """
    if not path.exists():
        raise QueryError(
            f"there are no queries at {path}",
            found="nothing there",
            expected="an image file or a folder of images",
            fix="correct the path",
        )
