from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from guda_lightning.data import GroupDataModule, Listed
from guda_lightning.errors import DataError
from toys import Coloured, Shades, message, shades


def test_a_table_keeps_some_samples_as_they_are(tmp_path: Path) -> None:
    table = tmp_path / "kept.csv"
    table.write_text("id,group\n" + "".join(f"{row},x\n" for row in (40, 3, 17)))
    data, whole = GroupDataModule(Listed(Shades(), str(table)), groups=str(table), batch_size=1), shades()
    assert data.ids == ("3", "17", "40")
    assert np.array_equal(data.images, whole.images[[3, 17, 40]])
    assert data.num_classes == 3 and data.labels is not None and data.labels.tolist() == [0, 1, 2]
    assert data.grouping.names == ("x",) and data.grouping.size("x") == 3


def test_prompts_stay_with_their_samples(tmp_path: Path) -> None:
    table = tmp_path / "kept.jsonl"
    table.write_text('{"id": "1/blue"}\n')
    whole, found = Coloured().load(), Listed(Coloured(), str(table)).load()
    row = whole.ids.index("1/blue")
    assert whole.prompts is not None and found.prompts == (whole.prompts[row],)
    assert np.array_equal(np.asarray(found.read(0)), np.asarray(whole.read(row)))


def test_a_table_of_other_samples_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "kept.csv"
    table.write_text("id\n48\n")
    unknown = message(
        f"{table}, line 2: unknown sample '48'",
        "id '48'",
        "one of 48 samples; nearest: '8', '4'",
        "correct the column 'id' or remove the line",
    )
    with pytest.raises(DataError, match=unknown):
        Listed(Shades(), str(table)).load()
    table.write_text("id\n")
    empty = message(
        f"{table} names no sample",
        "no line with an id",
        "the samples to keep, one a line",
        "fill in the table",
    )
    with pytest.raises(DataError, match=empty):
        Listed(Shades(), str(table)).load()
