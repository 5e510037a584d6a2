"""The attributors of stored counterfactuals: they open a complete store and never train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

from guda_lightning.attribution.attributor import AttributionContext, Attributor
from guda_lightning.attribution.elbo import FittedELBOAttributor, likelihood, scored_groups
from guda_lightning.attribution.guidance import FittedGuidance
from guda_lightning.attribution.networks import FittedNetworks
from guda_lightning.counterfactuals import CounterfactualStore
from guda_lightning.counterfactuals.selection import several_operators, unknown_operator
from guda_lightning.data.group_names import GroupNames
from guda_lightning.posteriors import GUIDANCE, KINDS, PosteriorStore, open_posterior
from guda_lightning.scores.scoring import Scoring
from guda_lightning.storage.files import sha256_json


@dataclass(frozen=True)
class CounterfactualAttributor(Attributor):
    """``ELBO(full) − ELBO(counterfactual)`` for every group in a store.

    Args:
        store: Folder of the store; None takes that of the context.
        operator: Which counterfactuals: the name of an objective, such as ``guided``, ``retrain``, or the
            kind of a posterior, such as ``guidance``; None where the store holds one kind.
        scoring: How to score.
        seed: Seed that they were made with.
        hparams: Start of the hash of their hyper-parameters, where the store holds several kinds.
        groups: Groups to score, such as ``3`` or, removed together, ``3+7``; None takes all groups of the
            grouping that have samples, or of the store where there is no grouping.
    """

    store: str | Path | None = None
    operator: str | None = None
    scoring: Scoring = Scoring()  # noqa: RUF009  (frozen)
    _: KW_ONLY
    seed: int = 0
    hparams: str | None = None
    groups: Sequence[str] | None = None

    def fit(self, context: AttributionContext) -> FittedELBOAttributor:
        """Find the counterfactual of every group and refuse what was made from something else.

        Args:
            context: The full model; the grouping, if any, that the counterfactuals must have been made from.

        Raises:
            StoreError: One is missing, incomplete, or made from another full model, grouping or schedule.
            GroupError: A group does not exist, or covers all data.
            ConfigError: No store is configured.
        """
        store = context.open_store(self.store)
        kind = kind_of(store, self.operator)
        if kind is not None:
            return self._fit_posterior(context, store, kind)
        return self._fit_networks(context, store)

    def _fit_networks(self, context: AttributionContext, store: CounterfactualStore) -> FittedNetworks:
        chosen, expect = scored_groups(context, self.groups) or None, context.provenance
        keys = store.select(self.operator, self.seed, hparams=self.hparams, groups=chosen)
        first = next(iter(keys.values()))
        records = {group: store.check(key, expect=expect) for group, key in keys.items()}
        hashes = {group: record.weights_hash for group, record in records.items()}
        sized = all(record.sized for record in records.values())
        return FittedNetworks(
            groups=tuple(keys),
            method=first.operator,
            seed=self.seed,
            context=context,
            scoring=self.scoring,
            details=likelihood(hashes, first.hparams_hash, sized=sized),
            input_shape=next((record.input_shape for record in records.values()), None),
            store=store,
            keys=keys,
        )

    def _fit_posterior(
        self, context: AttributionContext, store: CounterfactualStore, kind: str
    ) -> FittedGuidance:
        scored_groups(context, self.groups)  # refuses unknown ones before the posterior is read
        posteriors = PosteriorStore(store.root)
        posterior, record = open_posterior(
            posteriors,
            kind,
            context.full.model.schedule,
            seed=self.seed,
            hparams=self.hparams,
            data=context.data,
            expect=context.provenance,
            device=context.execution.device,
        )
        known, identity, sized = posterior.groups, record.weights_hash, posterior.sized and record.is_settled
        groups = scored_groups(context, self.groups, sorted(known))
        hashes = {group: sha256_json([kind, context.full.hash, identity, group]) for group in groups}
        coalitions = list(map(GroupNames(known).coalition, groups))
        return FittedGuidance(
            groups=groups,
            method=kind,
            seed=self.seed,
            context=context,
            scoring=self.scoring,
            details=likelihood(hashes, record.hparams_hash, identity, sized=sized),
            input_shape=record.input_shape,
            posterior=posterior,
            removed=posterior.removed(coalitions),
            folders=posteriors.folders(record),
        )


@dataclass(frozen=True)
class GuidanceAttributor(CounterfactualAttributor):
    """``ELBO(full) − ELBO(full, guided away from the group)``, from the mixture of a store.

    Args:
        store: Folder of the store; None takes that of the context.
        scoring: How to score.
        seed: Seed of the posterior.
        hparams: Start of the hash of its hyper-parameters, where the store holds several.
        groups: Groups to score; None takes all groups of the grouping that have samples, or of the posterior
            where there is no grouping.
    """

    operator: str | None = field(default=GUIDANCE, init=False)


def kind_of(store: CounterfactualStore, operator: str | None) -> str | None:
    """The kind of posterior that the counterfactuals follow from; None where each is a network.

    Raises:
        StoreError: None was named, and the store holds several kinds of counterfactuals; or the one that was
            named is neither a kind of posterior nor an operator of a store that holds posteriors.
    """
    if operator in KINDS:
        return operator
    kinds, networks = PosteriorStore(store.root).methods(), store.operators()
    if operator is not None:
        if kinds and operator not in networks:
            raise unknown_operator(store.root, operator, [*kinds, *networks])
        return None
    if len(kinds) + len(networks) > 1 and kinds:
        raise several_operators(store.root, [*kinds, *networks])
    return kinds[0] if kinds else None
