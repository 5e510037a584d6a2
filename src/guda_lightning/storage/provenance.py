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
    """

    full_hash: str
    schedule_hash: str
    grouping_hash: str | None = None
    input_shape: tuple[int, int, int] | None = None

    def to_json(self) -> dict[str, str]:
        """The hashes that are known, by name."""
        hashes = (self.full_hash, self.schedule_hash, self.grouping_hash)
        named = zip(("full_hash", "schedule_hash", "grouping_hash"), hashes, strict=True)
        return {name: value for name, value in named if value is not None}
