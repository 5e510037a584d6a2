"""What ``guda attribute --screen`` does between the cheap scores of all groups and the true ones of few."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from guda_lightning.attribution import (
    Attributor,
    CounterfactualAttributor,
    PixelSimilarity,
    ScreenedAttributor,
    Screening,
)
from guda_lightning.attribution.screening import Screen, missed
from guda_lightning.counterfactuals import CounterfactualKey, CounterfactualStore
from guda_lightning.counterfactuals.selection import Selection, unknown_operator
from guda_lightning.errors import ConfigError
from guda_lightning.makers.costs import say
from guda_lightning.posteriors import KINDS, PosteriorStore
from guda_lightning.report.screening_text import missed_note, screened_note
from guda_lightning.scores import ScoreTable, Scoring
from guda_lightning.scores.kinds import Screened
from guda_lightning.types import Weighting

# Of some groups and a seed, makes the counterfactuals that are missing; returns all their keys.
Make = Callable[[Sequence[str], int], Sequence[CounterfactualKey]]


@dataclass(frozen=True)
class TrueScores:
    """How the groups that a screen keeps are scored.

    Attributes:
        store: Folder of the run's store.
        operator: The operator of their counterfactuals; None where the store holds one.
        hparams: Start of the hash of their hyper-parameters.
        seeds: Seeds that they were made with.
        scoring: How to score.
        make: Makes those that are missing; None refuses them.
    """

    store: Path
    operator: str | None
    hparams: str | None
    seeds: Sequence[int]
    scoring: Scoring
    make: Make | None

    def refuse_unknown(self) -> None:
        """Refuse an operator that none of the store follows from, before a screen works for its groups.

        Raises:
            StoreError: It is none of the store, or none is named and there are no networks, or several kinds.
        """
        store = CounterfactualStore(self.store)
        if self.make is not None:
            return
        known = [*PosteriorStore(self.store).methods(), *store.operators()]
        if self.operator is None:
            Selection(self.store, store.records(), self.seeds[0], self.hparams, None).only_operator()
        elif self.operator not in known:
            raise unknown_operator(self.store, self.operator, known)

    def attributors(self, screening: Screening) -> list[Attributor]:
        """What scores them, for each seed; what is missing is made first.

        Raises:
            StoreError: Some are missing and there is no objective; the command that makes them is said.
        """
        return [self._attributor(screening, seed) for seed in self.seeds]

    def _attributor(self, screening: Screening, seed: int) -> Attributor:
        kept, operator, hparams = screening.kept, self.operator, self.hparams
        if self.make is not None or operator not in KINDS:  # networks, one for each group that is kept
            store = CounterfactualStore(self.store)
            made = self.make(kept, seed) if self.make is not None else None
            key = made[0] if made else next(iter(store.select(operator, seed, hparams, kept).values()))
            operator, hparams = key.operator, key.hparams_hash
        chosen = CounterfactualAttributor(
            None, operator, self.scoring, seed=seed, hparams=hparams, groups=kept
        )
        return ScreenedAttributor(chosen, screening)


def screening_attributor(screen: Screen, scoring: Scoring, groups: Sequence[str]) -> Attributor:
    """What scores all groups cheaply: a method of the store with seed 0, or the similarity of pixels.

    Raises:
        ConfigError: There are no more groups than are to be kept.
    """
    if len(groups) <= screen.count:
        raise ConfigError(
            "there is nothing to screen out",
            found=f"{len(groups)} groups, {screen.count} of them to keep",
            expected="more groups than are kept",
            fix="keep fewer, or leave out --screen",
        )
    if screen.method == "similarity":
        return PixelSimilarity(groups=groups)
    return CounterfactualAttributor(None, screen.method, scoring, groups=groups)


def screening_of(path: Path, screen: Screen, weighting: Weighting) -> Screening:
    """What a screen leaves of the groups of a score table, which is said."""
    screening = Screening.of(ScoreTable.load_parts(path), screen.count, weighting)
    count = len(screening.kept)
    say(f"attribute: {count} of {count + len(screening.out)} groups kept: {', '.join(screening.kept)}")
    return screening


def say_missed(screen: Path, path: Path, weighting: Weighting) -> None:
    """Say what the screen may have missed."""
    details = ScoreTable.load_record(path).details
    assert isinstance(details, Screened)
    say(f"attribute: {screened_note(details, len(details.counterfactuals))}")
    for one in missed(ScoreTable.load_parts(screen), ScoreTable.load_parts(path), weighting):
        say(f"attribute: {missed_note(one)}")


def refuse_making(screen: str | None, objective: object, processes: int) -> None:
    """Refuse an objective where nothing is made with it.

    Raises:
        ConfigError: There is no screen, or there are several processes.
    """
    if objective is not None and screen is None:
        raise ConfigError(
            "attribute makes no counterfactuals, and an objective was given",
            found=f"an objective {type(objective).__name__}",
            expected="none, or a screen, which says for which groups they are made",
            fix="run guda unlearn with it first, or pass --screen guidance:20",
        )
    if objective is not None and processes > 1:
        raise ConfigError(
            "guda attribute makes counterfactuals in one process",
            found=f"{processes} processes",
            expected="one: which groups are unlearned follows from the scores of the screen",
            fix="pass --trainer.devices 1 --trainer.num_nodes 1, or leave the objective out: "
            "the command that makes what is missing is said",
        )
