from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from guda_lightning.evaluation.line import least_squares
from guda_lightning.evaluation.magnitudes import magnitudes


def fit(methods: dict[str, Tensor], oracle: Tensor, resamples: int = 200) -> pd.DataFrame:
    frame = magnitudes(methods, oracle[None], resamples=resamples, level=0.95, seed=0)
    assert list(frame) == ["method", "pooling", "quantity", "value", "low", "high"]
    return frame


def values(frame: pd.DataFrame, method: str, pooling: str) -> dict[str, float]:
    """Value of each quantity."""
    rows = frame[(frame["method"] == method) & (frame["pooling"] == pooling)]
    return dict(zip(rows["quantity"], rows["value"], strict=True))


def planted(queries: int = 40, groups: int = 5) -> tuple[Tensor, Tensor]:
    """Scores with an offset for each query, and an oracle that is a line in them, with noise."""
    scores = torch.randn(queries, groups).double() + 3 * torch.randn(queries, 1) + 2
    return scores, 0.4 * scores - 1 + torch.randn(queries, groups)


def centred(matrix: Tensor) -> Tensor:
    return matrix - matrix.mean(dim=1, keepdim=True)


def test_lines_are_scipys_and_signs_are_counted() -> None:
    scores, oracle = planted()
    found = fit({"other": oracle, "one": scores}, oracle)
    assert list(found["method"].unique()) == ["other", "one"]
    pooled = {
        "all": (scores, oracle),
        "within": (centred(scores), centred(oracle)),
        "across": (scores.mean(dim=1), oracle.mean(dim=1)),
    }
    for pooling, (x, y) in pooled.items():
        line = scipy.stats.linregress(x.flatten().numpy(), y.flatten().numpy())
        expected = {"slope": line.slope, "offset": line.intercept, "r2": line.rvalue**2}
        if pooling != "across":
            expected["sign_agreement"] = float(np.mean(np.sign(x.numpy()) == np.sign(y.numpy())))
        assert values(found, "one", pooling) == pytest.approx(expected, abs=1e-12)
        itself = {"slope": 1, "offset": 0, "r2": 1, "sign_agreement": 1}
        assert values(found, "other", pooling) == pytest.approx(
            {quantity: itself[quantity] for quantity in expected}, abs=1e-12
        )


def test_intervals_hold_the_planted_line_as_often_as_they_say() -> None:
    held: dict[str, list[bool]] = {"all": [], "within": [], "across": []}
    for _ in range(200):
        scores, oracle = planted(queries=60, groups=3)
        found = fit({"m": scores}, oracle)
        for pooling, hits in held.items():
            (slope,) = found[(found["pooling"] == pooling) & (found["quantity"] == "slope")].itertuples()
            hits.append(slope.low <= 0.4 <= slope.high)
    for hits in held.values():
        assert 0.88 <= np.mean(hits) <= 0.99


@settings(deadline=None)  # the machine may be busy
@given(st.floats(0.01, 100), st.floats(-1e6, 1e6))
def test_scaled_and_shifted_scores_give_the_line_back(scale: float, shift: float) -> None:
    oracle = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)).double()
    found = fit({"m": (oracle - shift) / scale}, oracle, resamples=20)
    for pooling in ("all", "within", "across"):
        line = values(found, "m", pooling)
        assert [line["slope"], line["r2"]] == pytest.approx([scale, 1])
        offset = 0 if pooling == "within" else shift
        assert line["offset"] == pytest.approx(offset, rel=1e-9, abs=1e-9)


def test_scores_against_the_oracle_have_a_negative_slope_and_no_equal_sign() -> None:
    oracle = torch.randn(20, 3).double()
    found = fit({"m": -2 * oracle}, oracle)
    for pooling in ("all", "within"):
        line = values(found, "m", pooling)
        assert [line["slope"], line["r2"], line["sign_agreement"]] == pytest.approx([-0.5, 1, 0])


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_shares_that_sum_to_one_have_no_line_across_queries(kind: torch.dtype) -> None:
    shares, oracle = torch.randn(30, 7, dtype=kind).softmax(dim=1), torch.randn(30, 7)
    found = fit({"shares": shares, "free": torch.randn(30, 7)}, oracle)
    poolings = found.groupby("method")["pooling"].unique().map(list).to_dict()
    assert poolings == {"free": ["all", "within", "across"], "shares": ["all", "within"]}
    other_way = fit({"free": oracle}, shares.double())
    assert list(other_way["pooling"].unique()) == ["all", "within"]
    assert other_way.notna().all(axis=None)


def test_resamples_of_a_single_query_are_left_out_across() -> None:
    scores = torch.tensor([[0.0, 1.0], [2.0, 5.0]]).double()
    found = fit({"m": scores}, 3 * scores + 1)  # half of the resamples have one query twice
    across = found[found["pooling"] == "across"].set_index("quantity")[["value", "low", "high"]]
    assert across.loc["slope"].tolist() == pytest.approx([3, 3, 3])
    assert across.loc["offset"].tolist() == pytest.approx([1, 1, 1])


def test_large_offsets_keep_their_digits() -> None:
    scores, oracle = planted()
    plain, shifted = fit({"m": scores}, oracle), fit({"m": scores + 1e7}, oracle - 1e7)
    for pooling in ("all", "within", "across"):
        for quantity in ("slope", "r2"):
            expected = pytest.approx(values(plain, "m", pooling)[quantity], rel=1e-6)
            assert values(shifted, "m", pooling)[quantity] == expected


def test_no_methods_no_rows() -> None:
    assert fit({}, torch.randn(3, 2)).empty


def test_least_squares_is_numpys() -> None:
    x, y = torch.randn(4, 6).double() + 1e4, torch.randn(4, 6).double()
    design = np.stack([x.flatten().numpy(), np.ones(24)], axis=1)
    (slope, offset), residual, *_ = np.linalg.lstsq(design, y.flatten().numpy(), rcond=None)
    line = least_squares(x, y)
    assert line.slope.item() == pytest.approx(slope, rel=1e-6)
    assert line.offset.item() == pytest.approx(offset, rel=1e-6)
    assert line.r2.item() == pytest.approx(1 - residual[0] / (24 * y.var(correction=0).item()), rel=1e-6)
