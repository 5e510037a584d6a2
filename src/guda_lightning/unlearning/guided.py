"""``Guided``: a student that learns what guidance by a classifier would predict."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from guda_lightning.diffusion import DiffusionModel
from guda_lightning.diffusion.module import Noised
from guda_lightning.functional.guidance import guide_output
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.posteriors import ClassifierStore, open_posterior
from guda_lightning.storage.provenance import Provenance
from guda_lightning.unlearning.objectives import ForgetTerm, Objective


class Guided(Objective):
    """Regress the student on the full model guided away from the groups, on forget and retain samples alike.

    Makes a real unlearned model, to sample from and to export, out of the classifier that ``guda guide``
    trained.

    Args:
        store: Folder of the store that holds the classifier, RUN/store.
        forget_weight: λ, the factor of the term on forget samples.
        seed: Seed of the classifier.
        classifier: Start of the hash of its hyper-parameters, where the store holds several.
    """

    full_passes = 2  # on forget and on retain samples; the classifier's own cost is small beside them

    def __init__(
        self, store: str, forget_weight: float = 1.0, seed: int = 0, classifier: str | None = None
    ) -> None:
        super().__init__(forget_weight)
        self._store, self._seed, self._classifier = ClassifierStore(store), seed, classifier

    @property
    def hparams(self) -> dict[str, object]:
        """See ``Objective.hparams``; what sets one classifier apart from another is its weights.

        Raises:
            StoreError: There is no such classifier.
        """
        record = self._store.find(seed=self._seed, hparams=self._classifier)
        return {"forget_weight": self.forget_weight, "classifier": record.weights_hash}

    def bind(
        self,
        groups: Sequence[str],
        schedule: NoiseSchedule,
        made_from: Provenance,
        device: torch.device,
    ) -> None:
        """Read the classifier.

        Raises:
            StoreError: There is none, or one made from another full model, grouping or schedule.
            GroupError: It does not know a group.
        """
        self._posterior = open_posterior(
            self._store,
            schedule,
            seed=self._seed,
            hparams=self._classifier,
            expect=made_from,
            device=device,
        ).posterior
        self._removed = self._posterior.removed([groups])

    def forget_term(self, batch: Noised, student: DiffusionModel, full: DiffusionModel) -> ForgetTerm:
        """Target: the guided output of the full model."""
        return ForgetTerm(self._target(batch, full), torch.ones(len(batch.x_t), device=batch.x_t.device))

    def preserve_target(self, batch: Noised, student: DiffusionModel, full: DiffusionModel) -> Tensor:
        """The same on retain samples: guidance moves them as well, if less."""
        return self._target(batch, full)

    def _target(self, batch: Noised, full: DiffusionModel) -> Tensor:
        output = full.output(batch.x_t, batch.timesteps, batch.labels)
        gradient = self._posterior.gradient(batch.x_t, batch.timesteps, self._removed, batch.labels)
        return guide_output(output, gradient, batch.gamma, batch.sigma, full.prediction)
