"""Score tables compared with those of an oracle."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from guda_lightning.data.group_names import requested_groups
from guda_lightning.diffusion import open_schedule
from guda_lightning.errors import ConfigError, StoreError
from guda_lightning.evaluation.agreement import agreement
from guda_lightning.evaluation.calibration import calibrate, choose, refuse_none_held_out
from guda_lightning.evaluation.fade import fade
from guda_lightning.evaluation.magnitudes import magnitudes
from guda_lightning.evaluation.matrices import Tables, matrices_of, oracle_matrices
from guda_lightning.evaluation.races import only_decided, race_note, race_of
from guda_lightning.evaluation.result import DISJOINT, EVERY, OPTIONAL, SHARED, Evaluation
from guda_lightning.evaluation.tables import PLURAL, SAME, reason
from guda_lightning.scores import ScoreTable
from guda_lightning.scores.kinds import Ensemble, Likelihood
from guda_lightning.scores.stored import stored_errors, table_of_draw
from guda_lightning.storage.full_record import FullRecord
from guda_lightning.storage.runs import RunFolder

OFFSET = (
    "No oracle seed is known to be the full model's: oracle scores carry an offset per query. Rankings and "
    "magnitudes within queries are free of it; those over all queries and across them, and signs, are not."
)


LEVEL, SEED = 0.95, 0  # of intervals and of their resamples
ENSEMBLE = (
    "The oracle is an ensemble: exact for the mean of its members, some of which never saw a group, and not "
    "for the full model. Its scores set a group against the other groups: read their order within a query; "
    "their size and sign are no group's own, and it has no FADE."
)
_FRAMES = ("metrics", "comparisons", "magnitudes")


def compare(
    methods: Tables,
    oracles: Tables,
    run: RunFolder,
    *,
    per: Literal["group", "sample"] = "group",
    calibration: str | None = None,
    resamples: int = 2000,
    notes: Sequence[str] = (),
) -> Evaluation:
    """Compare tables that fit each other; ``run`` has the squared errors that they derive from.

    Raises:
        ConfigError: There is nothing to compare, or no group left to test a calibration on.
        GroupError: A group to calibrate on does not exist.
    """
    methods, races, of_races = _races(methods, per)
    _refuse_too_little(methods, oracles)
    first = next(iter(oracles.values()))
    chosen = [] if calibration is None else requested_groups(calibration, first.groups)
    refuse_none_held_out(first.groups, chosen)
    reference, ensemble = paired_with_full(run, oracles), isinstance(first.record.details, Ensemble)
    if reference is None and per == "sample":
        raise ConfigError(
            "scores per sample need an oracle of the full model's seed",
            found=f"oracle seeds {', '.join(str(t.seeds[0]) for t in oracles.values())}",
            expected="the full model's seed: other seeds and ensembles add an offset to every group",
            fix="guda retrain and guda attribute for that seed too",
        )
    by_noise, of_noise = _by_noise(run, methods, oracles)
    faded = None if ensemble else [name for name, table in methods.items() if table.record.details.of_full]
    setting = _Setting(first, per, reference, races, faded, chosen, resamples)
    parts = [
        setting.compared(weighting, noise, *sides)
        for weighting in first.weightings
        for noise, sides in by_noise.items()
    ]
    record = {
        "methods": {name: table.record.hash for name, table in methods.items()},
        "oracles": {name: table.record.hash for name, table in oracles.items()},
        "oracle_seeds": [table.seeds[0] for table in oracles.values()],
        **{name: value for name in SAME if (value := getattr(first.record, name)) is not None},
        "queries": len(first.queries),
        "groups": list(first.groups),
        "groups_scored": max(len(table.groups) for table in (first, *methods.values())),
        "per": per,
        "calibration_groups": chosen,
        "resamples": resamples,
        "level": LEVEL,
        "seed": SEED,
        "notes": [*notes, *of_races, *_about_oracle(reference, ensemble), *of_noise],
        **({"oracle": Ensemble.kind} if ensemble else {}),
    }
    joined = {name: _joined([part[name] for part in parts if name in part]) for name in _FRAMES}
    for name in OPTIONAL:
        some = [part[name] for part in parts if name in part]
        joined |= {name: _joined(some)} if some else {}
    return Evaluation(**joined, record=record)


@dataclass(frozen=True)
class _Setting:
    """What all comparisons of an evaluation share."""

    first: ScoreTable  # whose queries and groups give the order
    per: Literal["group", "sample"]
    reference: str | None  # the oracle of the full model's seed
    races: Mapping[str, int]
    faded: Collection[str] | None  # methods with a FADE; None where the oracle has none
    calibration_groups: Sequence[str]
    resamples: int

    def compared(
        self, weighting: str, noise: str, methods: Tables, held_out: Tables, yardstick: Tables
    ) -> dict[str, pd.DataFrame]:
        """Frames by their name in `Evaluation`; none where no method has the weighting."""
        scores = matrices_of(methods, weighting, self.first, self.per)
        if not scores and len(yardstick) < 2:
            return {}
        seeds = self._oracles(yardstick, weighting)
        found = agreement(
            scores,
            seeds,
            held_out=self._oracles(held_out, weighting),
            resamples=self.resamples,
            level=LEVEL,
            seed=SEED,
        )
        labels = {"weighting": weighting, "noise": noise, "per": self.per}
        frames = {
            name: _labelled(only_decided(getattr(found, name), self.races), **labels) for name in _FRAMES
        }
        sized = {name: matrix for name, matrix in scores.items() if name not in self.races}
        likelihoods = {name: sized[name] for name in sized if name in (self.faded or ())}
        if (
            noise == EVERY
            and self.per == "group"
            and self.faded is not None
            and (likelihoods or len(seeds) > 1)
        ):
            groups = list(self.first.groups)
            found_fade = fade(likelihoods, seeds, groups, resamples=self.resamples, level=LEVEL, seed=SEED)
            frames["fade"] = _labelled(found_fade, weighting=weighting)
        if noise == EVERY and self.calibration_groups and sized:
            fitted = self._calibration(sized, seeds.mean(dim=0))
            frames["calibration"] = _labelled(fitted, **labels)
        return frames

    def _calibration(self, methods: Mapping[str, Tensor], oracle: Tensor) -> pd.DataFrame:
        """Each method's line to the oracle, in the order of how well it does on the calibration groups alone.

        The first is the preferred one, unless even its scores run against the oracle. ``slope, low, high``
        are those of the oracle on the calibrated scores of the other groups: 1 where the size is right.
        """
        groups, chosen = self.first.groups, self.calibration_groups
        held_out = [column for column, group in enumerate(groups) if group not in chosen]
        rows: list[dict[str, Any]] = []
        for candidate in choose(methods, oracle, groups, chosen).to_dict("records"):
            method = str(candidate["candidate"])
            fitted = calibrate(methods[method], oracle, groups, chosen)
            numbers = {name: getattr(fitted, name) for name in _CALIBRATION}
            calibrated = {method: fitted.apply(methods[method])[:, held_out]}
            size = magnitudes(
                calibrated, oracle[None, :, held_out], resamples=self.resamples, level=LEVEL, seed=SEED
            ).iloc[0]
            preferred = not rows and fitted.scale > 0
            rows.append(
                {
                    "method": method,
                    "preferred": preferred,
                    "fitted_r2": candidate["r2"],
                    **numbers,
                    **{"slope": size["value"], "low": size["low"], "high": size["high"]},
                }
            )
        return pd.DataFrame(rows)

    def _oracles(self, tables: Tables, weighting: str) -> Tensor:
        """``[seeds, queries, groups]``."""
        return torch.stack(
            list(oracle_matrices(tables, weighting, self.first, self.per, self.reference).values())
        )


def _by_noise(
    run: RunFolder, methods: Tables, oracles: Tables
) -> tuple[dict[str, tuple[Tables, Tables, Tables]], list[str]]:
    """Methods, held-out oracle seeds and yardstick by the noise that they share, and why some is left out."""
    compared = {EVERY: (methods, oracles, oracles)}
    try:
        one, other = _single_draws(run, {**oracles, **methods})
    except (StoreError, ConfigError) as error:
        return compared, [f"Agreement on disjoint noise is left out: {reason(error, run)}"]
    of_methods, of_oracles = ({name: one[name] for name in side} for side in (methods, oracles))
    compared[SHARED] = (of_methods, of_oracles, of_oracles)
    compared[DISJOINT] = (of_methods, of_oracles, {name: other[name] for name in oracles})
    return compared, []


def _about_oracle(reference: str | None, ensemble: bool) -> list[str]:
    """What a reader should know of the oracle."""
    return [ENSEMBLE] if ensemble else [] if reference else [OFFSET]


def _joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(frames, ignore_index=True)


def _races(methods: Tables, per: str) -> tuple[Tables, dict[str, int], list[str]]:
    """The methods that can be compared, how many leading groups those of a race were about, and notes."""
    races = {name: top for name, table in methods.items() if (top := race_of(table)) is not None}
    if per == "group":
        return methods, races, [race_note(name, top) for name, top in races.items()]
    kept = {name: table for name, table in methods.items() if name not in races}
    left_out = "is left out: a race finds the groups that lead as a whole, not per sample"
    return kept, {}, [f"{name} {left_out}" for name in races]


def _refuse_too_little(methods: Tables, oracles: Tables) -> None:
    if not methods and len(oracles) < 2:
        raise ConfigError(
            "there is nothing to compare with the oracle",
            found=f"one oracle seed, {next(iter(oracles))}, and no score table of a method",
            expected="a method, or a second oracle seed",
            fix="run guda unlearn and guda attribute, or guda retrain -c ... --seeds 0,1",
        )
    first = next(iter(oracles.values()))
    for kind, names in (("query", first.queries), ("group", first.groups)):
        if len(names) < 2:
            raise ConfigError(
                f"one {kind} is too few to compare rankings",
                found=f"the oracle has only the {kind} '{names[0]}'",
                expected=f"at least two {PLURAL[kind]}",
                fix=f"score more {PLURAL[kind]} with guda attribute",
            )


def _single_draws(run: RunFolder, tables: Tables) -> tuple[Tables, Tables]:
    """Every table as its first draw alone, and as its second draw alone, would have given it.

    A table that does not derive from squared errors, such as similarity, is the same in both.

    Raises:
        StoreError: Squared errors are gone, or were measured on different noise.
        ConfigError: There are too few.
    """
    noises = {
        name: (
            record.scoring.plan,
            record.scoring.seed,
            record.scoring.noise,
            record.provenance.schedule_hash,
        )
        for name, table in tables.items()
        if isinstance((record := table.record).details, Likelihood) and record.scoring and record.provenance
    }
    different = [name for name, noise in noises.items() if noise != next(iter(noises.values()))]
    if not noises or different:
        raise StoreError(
            "the tables do not share noise",
            found=f"{different[0]} and {next(iter(noises))} differ in draws, timesteps, seed or what keys it"
            if different
            else "no table derives from squared errors",
            expected="tables scored alike",
            fix="score them with the same options of guda attribute",
        )
    plan, *_ = next(iter(noises.values()))
    if plan["draws"] < 2 or len(plan["starts"]) < 2:
        raise ConfigError(
            "it needs two draws and two strata",
            found=f"scored with draws {plan['draws']}, strata {len(plan['starts'])}",
            expected="two of each",
            fix="guda attribute -c ... --scoring.draws 2",
        )
    schedule = open_schedule(run.full)
    one, other = dict(tables), dict(tables)
    for name in noises:
        errors = stored_errors(tables[name], run.errors)
        one[name], other[name] = (table_of_draw(tables[name], errors, schedule, draw) for draw in (0, 1))
    return one, other


def paired_with_full(run: RunFolder, oracles: Tables) -> str | None:
    """The oracle's table of the seed that the full model was trained with, if both are known."""
    record = FullRecord.of_run(run.full)
    first = next(iter(oracles.values()), None)
    if first is None or isinstance(first.record.details, Ensemble):  # its models are none of a seed
        return None
    if record is None or record.seed is None or record.full_hash != first.record.full_hash:
        return None
    return next((name for name, table in oracles.items() if table.seeds[0] == record.seed), None)


_CALIBRATION = ("scale", "offset", "r2", "error", "uncalibrated_error")


def _labelled(frame: pd.DataFrame, **labels: str) -> pd.DataFrame:
    """The frame with columns in front that hold one value each."""
    return frame.assign(**labels)[[*labels, *frame.columns]]
