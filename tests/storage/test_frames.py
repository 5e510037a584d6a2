from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from guda_lightning.errors import StoreError
from guda_lightning.storage.frames import load_frame, save_frame
from toys import message, write_parquet_by_hand

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
    fix = "remove it and run guda x RUN again"
    seal = "the seal of a file that this version wrote"
    with pytest.raises(StoreError, match=message(f"{path} is damaged", "no seal", seal, fix)):
        load_frame(path, "guda x RUN")
    write_parquet_by_hand(path, pa.Table.from_pandas(FRAME).replace_schema_metadata({"other": "1"}))
    wrong = message(f"{path} cannot be read", "b'guda_lightning'", "what guda x RUN writes", fix)
    with pytest.raises(StoreError, match=wrong):
        load_frame(path, "guda x RUN")
