"""What something was made from: the full model, its noise schedule, the groups, and the installed code."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib import metadata

from guda_lightning.version import __version__


def versions() -> dict[str, str]:
    """Versions of what computes something today, for its record."""
    packages = ("torch", "lightning", "diffusers")
    return {
        "guda_lightning": __version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
    }


@dataclass(frozen=True)
class Provenance:
    """What counterfactuals, classifiers and scores are made from; equal for those that fit each other.

    ``FullModel.provenance`` is the one place that assembles it.

    Attributes:
        full_hash: Hash of the full model.
        schedule_hash: Hash of the noise schedule.
        grouping_hash: Hash of the grouping; None where nothing says which groups there are.
        input_shape: Channels, height and width of what the model takes; None where nothing says. Weights must
            fit it; scores, which tell their queries' images, do not name it.
        data_hash: Hash of the training data; None where nothing says. The grouping tells numbers of samples
            alone, and a full model that users bring does not tell its data: pictures may be others under the
            same names. Scores tell it by the weights that they come from.
    """

    full_hash: str
    schedule_hash: str
    grouping_hash: str | None = None
    input_shape: tuple[int, int, int] | None = None
    data_hash: str | None = None

    def to_json(self) -> dict[str, str]:
        """The hashes that scores name, by name, where they are known."""
        hashes = (self.full_hash, self.schedule_hash, self.grouping_hash)
        named = zip(("full_hash", "schedule_hash", "grouping_hash"), hashes, strict=True)
        return {name: value for name, value in named if value is not None}

    def of_training(self) -> dict[str, str]:
        """The hashes that tell an unfinished training from one of something else."""
        return {**self.to_json(), **({} if self.data_hash is None else {"data_hash": self.data_hash})}
