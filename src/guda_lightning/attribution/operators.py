"""The attributor of an operator's counterfactuals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from guda_lightning.attribution.counterfactual import CounterfactualAttributor
from guda_lightning.attribution.elbo import ELBOAttributor
from guda_lightning.attribution.guidance import GuidanceAttributor
from guda_lightning.counterfactuals import GUIDANCE, CounterfactualStore


def elbo_attributor(store: str | Path, operator: str | None, **options: Any) -> ELBOAttributor:
    """Of guidance, or of models that an objective or retraining made.

    Args:
        store: Folder of the store.
        operator: ``guidance``, the name of an objective, or ``retrain``; None where the store holds one kind.
        **options: As for every ``ELBOAttributor``.
    """
    if by_guidance(CounterfactualStore(store), operator):
        return GuidanceAttributor(store, **options)
    return CounterfactualAttributor(store, operator, **options)


def by_guidance(store: CounterfactualStore, operator: str | None) -> bool:
    """Whether the counterfactuals are those of guidance: it was named, or the store holds nothing else."""
    return operator == GUIDANCE or (operator is None and store.operators() == [GUIDANCE])
