"""What a command did not write, it does not replace."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from guda_lightning.errors import StoreError
from guda_lightning.storage.foreign import refuse_foreign_file
from toys import message


def test_a_pipe_or_a_device_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path(os.devnull)):
        expected = message(
            f"{path} was not written by guda manifest, which would replace it",
            "a pipe, a socket or a device",
            "no such file, or what guda manifest wrote",
            "name a file",
        )
        with pytest.raises(StoreError, match=expected):
            refuse_foreign_file(path, "guda manifest", "guda-manifest-1")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
