"""What an objective is stored under: derived from its fields, and what it was before they were fields."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pytest

from guda_lightning.data import PromptTemplate
from guda_lightning.errors import ConfigError
from guda_lightning.storage.files import sha256_json
from guda_lightning.unlearning import (
    ESD,
    SISS,
    Anchor,
    EraseDiff,
    Finetune,
    NegGrad,
    Objective,
    ReTrack,
    ReTrackCapped,
    SalUn,
    ZeroTarget,
    identified,
)
from guda_lightning.unlearning.hparams import unlearning_hparams
from guda_lightning.unlearning.module import default_optimizer
from toys import message, quiet_trainer, shades

TEMPLATES = [
    "A depiction of {content}, artistic style featuring {style}",
    "An artwork of {content}, with {style}",
]
PLAIN = {"preserve": "denoise"}
RETRACK = {"forget_weight": 1.0, **PLAIN, "neighbours": None, "kl_cap": None, "density_ratio": False}
ANCHOR = {"forget_weight": 1.0, "preserve": "distill", "template": TEMPLATES}


# Operators and hyper-parameters of counterfactuals that are stored already: they must never change.
@pytest.mark.parametrize(
    ("objective", "operator", "hparams"),
    [
        (ReTrack(), "retrack", RETRACK),
        (
            ReTrack(forget_weight=0.03, neighbours=10, kl_cap=1.0),
            "retrack",
            {**RETRACK, "forget_weight": 0.03, "neighbours": 10, "kl_cap": 1.0},
        ),
        (
            ReTrack(density_ratio=True, preserve="distill"),
            "retrack_distill",
            {**RETRACK, "density_ratio": True, "preserve": "distill"},
        ),
        (ZeroTarget(), "zero_target", {"forget_weight": 0.03, **PLAIN}),
        (
            ZeroTarget(forget_weight=0.5, preserve="distill"),
            "zero_target_distill",
            {"forget_weight": 0.5, "preserve": "distill"},
        ),
        (NegGrad(), "neggrad", {"forget_weight": 0.03, **PLAIN}),
        (NegGrad(preserve="distill"), "neggrad_distill", {"forget_weight": 0.03, "preserve": "distill"}),
        (ReTrackCapped(), "retrack_capped", {**RETRACK, "neighbours": 10, "kl_cap": 1.0}),
        (EraseDiff(), "erasediff", {**PLAIN, "eta": 0.1}),
        (EraseDiff(preserve="distill", eta=1.0), "erasediff_distill", {"preserve": "distill", "eta": 1.0}),
        (SISS(), "siss", {"mixture": 0.5, "strength": 0.5}),
        (ESD(), "esd", {**PLAIN, "forget_weight": 0.3, "eta": 1.0, "null_label": None}),
        (
            SalUn(objective=NegGrad()),
            "salun_neggrad",
            {"objective": {"class": "NegGrad", "forget_weight": 0.03, **PLAIN}, "share": 0.5},
        ),
        (Finetune(), "finetune", {"forget_weight": 0.0, **PLAIN}),
        (
            Anchor(strategy="uniform_style"),
            "uniform_style",
            {**ANCHOR, "strategy": "uniform_style", "descriptors": 3},
        ),
        (
            Anchor(strategy="style_removed", preserve="denoise"),
            "style_removed_denoise",
            {**ANCHOR, "strategy": "style_removed", "preserve": "denoise"},
        ),
        (
            Anchor(strategy="matched_retain", template=PromptTemplate(["{content} in {style}"])),
            "matched_retain",
            {**ANCHOR, "strategy": "matched_retain", "template": ["{content} in {style}"]},
        ),
    ],
)
def test_stored_counterfactuals_keep_their_keys(
    objective: Objective, operator: str, hparams: dict[str, object]
) -> None:
    assert objective.operator == operator
    assert sha256_json(objective.hparams) == sha256_json(hparams)
    recorded = unlearning_hparams(objective, default_optimizer, None, 1, shades(), quiet_trainer(Path()))
    assert recorded["objective"] == {"class": type(objective).__name__, **hparams}


@pytest.mark.parametrize("kind", [Finetune, ReTrack, ZeroTarget, NegGrad, ESD])
def test_every_field_is_a_hyper_parameter(kind: type[Any]) -> None:
    other = {
        "forget_weight": 0.5,
        "preserve": "distill",
        "neighbours": 3,
        "kl_cap": 2.0,
        "density_ratio": True,
        "eta": 2.0,
        "null_label": 3,
    }
    assert {one.name for one in fields(kind)} == kind().hparams.keys()
    for name in (one.name for one in fields(kind) if one.init):
        assert kind(**{name: other[name]}).hparams == {**kind().hparams, name: other[name]}


def test_subclasses_without_a_name_get_their_own() -> None:
    class Mine(ReTrack):
        pass

    assert [Mine(preserve=term).operator for term in ("denoise", "distill")] == ["mine", "mine_distill"]


def test_a_field_may_be_identified_by_something_else(tmp_path: Path) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Shown(ZeroTarget):
        picture: str = field(metadata=identified(by=lambda shown: Path(shown.picture).read_text()))
        mirrored: bool = field(default=False, metadata=identified(when=lambda shown: shown.forget_weight > 0))

    pictures = [tmp_path / name for name in ("one", "other")]
    for picture in pictures:
        picture.write_text("a cat")
    one, other = (Shown(picture=str(picture)).hparams for picture in pictures)
    assert one == other == {"forget_weight": 0.03, **PLAIN, "picture": "a cat", "mirrored": False}
    assert "mirrored" not in Shown(picture=str(pictures[0]), forget_weight=0.0).hparams


def test_a_field_that_identifies_nothing_is_refused() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Shown(ZeroTarget):
        picture: Path

    expected = message(
        "picture of Shown does not identify counterfactuals",
        repr(Path("cat.png")),
        "a text, a finite number, or lists, mappings and dataclasses of these",
        "declare it as field(metadata=guda_lightning.unlearning.identified(by=...))",
    )
    with pytest.raises(ConfigError, match=expected):
        Shown(picture=Path("cat.png")).hparams  # noqa: B018


def test_an_objective_without_bind_cannot_be_made() -> None:
    class Unbound(Objective):
        pass

    with pytest.raises(TypeError, match="abstract method"):
        Unbound()  # type: ignore[abstract]


def test_an_objective_does_not_change() -> None:
    objective = ReTrack()
    with pytest.raises(AttributeError, match="cannot assign to field 'neighbours'"):
        objective.neighbours = 3  # type: ignore[misc]
