"""The attributor of an operator's counterfactuals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from guda_lightning.attribution.counterfactual import CounterfactualAttributor
from guda_lightning.attribution.elbo import ELBOAttributor
from guda_lightning.attribution.guidance import GuidanceAttributor
from guda_lightning.counterfactuals import CounterfactualStore
from guda_lightning.counterfactuals.selection import several_operators
from guda_lightning.posteriors import GUIDANCE, ClassifierStore


def elbo_attributor(store: str | Path, operator: str | None, **options: Any) -> ELBOAttributor:
    """Of guidance, or of models that an objective or retraining made.

    Args:
        store: Folder of the store.
        operator: ``guidance``, the name of an objective, or ``retrain``; None where the store holds one kind.
        **options: As for every ``ELBOAttributor``.
    """
    if by_guidance(store, operator):
        return GuidanceAttributor(store, **options)
    return CounterfactualAttributor(store, operator, **options)


def by_guidance(store: str | Path, operator: str | None) -> bool:
    """Whether the counterfactuals are those of guidance: it was named, or the store holds nothing else.

    Raises:
        StoreError: None was named, and the store holds a classifier and counterfactuals.
    """
    if operator is not None or not ClassifierStore(store).any():
        return operator == GUIDANCE
    if operators := CounterfactualStore(store).operators():
        raise several_operators(Path(store), [GUIDANCE, *operators])
    return True
