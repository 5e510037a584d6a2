"""The store of counterfactuals: models that never saw a group, each with the record of how it was made."""

from __future__ import annotations

from collections.abc import Sequence

from guda_lightning.counterfactuals.messages import command, described
from guda_lightning.counterfactuals.record import CounterfactualKey, CounterfactualRecord
from guda_lightning.counterfactuals.selection import Selection
from guda_lightning.storage.stored import WeightStore

_OLD_CLASSIFIER = "guidance"  # of version 0.1.0, which kept classifiers here (see posteriors/store.py)


class CounterfactualStore(WeightStore[CounterfactualKey, CounterfactualRecord]):
    """A folder with one subfolder per counterfactual, each whole or absent.

    Args:
        root: The folder; made when the first counterfactual is saved.
    """

    record_type = CounterfactualRecord

    def described(self, key: CounterfactualKey) -> str:
        """Which counterfactual."""
        return described(key)

    def command(self, key: CounterfactualKey) -> str:
        """How to make it."""
        return command(key.operator, key.groups, key.seed)

    def file_name(self, record: CounterfactualRecord) -> str:
        """Name of the file with its weights, or with those of its adapter."""
        return "adapter.safetensors" if "lora" in record.hparams else super().file_name(record)

    def records(self) -> list[CounterfactualRecord]:
        """Read the records of all counterfactuals, in the order of their folders' names.

        Raises:
            StoreError: A record is damaged. What an interrupted save left behind does not count.
        """
        return [record for record in super().records() if record.operator != _OLD_CLASSIFIER]

    def operators(self) -> list[str]:
        """How the counterfactuals were made, each operator once, sorted."""
        return sorted({record.operator for record in self.records()})

    def select(
        self,
        operator: str | None,
        seed: int,
        hparams: str | None = None,
        groups: Sequence[str] | None = None,
    ) -> dict[str, CounterfactualKey]:
        """Find the counterfactual of each group, all made with the same hyper-parameters.

        Those that forget several groups at once count where they are named, as ``a+b``.

        Args:
            operator: How they were made; None when the store holds one kind.
            seed: Seed of their training.
            hparams: The first digits of the hash of their hyper-parameters; None when there is only one.
            groups: Names of the groups, in the order wanted; None for all that are there, sorted.

        Raises:
            StoreError: None fits, some are missing, or several operators or sets of hyper-parameters fit.
        """
        return Selection(self.root, self.records(), seed, hparams, groups).keys(operator)
