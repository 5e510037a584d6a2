from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from guda_lightning.errors import StoreError
from guda_lightning.storage.frames import load_frame, save_frame
from toys import message

FRAME = pd.DataFrame({"group": ["a", "b"], "value": [0.1, float("nan")]})


def test_a_frame_comes_back_with_its_record(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "found.parquet"
    save_frame(path, FRAME, {"queries": 3, "names": ["ä"]})
    frame, record = load_frame(path, "guda x RUN")
    pd.testing.assert_frame_equal(frame, FRAME)
    assert record == {"queries": 3, "names": ["ä"]}


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "found.parquet"
    FRAME.to_parquet(path)
    wrong = message(
        f"{path} cannot be read", "b'guda_lightning'", "what guda x RUN writes", "run guda x RUN again"
    )
    with pytest.raises(StoreError, match=wrong):
        load_frame(path, "guda x RUN")


def test_no_flipped_byte_is_read_as_good(tmp_path: Path) -> None:
    path = tmp_path / "found.parquet"
    frame = pd.DataFrame({"value": range(100)})
    save_frame(path, frame, {})
    whole = path.read_bytes()
    start = whole.index(b"PAR1") + 4
    damaged = bytearray(whole)
    damaged[start + 60] ^= 1
    path.write_bytes(bytes(damaged))
    with pytest.raises(StoreError, match="cannot be read"):
        load_frame(path, "guda x RUN")
