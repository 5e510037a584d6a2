"""How far a student is to forget a group, by the posterior."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from guda_lightning.attribution.attributor import AttributionContext
from guda_lightning.attribution.probing import Probes, losses_of, predictor_in, probing
from guda_lightning.attribution.scoring import squared_errors
from guda_lightning.data import GroupDataModule
from guda_lightning.diffusion import DiffusionModel
from guda_lightning.errors import ConfigError, StoreError
from guda_lightning.scores import Scoring
from guda_lightning.types import Queries


@dataclass(frozen=True, eq=False)
class ForgetTarget:
    """Samples of a group, and by how much their loss is to rise.

    Attributes:
        samples: Training samples of the group.
        scoring: Where their loss is measured.
        full: Their loss under the full model, in nats together.
        predicted: By how much it is expected to rise.
    """

    samples: Queries
    scoring: Scoring
    full: float
    predicted: float

    @classmethod
    def of(cls, context: AttributionContext, data: GroupDataModule, group: str, seed: int) -> ForgetTarget:
        """The target of a group, or of several joined.

        Args:
            context: Full model, groups and store.
            data: The training data of the full model.
            group: Its name.
            seed: As for ``posterior_in``.

        Raises:
            StoreError: There is no posterior.
            ConfigError: It expects no loss, so that nothing would tell when to stop.
        """
        model, predictor = context.full.model, predictor_in(context, seed, [group], Scoring())
        if predictor is None:
            raise StoreError(
                f"there is no posterior in {context.store} to unlearn until its prediction",
                found="none of this full model, noise schedule and groups",
                expected="a posterior of these groups",
                fix="run guda guide first, or leave out --until",
            )
        probes = Probes.of(data, [group], model.conditional)
        samples = probes.samples.take(probes.own[:, 0].nonzero().flatten().tolist())
        scoring = probing(model.schedule, predictor.scoring)
        everything = torch.ones(len(samples), 1, dtype=torch.bool)
        full, errors, timesteps = predictor.measure(samples, scoring, everything)
        losses = [losses_of(one, timesteps, model.schedule, scoring).sum() for one in (full, errors[0])]
        target = cls(samples, scoring, float(losses[0]), float(losses[1] - losses[0]))
        if target.predicted <= 0:
            raise ConfigError(
                f"the posterior predicts no loss on samples of '{group}' to unlearn until",
                found=f"{target.predicted:.3g} nats",
                expected="more than 0",
                fix="leave out --until",
            )
        return target

    def reached(self, model: DiffusionModel, device: torch.device | str) -> float:
        """How far a student has forgotten, in what is predicted."""
        errors, timesteps = squared_errors(model, self.samples, self.scoring, device=device)
        found = float(losses_of(errors, timesteps, model.schedule, self.scoring).sum())
        return (found - self.full) / self.predicted
