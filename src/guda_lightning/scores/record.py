"""What identifies scores: one typed record for all kinds, and its JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from guda_lightning.scores.kinds import (
    NAME,
    Coalitions,
    Custom,
    Details,
    Ensemble,
    Influence,
    Likelihood,
    NoiseKey,
    NonParametric,
    Race,
    RandomGroups,
    Screened,
    SetWorth,
    Similarity,
    Student,
    entries_of,
)
from guda_lightning.storage.files import sha256_json
from guda_lightning.storage.provenance import Provenance

FORMAT = 2  # of stored score tables


@dataclass(frozen=True)
class ScoringRecord:
    """Noise and timesteps of scores that a network made.

    Attributes:
        seed: Seed of noise and timesteps.
        plan: The timesteps, as ``TimestepPlan.record`` gives them.
        stderr: What the standard errors are of.
        precision: Of forward passes.
        noise: What keys the noise of a query: its ``name``, as in tables of before, or its ``content``.
    """

    seed: int
    plan: Mapping[str, Any]
    stderr: str
    precision: Literal["fp32", "bf16"]
    noise: NoiseKey = NAME


@dataclass(frozen=True)
class ChunkRecord:
    """Some queries of a table that was scored in chunks.

    Attributes:
        queries: How many.
        query_hash: Identity of their images, labels and prompts.
    """

    queries: int
    query_hash: str


@dataclass(frozen=True, kw_only=True)
class Joined(Details):
    """Several tables in one.

    Attributes:
        tables: Their records.
        methods: The methods that each of them holds; empty in tables of before, which do not tell.
    """

    kind = "joined"
    tables: Sequence[ScoreRecord]
    methods: Sequence[Sequence[str]] = ()

    def to_json(self) -> dict[str, Any]:
        """The entries, by name."""
        entries: dict[str, Any] = {"tables": [table.to_json() for table in self.tables]}
        return entries | ({"methods": [list(names) for names in self.methods]} if self.methods else {})

    @classmethod
    def from_json(cls, entries: Mapping[str, Any]) -> Joined:
        """The details of what ``to_json`` gave."""
        return cls(
            tables=tuple(map(ScoreRecord.from_json, entries["tables"])),
            methods=tuple(map(tuple, entries.get("methods", ()))),
        )


@dataclass(frozen=True, eq=False)
class ScoreRecord:
    """What identifies scores; equal for those that need not be made again.

    Attributes:
        details: What only scores of this kind have.
        query_hash: Identity of the queries' images, labels and prompts.
        encoders: Identity of the encoders that the queries went through.
        provenance: Full model, noise schedule and groups; None where no model made the scores.
        grouping_hash: Hash of the groups: that of the provenance, where there is one.
        scoring: Noise and timesteps; None where no network made the scores.
        group_sizes: Number of samples in each group.
        chunks: The chunks of queries that were scored one after the other, if there were several.
        per: What a score belongs to: a whole group, or one sample of it on average.
    """

    details: Details
    query_hash: str | None = None
    encoders: str | None = None
    provenance: Provenance | None = None
    grouping_hash: str | None = None
    scoring: ScoringRecord | None = None
    group_sizes: Mapping[str, int] = field(default_factory=dict)
    chunks: Sequence[ChunkRecord] = ()
    per: Literal["group", "sample"] = "group"

    def __post_init__(self) -> None:
        if self.provenance is not None:
            object.__setattr__(self, "grouping_hash", self.provenance.grouping_hash)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ScoreRecord) and self.hash == other.hash

    def __hash__(self) -> int:
        return hash(self.hash)

    @property
    def kind(self) -> str:
        """The kind of scores."""
        return self.details.kind

    @property
    def full_hash(self) -> str | None:
        """Hash of the full model; None where no model made the scores."""
        return None if self.provenance is None else self.provenance.full_hash

    @property
    def noise(self) -> NoiseKey | None:
        """What keys the noise of a query; None where scores need none, or their own kind says it."""
        if self.scoring is not None:
            return self.scoring.noise
        if isinstance(self.details, NonParametric):
            return self.details.noise
        return self.details.entries.get("noise") if isinstance(self.details, Custom) else None

    @property
    def hash(self) -> str:
        """Hash of the JSON."""
        return sha256_json(self.to_json())

    def of_method(self, method: str) -> tuple[ScoreRecord, ...]:
        """What identifies the scores of one method: this record, or those that were joined.

        A joined record that does not tell methods apart gives all of its records.
        """
        if not isinstance(self.details, Joined):
            return (self,)
        held = self.details.methods or [[method]] * len(self.details.tables)
        pairs = zip(self.details.tables, held, strict=True)
        return tuple(one for table, names in pairs if method in names for one in table.of_method(method))

    def of_kind(self, details: Details, stderr: str) -> ScoreRecord:
        """The record of scores of another kind that follow from those of this record.

        Args:
            details: What only scores of that kind have.
            stderr: What their standard errors are of.
        """
        scoring = None if self.scoring is None else replace(self.scoring, stderr=stderr)
        return replace(self, details=details, scoring=scoring)

    def to_json(self) -> dict[str, Any]:
        """One flat mapping of JSON values; what has its default is left out."""
        entries = entries_of(self)
        return {
            **{name: entries[name] for name in _SHARED if name in entries},
            **({} if self.provenance is None else self.provenance.to_json()),
            **({} if self.scoring is None else entries_of(self.scoring)),
            **({"chunks": [entries_of(chunk) for chunk in self.chunks]} if self.chunks else {}),
            **self.details.to_json(),
        }

    def to_stored(self) -> dict[str, Any]:
        """The JSON with the version of its layout and the kind, as files hold it."""
        return {"format": FORMAT, "kind": self.kind, "record": self.to_json()}

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> ScoreRecord:
        """The record of what ``to_stored`` gave.

        Raises:
            ValueError: The format is another one, the kind is unknown, or entries are missing or unknown.
        """
        if stored["format"] != FORMAT:
            raise ValueError(f"format {stored['format']} instead of {FORMAT}")
        return cls.from_json(stored["record"], stored["kind"])

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], kind: str | None = None) -> ScoreRecord:
        """The record of what ``to_json`` gave.

        Args:
            stored: The mapping.
            kind: The kind of scores; None, as of a joined record, derives it from the entries.

        Raises:
            ValueError: The kind is unknown, or entries are missing or unknown.
        """
        details = _KINDS.get(kind or _kind_of(stored))
        if details is None:
            raise ValueError(f"scores of the kind {kind!r} instead of {', '.join(_KINDS)}")
        left = dict(stored)
        if details is Joined and any(table.get("per") == "sample" for table in stored["tables"]):
            left["per"] = "sample"  # earlier versions said it in the tables alone
        shared = {name: left.pop(name) for name in _SHARED if name in left}
        of_models = {name: left.pop(name) for name in ("full_hash", "schedule_hash") if name in left}
        measured = (
            {f.name: left.pop(f.name) for f in fields(ScoringRecord) if f.name in left}
            if "plan" in left
            else {}
        )
        chunks = tuple(ChunkRecord(**chunk) for chunk in left.pop("chunks", ()))
        return cls(
            details.from_json(left),
            **shared,
            provenance=Provenance(**of_models, grouping_hash=shared.get("grouping_hash"))
            if of_models
            else None,
            scoring=ScoringRecord(**measured) if measured else None,
            chunks=chunks,
        )


_SHARED = ("query_hash", "encoders", "grouping_hash", "group_sizes", "per")
_KINDS: Mapping[str, type[Details]] = {
    Likelihood.kind: Likelihood,
    Screened.kind: Screened,
    Ensemble.kind: Ensemble,
    Race.kind: Race,
    Coalitions.kind: Coalitions,
    SetWorth.kind: SetWorth,
    Similarity.kind: Similarity,
    NonParametric.kind: NonParametric,
    Influence.kind: Influence,
    Student.kind: Student,
    RandomGroups.kind: RandomGroups,
    Custom.kind: Custom,
    Joined.kind: Joined,
}
# An entry by which scores of one kind are told from those of the kinds below.
_MARKS: Mapping[str, type[Details]] = {
    "tables": Joined,
    "race_weighting": Race,
    "worth": Coalitions,
    "screened_by": Screened,
    "counterfactuals": Likelihood,
    "images_hash": Similarity,
    "of": RandomGroups,
    "plan": Student,
}


def _kind_of(stored: Mapping[str, Any]) -> str:
    """The kind of a record that does not say it, as those in a joined one."""
    return next((kind.kind for mark, kind in _MARKS.items() if mark in stored), Custom.kind)
