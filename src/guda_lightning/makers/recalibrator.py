"""``Recalibrator``: gives a trained classifier the groups of other data, in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from guda_lightning.data import GroupDataModule
from guda_lightning.errors import StoreError
from guda_lightning.makers.classifier_trainer import described_level
from guda_lightning.makers.posterior_maker import PosteriorMaker, clocks
from guda_lightning.posteriors import PosteriorRecord
from guda_lightning.posteriors.recalibration import WORST_LOSS, Recalibrated, recalibrate
from guda_lightning.posteriors.regrouped import Regrouped
from guda_lightning.posteriors.stored_classifier import stored_tensors
from guda_lightning.posteriors.trained import RECALIBRATED, TrainedClassifier


@dataclass(frozen=True, kw_only=True, eq=False)
class Recalibrator(PosteriorMaker):
    """Gives a trained classifier other groups, and refuses the result where it is poor.

    Attributes:
        base: The trained classifier.
    """

    base: TrainedClassifier

    operator = RECALIBRATED

    @cached_property
    def to(self) -> Regrouped:
        """What the groups keep of the trained classifier.

        Raises:
            GroupError: A new set of groups has one sample.
        """
        to = Regrouped.of(self.base.moments, self.data, self.seed)
        to.refuse_single(self.data.grouping.names)
        return to

    @property
    def cost(self) -> str:
        """It says what has to be looked at: no image of the groups that stay."""
        record = self.base.record
        return (
            f"the {record.kind} of {len(record.groups)} groups, recalibrated: {len(self.to.kept)} sets of "
            f"groups stay, {self.to.new} are new, which takes {len(self.to.fresh)} of the "
            f"{len(self.data.ids)} training images; seconds"
        )

    def make(self) -> PosteriorRecord:
        """Recalibrate, test and store the classifier.

        Raises:
            GroupError: A new set of groups has one sample.
            StoreError: It explains much less of its groups than the trained classifier did of its own.
        """
        started = clocks()
        found = recalibrate(self.base, self.data, self.to, self.seed)
        self._refuse_poor(found)
        return self._kept(
            started,
            weights=stored_tensors(found.posterior, found.moments),
            levels=[level.to_row() for level in found.levels],
            tested_on_trained=found.tested_on_trained,
            last_quarter=self.base.record.last_quarter,
            network_evaluations=found.evaluations,
        )

    def _at(self, level: Mapping[str, Any]) -> str:
        return described_level(level)

    def _refuse_poor(self, found: Recalibrated) -> None:
        """Refuse a classifier that does not tell its groups apart as the trained one did.

        Raises:
            StoreError: It explains less than what was trained, in however many steps, by more than
                ``WORST_LOSS``.
        """
        trained = self.base.trained_explained
        if found.explained < trained - WORST_LOSS:
            raise StoreError(
                "the features of the trained classifier do not tell the new groups apart",
                found=f"{found.explained:.2f} of the entropy of the groups explained on held-out samples",
                expected=f"at least {trained - WORST_LOSS:.2f}, as the trained classifier explains "
                f"{trained:.2f} of its own",
                fix="run guda guide, which trains a classifier of these groups",
            )


def recalibrated_hparams(base: TrainedClassifier, data: GroupDataModule) -> dict[str, Any]:
    """All hyper-parameters of a recalibrated classifier, as JSON values."""
    network = {name: base.record.hparams[name] for name in ("classifier", "image_shape")}
    about = {"base": base.record.weights_hash, "base_explained": base.trained_explained}
    return {**network, **about, "grouping": data.grouping.hash}
