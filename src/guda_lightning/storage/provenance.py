"""What something was made from: the full model, its noise schedule, the groups, and the installed code."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
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
    """

    full_hash: str
    schedule_hash: str
    grouping_hash: str | None = None

    def to_json(self) -> dict[str, str]:
        """The entries that are known, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}
