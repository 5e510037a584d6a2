"""What identifies scores of one kind: those of counterfactuals, races, coalitions, similarities, ..."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar, Final, Literal

# What keys the noise of a query, by which tables of before, whose records do not say it, are told.
NoiseKey = Literal["name", "content"]
NAME: Final = "name"
CONTENT: Final = "content"


@dataclass(frozen=True, kw_only=True)
class Details:
    """What identifies scores of one kind beside what all kinds share."""

    kind: ClassVar[str]
    of_full: ClassVar[bool] = False  # whether scores are differences from the full model's likelihood

    @property
    def weights(self) -> frozenset[str]:
        """Hashes of the stored weights that made the scores."""
        return frozenset()

    @property
    def recipe(self) -> Mapping[str, object]:
        """What scores share that differ in nothing but the seed of what was made for them."""
        return {"kind": self.kind}

    def to_json(self) -> dict[str, Any]:
        """The entries, by name."""
        return entries_of(self)

    @classmethod
    def from_json(cls, entries: Mapping[str, Any]) -> Details:
        """The details of what ``to_json`` gave.

        Raises:
            ValueError: There is an entry that this kind does not have, or one is missing.
        """
        return cls(**_known(cls, entries))


@dataclass(frozen=True, kw_only=True)
class ModelDetails(Details):
    """Details of scores by counterfactuals.

    Attributes:
        hparams_hash: Hash of the hyper-parameters that they were made with.
        classifier: Identity of the posterior that all of them follow from; None where each is a network.
        sized: Whether their scores have the size of retraining by construction, beside its order.
    """

    hparams_hash: str | None = None
    classifier: str | None = None
    sized: bool = False

    @property
    def weights(self) -> frozenset[str]:
        """Hashes of the stored weights that made the scores."""
        return frozenset([self.classifier] if self.classifier else [])

    @property
    def recipe(self) -> Mapping[str, object]:
        """What scores share that differ in nothing but the seed of what was made for them."""
        return {**super().recipe, "hparams_hash": self.hparams_hash}


@dataclass(frozen=True, kw_only=True)
class Likelihood(ModelDetails):
    """Differences of evidence lower bounds, which derive from stored squared errors.

    Attributes:
        counterfactuals: Hash of the counterfactual of each group.
        weightings: Those that the table has; one that lacks any is made again, from stored errors.
    """

    kind = "likelihood"
    of_full = True
    counterfactuals: Mapping[str, str]
    weightings: Sequence[str] = ()

    @property
    def weights(self) -> frozenset[str]:
        """Hashes of the stored weights that made the scores."""
        return super().weights or frozenset(self.counterfactuals.values())


@dataclass(frozen=True, kw_only=True)
class Ensemble(Likelihood):
    """Differences between means of an ensemble's members: the ensemble is attributed, and no full model.

    They are relative, a group's effect against that of the others: signs say nothing of a group by itself.

    Attributes:
        members: Hash of the weights of each member.
        unseen: Positions of the members that never saw a group, for each group.
    """

    kind = "ensemble"
    of_full = False
    members: Sequence[str]
    unseen: Mapping[str, Sequence[int]]

    @property
    def weights(self) -> frozenset[str]:
        """Hashes of the stored weights that made the scores."""
        return frozenset(self.members)

    @property
    def recipe(self) -> Mapping[str, object]:
        """What scores share that differ in nothing but the seed of what was made for them."""
        one_each = any(len(members) == 1 for members in self.unseen.values())  # others need two, for an error
        return {**super().recipe, "members": len(self.members), "leave_one_out": one_each}


@dataclass(frozen=True, kw_only=True)
class Screened(Likelihood):
    """Scores of some groups, after cheap scores had screened out the others, which have none.

    Attributes:
        screen: Hash of the record of the cheap scores.
        screened_by: The method that made them.
        screen_weighting: The weighting that ranked the groups.
        out: Names of the groups that were screened out.
    """

    kind = "screened"
    screen: str
    screened_by: str
    screen_weighting: str
    out: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Race(ModelDetails):
    """Scores that stopped early, when the leading groups of a query were known.

    Attributes:
        models: Hash of the counterfactual of each group.
        top: Number of leading groups.
        delta: Allowed error of a query.
        rounds: Rounds before the first decision, and rounds at most.
        race_weighting: The weighting of the race.
        weightings: Those of a table without a race.
    """

    kind = "race"
    models: Mapping[str, str]
    top: int
    delta: float
    rounds: Sequence[int]
    race_weighting: str
    weightings: Sequence[str] = ()

    @property
    def weights(self) -> frozenset[str]:
        """Hashes of the stored weights that made the scores."""
        return super().weights or frozenset(self.models.values())


@dataclass(frozen=True, kw_only=True)
class Coalitions(ModelDetails):
    """Values of groups, or interactions of pairs, from scores of coalitions.

    Attributes:
        coalitions: Hash of the counterfactuals of all coalitions.
        worth: Kind of value.
        draws: Draws of coalitions.
        reference: The group that always stays.
        weightings: Those that the table has.
    """

    kind = "coalitions"
    coalitions: str
    worth: str
    draws: int
    reference: str | None
    weightings: Sequence[str] = ()

    @property
    def pairs(self) -> bool:
        """Whether they are interactions of pairs of groups."""
        return self.worth.endswith("_interactions")


@dataclass(frozen=True, kw_only=True)
class SetWorth(ModelDetails):
    """What groups do to a property of a whole set of samples, by a model that is guided away from coalitions.

    Attributes:
        property: Name of the property.
        property_hash: Its identity.
        worth: Kind of value.
        coalitions: Hash of the names of the coalitions.
        count: Draws of coalitions; 0 where each group is left out by itself.
        reference: The group that always stays.
        images: Images of each coalition.
        steps: Denoising steps of an image.
        prompts: Hash of the prompts of the images, of a text-to-image model.
    """

    kind = "set worth"
    property: str
    property_hash: str
    worth: str
    coalitions: str
    count: int
    reference: str | None
    images: int
    steps: int
    prompts: str | None = None


@dataclass(frozen=True, kw_only=True)
class Similarity(Details):
    """Similarities to training images.

    Attributes:
        images_hash: Hash of the training images.
        mirrored: Whether training mirrored them.
        top: Number of most similar images that are averaged; None for all of a group.
        encoder: Identity of what made the features that are compared; None for pixels.
    """

    kind = "similarity"
    images_hash: str
    mirrored: bool
    top: int | None
    encoder: str | None = None


@dataclass(frozen=True, kw_only=True)
class NonParametric(Details):
    """Shares of training samples in noised queries, without a model.

    Attributes:
        data_hash: Identity of the training data.
        mirrored: Whether training mirrored them.
        schedule: Hash of the noise schedule.
        options: How they are compared, as JSON values.
        noise: What keys the noise of a query: its ``name``, as in tables of before, or its ``content``.
    """

    kind = "nonparametric"
    data_hash: str
    mirrored: bool
    schedule: str
    options: Mapping[str, Any]
    noise: NoiseKey = NAME


@dataclass(frozen=True, kw_only=True)
class Influence(Details):
    """Estimates of what removing a group does, from one full model and its gradients: no model without it.

    Attributes:
        data_hash: Identity of the training data.
        mirrored: Whether training mirrored them.
        options: How it is estimated, as JSON values.
    """

    kind = "influence"
    data_hash: str
    mirrored: bool
    options: Mapping[str, Any]

    @property
    def forgets_queries(self) -> bool:
        """Whether queries are unlearned, and groups are judged by what that does to their samples."""
        return "ascent" in self.options


@dataclass(frozen=True, kw_only=True)
class Student(Details):
    """Scores of a model that is being unlearned."""

    kind = "student"


@dataclass(frozen=True, kw_only=True)
class RandomGroups(Details):
    """Scores of groups dealt at random, for a placebo test of other scores.

    Attributes:
        of: Hash of the record of the scores that are tested.
        partitions: Number of random partitions.
        level: Allowed share of false discoveries.
        near_duplicate_pairs: Number of pairs of training images in different groups that are nearly the same.
        near_duplicates: ``first`` and ``second`` of some of them.
    """

    kind = "random groups"
    of: str
    partitions: int
    level: float
    near_duplicate_pairs: int
    near_duplicates: Sequence[Mapping[str, str]]


@dataclass(frozen=True, kw_only=True)
class Custom(Details):
    """Scores of an attributor that is defined elsewhere.

    Attributes:
        entries: What identifies them, as JSON values; names that differ from those of `ScoreRecord`.
    """

    kind = "custom"
    entries: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The entries, by name."""
        return dict(self.entries)

    @classmethod
    def from_json(cls, entries: Mapping[str, Any]) -> Custom:
        """The details of what ``to_json`` gave."""
        return cls(entries=dict(entries))


def entries_of(record: Any) -> dict[str, Any]:
    """The fields of a record by name, without those that have their default."""
    values = {one.name: getattr(record, one.name) for one in fields(record)}
    return {one.name: values[one.name] for one in fields(record) if values[one.name] != _default(one)}


def _default(one: Any) -> Any:
    return one.default if one.default_factory is MISSING else one.default_factory()


def _known(kind: type[Details], entries: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a kind, which has no others."""
    names = {one.name for one in fields(kind)}
    needed = {one.name for one in fields(kind) if _default(one) is MISSING}
    if needed - entries.keys() or entries.keys() - names:
        raise ValueError(
            f"a record of {kind.kind} with the entries {', '.join(sorted(entries))}; it needs "
            f"{', '.join(sorted(needed))}"
        )
    return dict(entries)
