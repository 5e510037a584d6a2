"""``Guided``: a student that learns what guidance by a classifier would predict."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from guda_lightning.diffusion import DiffusionModel
from guda_lightning.diffusion.module import Noised
from guda_lightning.functional.guidance import guide_output
from guda_lightning.posteriors import ClassifierPosterior, ClassifierStore, GroupPosterior, open_posterior
from guda_lightning.unlearning.objective import (
    BoundObjective,
    ForgetTerm,
    Objective,
    ObjectiveContext,
    Preserve,
    identified,
)


def _weights_hash(guided: Guided) -> str | None:
    return guided.opened.find(seed=guided.seed, hparams=guided.classifier).weights_hash


def _never(_: Objective) -> bool:
    return False


@dataclass(frozen=True, kw_only=True)
class Guided(Objective):
    """Regress the student on the full model guided away from the groups, on forget and retain samples alike.

    Makes a real unlearned model, to sample from and to export, out of the classifier that ``guda guide``
    trained.

    Args:
        forget_weight: λ, the factor of the term on forget samples, >= 0.
        store: Folder of the store that holds the classifier, RUN/store.
        seed: Seed of the classifier.
        classifier: Start of the hash of its hyper-parameters, where the store holds several.
    """

    name: ClassVar[str] = "guided"
    # The classifier's weights say which one it is, wherever it lies and however it was trained.
    store: str = field(metadata=identified(when=_never))
    seed: int = field(default=0, metadata=identified(when=_never))
    classifier: str | None = field(default=None, metadata=identified(by=_weights_hash))
    preserve: Preserve = field(default="denoise", init=False, metadata=identified(when=_never))  # not used

    @property
    def opened(self) -> ClassifierStore:
        """The store that holds the classifier."""
        return ClassifierStore(self.store)

    @property
    def sized(self) -> bool:
        """As the classifier's guidance."""
        return ClassifierPosterior.sized

    @property
    def full_passes(self) -> int:
        """On forget and on retain samples; the classifier's own cost is small beside them."""
        return 2

    def bind(self, context: ObjectiveContext) -> BoundGuided:
        """See ``Objective.bind``: reads the classifier.

        Raises:
            StoreError: There is none, or one made from another full model, grouping or schedule.
            GroupError: It does not know a group.
        """
        posterior = open_posterior(
            self.opened,
            context.schedule,
            seed=self.seed,
            hparams=self.classifier,
            expect=context.provenance,
            device=context.device,
        ).posterior
        return BoundGuided(self, context, posterior)


class BoundGuided(BoundObjective):
    """``Guided`` of one counterfactual.

    Args:
        objective: The hyper-parameters.
        context: What the counterfactual is made from.
        posterior: The classifier.
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
