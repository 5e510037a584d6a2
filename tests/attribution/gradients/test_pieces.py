"""What takes long for each query goes on, interrupted, with the next few, and gives the same scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from linear_denoiser import linear_model

from guda_lightning.attribution import NDA, AttributionContext, Attributor
from guda_lightning.attribution.gradients import GradientInfluence
from guda_lightning.attribution.pieces import FittedByPieces
from guda_lightning.attribution.preconditioned_ascent import PreconditionedAscent
from guda_lightning.attribution.query_unlearning import QueryUnlearning
from guda_lightning.diffusion import FullModel
from guda_lightning.distributed.ranks import Ranks
from toys import gray_queries, shades

CONTEXT = AttributionContext(FullModel(linear_model(64), None, "linear"), shades(4))
ASKED = gray_queries(*"abcde")
ASCENT = PreconditionedAscent(kernel="none", noises=2)


class Stop(Exception):
    pass


@pytest.mark.parametrize(
    "attributor",
    [
        NDA(patch=3),
        QueryUnlearning(ASCENT, members=2, strata=1, draws=2),
        GradientInfluence(strata=1, training_strata=2),
        GradientInfluence("mean", "gram", squared=True, dims=8, strata=1, training_strata=2),
    ],
    ids=["nda", "abu", "tracin", "das"],
)
def test_an_interrupted_scoring_goes_on(
    attributor: Attributor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = attributor.fit(CONTEXT)
    assert isinstance(whole, FittedByPieces)
    expected, kind = whole.score(ASKED), type(whole)
    measure: Any = kind._measure  # type: ignore[attr-defined]
    seen: list[str] = []

    def going_on(self: Any, *arguments: Any) -> Any:
        seen.append("".join(arguments[-1].ids))
        return measure(self, *arguments)

    def stopping(self: Any, *arguments: Any) -> Any:
        if seen:
            raise Stop
        return going_on(self, *arguments)

    monkeypatch.setattr(kind, "at_once", 2)
    monkeypatch.setattr(kind, "_measure", stopping)
    with pytest.raises(Stop):
        attributor.fit(CONTEXT).keeping(tmp_path).score(ASKED)
    monkeypatch.setattr(kind, "_measure", going_on)
    again = attributor.fit(CONTEXT).keeping(tmp_path)
    assert 5 * again.evaluations(ASKED) == 3 * whole.evaluations(ASKED)
    found = again.score(ASKED)
    assert seen == ["ab", "cd", "e"] and again.evaluations(ASKED) == 0
    assert found.record == expected.record
    for weighting in expected.weightings:
        mine, theirs = (table.select(weighting=weighting) for table in (found, expected))
        torch.testing.assert_close(mine.matrix(), theirs.matrix(), rtol=1e-6, atol=0)
        torch.testing.assert_close(mine.stderr_matrix(), theirs.stderr_matrix(), rtol=1e-6, atol=0)
    if expected.maps is not None and found.maps is not None:
        torch.testing.assert_close(found.maps.shares, expected.maps.shares)
    # Other queries, and another scoring that begins in the same folder, take nothing of it.
    assert again.left(gray_queries(*"abcdx"), Ranks()) == 1
    assert replace(attributor, seed=1).fit(CONTEXT).keeping(tmp_path).left(ASKED, Ranks()) == 5  # type: ignore[type-var]
