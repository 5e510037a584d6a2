"""The verdicts of ``guda attribute`` on the counterfactuals that it scores with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from guda_lightning.attribution import FittedAttributor, FittedELBOAttributor, FittedEnsemble, FittedRace
from guda_lightning.attribution.probing import posterior_of, predictor_of, probe, probe_evaluations
from guda_lightning.data import GroupDataModule
from guda_lightning.evaluation.validity import judge
from guda_lightning.scores import ScoreTable, Verdict
from guda_lightning.scores.summaries import Tally
from guda_lightning.scores.views import views


@dataclass(frozen=True, eq=False)
class Judging:
    """What the counterfactuals of a table are judged by.

    Attributes:
        attributor: The counterfactuals.
        data: The training data of the full model.
        predictor: The posterior in their store that predicts what they lose; None without one.
    """

    attributor: FittedELBOAttributor
    data: GroupDataModule
    predictor: FittedELBOAttributor | None

    @classmethod
    def of(cls, attributor: FittedAttributor, data: GroupDataModule) -> Judging | None:
        """The judging of an attributor's counterfactuals; None where it does not score with one a group."""
        made = attributor.inner if isinstance(attributor, FittedRace) else attributor
        if isinstance(made, FittedEnsemble) or not isinstance(made, FittedELBOAttributor):
            return None
        return cls(made, data, predictor_of(made))

    @property
    def posterior(self) -> str | None:
        """Identity of the posterior that predicts."""
        return None if self.predictor is None else posterior_of(self.predictor)

    @property
    def evaluations(self) -> int:
        """Network evaluations that the verdicts need, at most."""
        return probe_evaluations(self.attributor, self.data, predicted=self.predictor is not None)

    def done(self, path: Path) -> bool:
        """Whether a table has the verdicts of today's posterior."""
        verdicts = ScoreTable.load_verdicts(path)
        return verdicts.keys() >= set(self.attributor.groups) and all(
            verdict.posterior == self.posterior for verdict in verdicts.values()
        )

    def verdicts(self, parts: Iterable[ScoreTable]) -> dict[str, Verdict]:
        """Judge the counterfactual of every group; all processes call this.

        Args:
            parts: The scores under one weighting, which may come in parts.
        """
        tally = Tally()
        for part in parts:
            tally.add(views(part)[0])
        leads = tally.leads()
        evidence = probe(self.attributor, self.data, self.predictor)
        return {
            group: judge(replace(one, lead=leads.get(group)), self.posterior)
            for group, one in evidence.items()
        }
