"""The command ``guda``."""

from guda_lightning.cli.main import main

__all__ = ["main"]
