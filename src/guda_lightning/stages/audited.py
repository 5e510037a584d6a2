"""What an audit of groups looks at, one part after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from guda_lightning.attribution import AttributionContext
from guda_lightning.data import GroupDataModule, near_duplicates
from guda_lightning.distributed.execution import Execution
from guda_lightning.evaluation.group_audit import (
    Halves,
    Pair,
    by_content,
    calibration,
    halves,
    is_tail,
    on_the_two,
    overlaps,
    same_content,
)
from guda_lightning.makers.costs import bar_of, evaluation_seconds, say_cost
from guda_lightning.posteriors.feature_moments import hashed
from guda_lightning.posteriors.held_out import HeldOut
from guda_lightning.posteriors.trained import TrainedClassifier
from guda_lightning.report.audit_section import COMMAND
from guda_lightning.scores import Scoring
from guda_lightning.stages.base import StageTrainer
from guda_lightning.stages.halving import Split, clean_features, guided_scores, scores_of
from guda_lightning.storage.frames import load_frame, save_frame
from guda_lightning.storage.leftovers import discard
from guda_lightning.storage.seals import intact
from guda_lightning.types import Queries, Weighting

_DRAWS = 8  # of timestep and noise, of each held-out sample
_NAMED = 8  # pairs of nearly equal images


@dataclass
class Missing:
    """What an audit could not look at, and why."""

    lines: list[str] = field(default_factory=list)

    def add(self, what: str, reason: str, fix: str) -> None:
        """Say what is not known, why, and what would mend it."""
        self.lines.append(f"Not known: {what}, as {reason}. To mend: {fix}.")


@dataclass(frozen=True)
class Parts:
    """What an unfinished audit has scored so far.

    Attributes:
        folder: One file a part.
        made_from: Hash of what the audit is made from; parts of another are made anew.
    """

    folder: Path
    made_from: str

    def made(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """Scores ``[queries, columns]`` of an earlier attempt, or those that are made now."""
        path = self.folder / f"{name}.parquet"
        if intact(path, "it is scored again"):
            frame, record = load_frame(path, COMMAND)
            if record["made_from"] == self.made_from:
                return torch.from_numpy(frame.to_numpy().copy())
        scores = make()
        columns = [str(number) for number in range(scores.shape[1])]
        frame = pd.DataFrame(scores.double().numpy(), columns=columns)
        save_frame(path, frame, {"made_from": self.made_from})
        return scores

    def remove(self) -> None:
        """Forget them, as the audit is complete."""
        discard(self.folder)


def static(data: GroupDataModule) -> tuple[pd.DataFrame, dict[str, Any]]:
    """What groups and images say by themselves: a row a group, and what concerns all of them."""
    grouping, shared = data.grouping, overlaps(data.grouping)
    images = data.small_images()
    apart = near_duplicates(images, grouping)
    inside = near_duplicates(images, grouping, sharing=True)
    of_apart = Counter(name for pair in apart for name in {*pair.groups_first, *pair.groups_second})
    of_inside = Counter(name for pair in inside for name in {*pair.groups_first} & {*pair.groups_second})
    table = grouping.membership()
    rows = [
        {
            "group": name,
            "samples": grouping.size(name),
            "share": grouping.size(name) / grouping.num_samples,
            "tail": is_tail(grouping.size(name), grouping),
            "overlaps": shared[name].group,
            "overlap": shared[name].jaccard,
            "across": of_apart[name],
            "inside": of_inside[name],
            "hides_two": False,
        }
        for name in grouping.names
    ]
    frame = pd.DataFrame(rows)
    numbers = ("calibration", "calibration_chance", "agree", "low", "high", "nearest_agree", "one_sided")
    for name in (*numbers, "agree_random", "one_sided_random", "pair_share"):
        frame[name] = np.nan
    frame["nearest"] = ""
    together = table.T.astype(np.int64) @ table
    return frame, {
        "samples": grouping.num_samples,
        "ungrouped": int((~table.any(axis=1)).sum()),
        "overlapping": int((np.triu(together, 1) > 0).sum()),
        "across": len(apart),
        "inside": len(inside),
        "duplicates": [[data.ids[pair.first], data.ids[pair.second]] for pair in apart[:_NAMED]],
        "pairs": 0,
        "contents": 0,
        "pair_share": None,
        "pair_stderr": None,
    }


def calibrated(
    frame: pd.DataFrame, base: TrainedClassifier, data: GroupDataModule, seed: int, missing: Missing
) -> dict[str, Any]:
    """Fill in how well the classifier is calibrated for every group, on samples it was not trained on."""
    grouping, posterior, moments = data.grouping, base.posterior, base.moments
    if not base.tells(grouping):
        missing.add(
            "calibration and pairs of the same content",
            f"the classifier tells other groups apart ({len(base.record.groups)} groups)",
            "run guda guide with today's groups",
        )
        return {"held_out": 0}
    kept_out = set(moments.sample[moments.held_out].tolist())
    rows = np.flatnonzero([number in kept_out for number in hashed(data).tolist()])
    if not len(rows):
        missing.add(
            "calibration",
            f"the classifier was made from other images (none of its {len(kept_out)} held-out samples)",
            "run guda guide with today's images",
        )
        return {"held_out": 0}
    table = torch.from_numpy(grouping.membership()[rows])
    about = (posterior.schedule, posterior.network.condition is not None, posterior.prompts)
    samples = HeldOut.of_samples(data, rows, torch.zeros(len(rows), dtype=torch.int64), *about)
    scored, found = posterior.schedule.scored_timesteps, []
    generator, temperatures = torch.Generator().manual_seed(seed), posterior.temperatures.cpu()
    for draw in range(_DRAWS):
        timesteps = scored[torch.randint(len(scored), (len(rows),), generator=generator)]
        logits = samples.logits(posterior.network, torch.arange(len(rows)), timesteps, seed + draw)
        found.append((logits / temperatures[timesteps][:, None]).double().softmax(dim=1))
    order = [posterior.groups.index(name) for name in grouping.names]
    probability = torch.stack(found) @ posterior.atoms.cpu().double()[:, order]
    for row in range(len(grouping)):
        of_group = calibration(probability[..., row].clamp(0, 1), table[:, row], seed)
        if of_group.error is not None:
            frame.loc[row, ["calibration", "calibration_chance"]] = of_group.error, of_group.chance
    return {"held_out": len(rows)}


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Scores of halves, and of pairs of queries with the same content.

    Attributes:
        trainer: The trainer of the run.
        base: The classifier that is recalibrated.
        context: Full model and data.
        queries: The queries, as the model takes them.
        scoring: How to score.
        weighting: Which scores.
        seed: Of clusters, random halves and noise.
        parts: What is there already.
    """

    trainer: StageTrainer
    base: TrainedClassifier
    context: AttributionContext
    queries: Queries
    scoring: Scoring
    weighting: Weighting
    seed: int
    parts: Parts

    def fill(self, frame: pd.DataFrame) -> dict[str, Any]:
        """Fill in what scores say; returns what concerns all groups."""
        data, full = self.context.data, self.context.full.model
        assert data is not None
        names = data.grouping.names
        paired = len(names) > 2 and self.base.tells(data.grouping)  # which of few groups are all the others
        pairs = same_content(self.queries.ids, names) if paired else []
        each = len(self.queries) * self.scoring.plan(full.schedule).evaluations
        total = each * (2 + bool(pairs))
        device = self.trainer.strategy.root_device
        seconds = total * evaluation_seconds(full, data, self.scoring.batch_size, device)
        say_cost(f"groups: {len(names)} groups in halves, twice, {total} network evaluations", seconds)
        with bar_of(self.trainer, "groups", "evaluations", total) as bar:
            context = AttributionContext(
                self.context.full, data, execution=Execution(device, on_evaluations=bar.update)
            )
            features = clean_features(self.base, context, self.seed)
            compared = []
            for at_random in (False, True):
                split = Split.of(data.grouping, features, self.seed, at_random=at_random)
                about = (split, self.queries, self.scoring, self.weighting, self.seed)
                part = f"halves-{'random' if at_random else 'clusters'}"
                scores = self.parts.made(part, partial(scores_of, self.base, context, *about))
                compared.append(halves(scores, names, split.two))
            self._fill_halves(frame, *compared)
            return self._pairs(frame, context, pairs) if pairs else {}

    def _fill_halves(
        self, frame: pd.DataFrame, found: Mapping[str, Halves], random: Mapping[str, Halves]
    ) -> None:
        for row, name in enumerate(frame["group"]):
            if name not in found:
                continue
            of = found[name]
            columns = ["agree", "low", "high", "nearest_agree", "one_sided"]
            frame.loc[row, columns] = [getattr(of, column) for column in columns]
            frame.loc[row, "nearest"] = of.nearest
            frame.loc[row, ["agree_random", "one_sided_random"]] = random[name].agree, random[name].one_sided
            frame.loc[row, "hides_two"] = of.below and not random[name].below

    def _pairs(
        self, frame: pd.DataFrame, context: AttributionContext, pairs: Sequence[Pair]
    ) -> dict[str, Any]:
        identity, posterior = self.base.record.weights_hash, self.base.posterior
        about = (identity, context, self.queries, self.scoring, self.weighting)
        scores = self.parts.made("pairs", partial(guided_scores, posterior, *about))
        share = on_the_two(scores, posterior.groups, pairs)
        pairs = [pair for pair, told in zip(pairs, share.isfinite().tolist(), strict=True) if told]
        if not pairs:
            return {}
        share = share[share.isfinite()]
        for row, name in enumerate(frame["group"]):
            of = [place for place, pair in enumerate(pairs) if name in (pair.group_first, pair.group_second)]
            if of:
                frame.loc[row, "pair_share"] = float(by_content(share[of], [pairs[at] for at in of]).mean())
        each = by_content(share, pairs)
        stderr = float(each.std() / len(each) ** 0.5) if len(each) > 1 else None
        return {
            "pairs": len(pairs),
            "contents": len(each),
            "pair_share": float(each.mean()),
            "pair_stderr": stderr,
        }
