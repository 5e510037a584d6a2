"""``Guided``: a student that learns what guidance by a posterior would predict."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, get_args

from torch import Tensor

from guda_lightning.data.forget_retain import UnlearnDataModule
from guda_lightning.diffusion import DiffusionModel
from guda_lightning.diffusion.module import Noised
from guda_lightning.functional.guidance import guide_output
from guda_lightning.posteriors import (
    GUIDANCE,
    KINDS,
    GroupPosterior,
    PosteriorName,
    PosteriorRecord,
    PosteriorStore,
    open_posterior,
)
from guda_lightning.unlearning.bound import BoundObjective, ForgetTerm, ObjectiveContext
from guda_lightning.unlearning.objective import NOT_USED, Objective, Preserve, identified


def _identity(guided: Guided) -> str:
    return guided.record.weights_hash


@dataclass(frozen=True, kw_only=True)
class Guided(Objective):
    """Regress the student on the full model guided away from the groups, on forget and retain samples alike.

    Makes a real unlearned model, to sample from and to export, out of a posterior that ``guda guide`` made.
    By the patch kernel it is a ReTrack whose forget target has the right size.

    Args:
        forget_weight: λ, the factor of the term on forget samples, >= 0.
        store: Folder of the store that holds the posterior, RUN/store.
        posterior: Kind of the posterior.
        seed: Seed of the posterior.
        start: Start of the hash of its hyper-parameters, where the store holds several.
    """

    name: ClassVar[str] = "guided"
    # What identifies a posterior says which one it is, wherever it lies and however it was made.
    store: str = field(metadata=NOT_USED)
    posterior: PosteriorName = field(default=GUIDANCE, metadata=identified(by=_identity))
    seed: int = field(default=0, metadata=NOT_USED)
    start: str | None = field(default=None, metadata=NOT_USED)
    preserve: Preserve = field(default="denoise", init=False, metadata=NOT_USED)

    def __post_init__(self) -> None:
        super().__post_init__()
        kinds = get_args(PosteriorName)
        self.require("posterior", self.posterior in kinds, ", ".join(kinds))

    @property
    def variant(self) -> str:
        """``guided``, with the kind of the posterior where it is not the usual one."""
        return self.name if self.posterior == GUIDANCE else f"{self.name}_{self.posterior}"

    @property
    def opened(self) -> PosteriorStore:
        """The store that holds the posterior."""
        return PosteriorStore(self.store)

    @property
    def record(self) -> PosteriorRecord:
        """How the posterior was made."""
        return self.opened.find(self.posterior, seed=self.seed, hparams=self.start)

    @property
    def sized(self) -> bool:
        """As the guidance of its posterior."""
        return KINDS[self.posterior].posterior.sized and self.record.is_settled

    @property
    def full_passes(self) -> int:
        """On forget and on retain samples; what the posterior takes besides depends on its kind."""
        return 2

    def bind(self, context: ObjectiveContext) -> BoundGuided:
        """See ``Objective.bind``: reads the posterior.

        Raises:
            StoreError: There is none, or one made from another full model, grouping or schedule.
            GroupError: It does not know a group.
            ConfigError: It is computed from the training data, and there are none.
        """
        data = context.data
        posterior, _ = open_posterior(
            self.opened,
            self.posterior,
            context.schedule,
            seed=self.seed,
            hparams=self.start,
            data=data.parent if isinstance(data, UnlearnDataModule) else None,
            expect=context.provenance,
            device=context.device,
        )
        return BoundGuided(self, context, posterior)


class BoundGuided(BoundObjective):
    """``Guided`` of one counterfactual.

    Args:
        objective: The hyper-parameters.
        context: What the counterfactual is made from.
        posterior: Of the groups.
    """

    def __init__(self, objective: Guided, context: ObjectiveContext, posterior: GroupPosterior) -> None:
        super().__init__(objective, context)
        self._posterior, self._removed = posterior, posterior.removed([context.groups])

    def forget_term(self, noised: Noised, student: DiffusionModel, full: DiffusionModel) -> ForgetTerm:
        """Target: the guided output of the full model."""
        return ForgetTerm(self._target(noised, full))

    def preserve_target(self, noised: Noised, student: DiffusionModel, full: DiffusionModel) -> Tensor:
        """The guided output on retain samples, ``[batch, ...]``: guidance moves them as well, if less."""
        return self._target(noised, full)

    def _target(self, noised: Noised, full: DiffusionModel) -> Tensor:
        output = full.output(noised.x_t, noised.timesteps, noised.labels)
        corrections = self._posterior.corrections(noised.x_t, noised.timesteps, noised.labels)
        return guide_output(
            output, corrections(self._removed)[:, 0], noised.gamma, noised.sigma, full.prediction
        )
