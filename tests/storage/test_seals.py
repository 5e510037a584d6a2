"""Whatever happens to a byte of a sealed file, it is not read as good."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from guda_lightning.errors import StoreError
from guda_lightning.storage.frames import load_frame, save_frame
from guda_lightning.storage.seals import (
    read_sealed,
    read_tensors,
    write_json,
    write_tensors,
)

FRAME = pd.DataFrame({"group": ["a", "b"], "value": [0.1, float("nan")]})
FIX = "make it again"
Kind = tuple[Callable[[Path], None], Callable[[Path], object]]
KINDS: dict[str, Kind] = {
    "json": (lambda path: write_json(path, {"a": 1.5, "b": ["ä"]}), lambda path: read_sealed(path, FIX)),
    "safetensors": (
        lambda path: write_tensors(path, {"x": torch.ones(3, 4), "y": torch.tensor(2)}, {"of": "z"}),
        lambda path: read_tensors(path, FIX),
    ),
    "parquet": (
        lambda path: save_frame(path, FRAME, {"queries": 3}),
        lambda path: load_frame(path, "guda x"),
    ),
}


@pytest.fixture(scope="module", params=KINDS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Kind]:
    path = tmp_path_factory.mktemp(request.param) / "file"
    KINDS[request.param][0](path)
    return path, KINDS[request.param]


@given(data=st.data())
def test_no_flipped_bit_is_read_as_good(data: st.DataObject, written: tuple[Path, Kind]) -> None:
    path, (_, read) = written
    content = bytearray(path.read_bytes())
    damaged = path.with_name("flipped")
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    damaged.write_bytes(content)
    with pytest.raises(StoreError, match=r"flipped (is damaged|cannot be read)"):
        read(damaged)


@given(data=st.data())
@example(data=None).xfail(raises=AttributeError) if False else (lambda test: test)
def test_no_truncated_file_is_read_as_good(data: st.DataObject, written: tuple[Path, Kind]) -> None:
    path, (_, read) = written
    content = path.read_bytes()
    damaged = path.with_name("cut")
    damaged.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(StoreError, match=r"cut (is damaged|cannot be read)"):
        read(damaged)
