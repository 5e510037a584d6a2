from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from guda_lightning.errors import StoreError
from guda_lightning.evaluation.result import Evaluation
from toys import reseal

Build = Callable[..., Evaluation]


def test_what_is_saved_is_loaded(evaluation: Build, tmp_path: Path) -> None:
    built = evaluation("retrack-0")
    folder = tmp_path / "evaluation"
    assert not Evaluation.exists(folder)
    built.save(folder)
    assert Evaluation.exists(folder)
    loaded = Evaluation.load(folder)
    for name in ("metrics", "comparisons", "magnitudes"):
        pd.testing.assert_frame_equal(
            getattr(loaded, name), getattr(built, name).reset_index(drop=True), check_dtype=False
        )
    assert loaded.record == built.record
    assert loaded.calibration is None
    agreed = loaded.oracle_agreement
    assert set(agreed) == {"elbo", "uniform"} == set(loaded.weightings)
    assert agreed[loaded.weightings[0]] == max(agreed.values())


def test_a_calibration_comes_and_goes_with_its_evaluation(evaluation: Build, tmp_path: Path) -> None:
    built = evaluation("retrack-0")
    frame = pd.DataFrame({"method": ["retrack-0"], "scale": [2.0]})
    Evaluation(built.metrics, built.comparisons, built.magnitudes, built.record, frame).save(tmp_path / "e")
    pd.testing.assert_frame_equal(Evaluation.load(tmp_path / "e").calibration, frame, check_dtype=False)
    built.save(tmp_path / "e")
    assert Evaluation.load(tmp_path / "e").calibration is None


def test_a_damaged_file_is_named(evaluation: Build, tmp_path: Path) -> None:
    evaluation("retrack-0").save(tmp_path)
    (tmp_path / "magnitudes.parquet").write_bytes(b"PAR1")
    fix = "rerun guda evaluate, or remove the folder"
    with pytest.raises(StoreError, match=rf"^{tmp_path}/magnitudes.parquet is damaged\n(.*\n)+.*{fix}$"):
        Evaluation.load(tmp_path)
    reseal(tmp_path)
    with pytest.raises(StoreError) as caught:
        Evaluation.load(tmp_path)
    assert re.fullmatch(
        rf"the evaluation in {tmp_path} cannot be read\n"
        r"  found:    .*\n"
        r"  expected: metrics\.parquet, comparisons\.parquet, magnitudes\.parquet\n"
        r"  fix:      rerun guda evaluate, or remove the folder",
        str(caught.value),
    )
