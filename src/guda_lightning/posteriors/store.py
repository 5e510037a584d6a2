"""Posteriors on disk, beside the counterfactuals of a run: ``ROOT/posteriors``."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from guda_lightning.counterfactuals.messages import differing_hparams
from guda_lightning.errors import StoreError
from guda_lightning.posteriors.record import PosteriorKey, PosteriorRecord
from guda_lightning.storage.files import read_json
from guda_lightning.storage.stored import WeightStore
from guda_lightning.storage.weights_record import RECORD

GUIDANCE: Final = "guidance"  # the mixture, which is what `guda guide` makes unless another kind is named
_FOLDER = "posteriors"  # in the folder of a store


class PosteriorStore(WeightStore[PosteriorKey, PosteriorRecord]):
    """The posteriors of a run, of any kind: ``record.json``, and weights where a kind has any.

    Args:
        root: Folder of the store, RUN/store; posteriors lie in its subfolder ``posteriors``.
    """

    record_type = PosteriorRecord

    def __init__(self, root: str | Path) -> None:
        super().__init__(Path(root) / _FOLDER)

    def described(self, key: PosteriorKey) -> str:
        """Which posterior."""
        return f"the {key.kind} of {', '.join(key.groups)} (seed {key.seed})"

    def command(self, key: PosteriorKey) -> str:
        """How to make it."""
        return command(key.kind, key.seed)

    def methods(self) -> list[str]:
        """The kinds to score with, sorted: those that are there for themselves, not as parts of a mixture."""
        records = self.records()
        parts = {member["name"] for record in records for member in record.members}
        kinds = {record.kind for record in records if record.key.folder_name not in parts}
        return sorted(kinds) or ([GUIDANCE] if self._old() else [])

    def find(self, kind: str, *, seed: int, hparams: str | None = None) -> PosteriorRecord:
        """The record of the one posterior that is meant.

        Args:
            kind: Which of ``KINDS``.
            seed: Seed of its training.
            hparams: Start of the hash of its hyper-parameters, where the store holds several.

        Raises:
            StoreError: There is none, there are several, or an earlier version wrote it.
        """
        every = self.records()
        found = [
            record
            for record in every
            if (record.kind, record.seed) == (kind, seed) and record.hparams_hash.startswith(hparams or "")
        ]
        if len(found) == 1:
            return found[0]
        if found:
            raise StoreError(
                f"{self.root} holds several posteriors of kind {kind}",
                found="; ".join(
                    f"{digest[:8]} ({text})" for digest, text in differing_hparams(found).items()
                ),
                expected=f"one with seed {seed}" + (f", hyper-parameters {hparams}" if hparams else ""),
                fix="pass --hparams, in Python hparams=..., with the first digits of one hash",
            )
        if not every and (old := self._old()):
            raise _written_earlier(old[0], self.root)
        listed = [f"{r.kind}, seed {r.seed}, hyper-parameters {r.hparams_hash[:8]}" for r in every]
        raise StoreError(
            f"there is no posterior of kind {kind} in {self.root}",
            found="; ".join(listed) or "none of any kind",
            expected=f"one with seed {seed}" + (f", hyper-parameters {hparams}" if hparams else ""),
            fix=command(kind, seed),
        )

    def folders(self, record: PosteriorRecord) -> tuple[Path, ...]:
        """Where a posterior and, of a mixture, its members lie."""
        return (self.path(record.key), *(self.root / member["name"] for member in record.members))

    def _old(self) -> list[Path]:
        """Folders of classifiers that earlier layouts kept elsewhere."""
        places = (f"{GUIDANCE}-*/{RECORD}", f"classifiers/*/{RECORD}")
        return sorted(path.parent for place in places for path in self.root.parent.glob(place))


def command(kind: str, seed: int = 0) -> str:
    """How to make the posterior of a kind and a seed."""
    options = [f"--posterior {kind}"] if kind != GUIDANCE else []
    options += [f"--seed {seed}"] if seed else []
    return "run guda guide" + (f" with {' '.join(options)}" if options else "")


def _written_earlier(folder: Path, root: Path) -> StoreError:
    version = read_json(folder / RECORD).get("versions", {}).get("guda_lightning", "an earlier one")
    return StoreError(
        f"{folder} holds a classifier of an earlier layout",
        found=f"a classifier that guda-lightning {version} wrote",
        expected=f"posteriors in {root}",
        fix=f"run guda guide, which trains it again, and remove {folder}",
    )
