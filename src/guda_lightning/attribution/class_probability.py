"""Class probability: what a classifier of noised samples says of a query, the rival of guidance by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from guda_lightning.attribution.attributor import AttributionContext, Attributor
from guda_lightning.attribution.trivial import FittedTrivial, groups_of
from guda_lightning.data.group_names import GroupNames
from guda_lightning.errors import ConfigError
from guda_lightning.posteriors import (
    GUIDANCE,
    ClassifierPosterior,
    GroupPosterior,
    Mixture,
    PosteriorStore,
    open_posterior,
)
from guda_lightning.types import Queries

_BATCH = 256  # queries that a classifier sees at a time


@dataclass(frozen=True)
class ClassProbability(Attributor):
    """P(group | x_0) by the classifier of a store: what guidance knows before it guides anything.

    The classifier sees the query itself, without noise, at the first scored timestep: ``x_t = γ x_0``.
    Of a mixture it is the mean over its classifiers. It ranks groups about as well as guidance where groups
    are classes, and says nothing of what a model loses without one.

    Args:
        posterior: Which posterior of RUN/store: ``guidance`` or ``classifier``.
        seed: Seed of its training.
        hparams: Start of the hash of its hyper-parameters, where the store holds several.
        groups: Groups to score, such as ``3`` or, as one, ``3+7``; None takes all that have samples.
    """

    posterior: str = GUIDANCE
    _: KW_ONLY
    seed: int = 0
    hparams: str | None = None
    groups: Sequence[str] | None = None

    def fit(self, context: AttributionContext) -> FittedTrivial:
        """Open the posterior.

        Args:
            context: The full model, its training data and groups, and the store.

        Raises:
            ConfigError: There are no training data, no store, or no classifier in the posterior.
            StoreError: There is no such posterior, or it was made from something else.
            GroupError: A group does not exist, is not the posterior's, or cannot be removed.
        """
        groups = groups_of(context, "class_probability", self.groups)
        device, schedule = context.execution.device, context.full.model.schedule
        posteriors = PosteriorStore(context.open_store(None).root)
        stored = open_posterior(
            posteriors,
            self.posterior,
            schedule,
            seed=self.seed,
            hparams=self.hparams,
            data=context.data,
            expect=context.provenance,
            device=device,
        )
        coalitions = list(map(GroupNames(stored.posterior.groups).coalition, groups))
        classifiers = _classifiers(stored.posterior, self.posterior)
        pairs = [(classifier, classifier.removed(coalitions)) for classifier in classifiers]

        def probabilities(queries: Queries) -> Tensor:
            parts = [queries.take(rows.tolist()) for rows in torch.arange(len(queries)).split(_BATCH)]
            each = [torch.cat([clean_probability(*pair, part, device) for part in parts]) for pair in pairs]
            return torch.stack(each).mean(dim=0)

        return FittedTrivial.of(
            context,
            "class_probability",
            "probability",
            groups,
            probabilities,
            seed=self.seed,
            provenance=context.provenance,
            entries={"posterior": stored.record.weights_hash},
            folders=posteriors.folders(stored.record),
        )


def clean_probability(
    classifier: ClassifierPosterior, removed: Tensor, queries: Queries, device: torch.device | str
) -> Tensor:
    """P(the clean sample is in a coalition) of queries without noise, at the first timestep that is scored.

    Args:
        classifier: The classifier, on the device.
        removed: ``[coalitions, atoms]`` bool.
        queries: ``Q`` queries.
        device: Where to compute.

    Returns:
        ``[Q, coalitions]`` float64 on the CPU.
    """
    x0 = queries.inputs.to(device)
    t = classifier.schedule.scored_timesteps[:1].to(device).expand(len(x0))
    gamma, _ = classifier.schedule.at(t, like=x0)
    labels = None if queries.labels is None else queries.labels.to(device)
    with torch.no_grad():
        of_atoms = classifier.logits(gamma * x0, t, labels).double().softmax(dim=1)
    return (of_atoms @ removed.to(of_atoms).T).cpu()


def _classifiers(posterior: GroupPosterior, kind: str) -> list[ClassifierPosterior]:
    """The classifiers that a posterior is, or is made of.

    Raises:
        ConfigError: There are none.
    """
    parts = posterior.members if isinstance(posterior, Mixture) else (posterior,)
    found = [part for part in parts if isinstance(part, ClassifierPosterior)]
    if not found:
        raise ConfigError(
            "class_probability needs a classifier",
            found=f"the posterior {kind}, which has none",
            expected="the posterior guidance or classifier",
            fix="set attributor.init_args.posterior to guidance or classifier; guda guide makes it",
        )
    return found
