"""What every attributor is: a configuration that fits a context, and what scores queries then."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from guda_lightning.counterfactuals import CounterfactualStore
from guda_lightning.data import GroupDataModule
from guda_lightning.data.grouping import Grouping
from guda_lightning.diffusion import FullModel
from guda_lightning.distributed.execution import Execution
from guda_lightning.errors import ConfigError, GroupError, QueryError
from guda_lightning.scores import ScoreRecord, ScoreTable
from guda_lightning.storage.provenance import Provenance
from guda_lightning.types import Queries

if TYPE_CHECKING:
    from typing_extensions import Self

_ROW_BYTES = 512  # of a score under three weightings, while its table is built


@dataclass(frozen=True, eq=False)
class AttributionContext:
    """All that attributors work on.

    Attributes:
        full: The full model.
        data: The training data; None for attributors that need none.
        grouping: Who belongs to which group; None takes that of the data, and without data the groups that
            are stored.
        store: Folder of the counterfactuals, RUN/store; None where there are none.
        cache: Folder for squared errors, one file a model: an interrupted scoring continues there, and the
            full model's errors serve every method. None keeps nothing.
        features: Folder for what is computed of the training samples alone, RUN/features: an interrupted
            preparation continues there. None keeps nothing.
        execution: Where and how to compute; changes no score.

    Raises:
        DataError: The data have another size than the full model takes.
    """

    full: FullModel
    data: GroupDataModule | None = None
    grouping: Grouping | None = None
    store: Path | None = None
    cache: Path | None = None
    features: Path | None = None
    execution: Execution = Execution()  # noqa: RUF009  (frozen)

    def __post_init__(self) -> None:
        if self.data is None:
            return
        self.data.take_size(self.full.model.sample_size)
        if self.grouping is None:
            object.__setattr__(self, "grouping", self.data.grouping)

    @cached_property
    def provenance(self) -> Provenance:
        """What counterfactuals must have been made from."""
        grouping_hash = None if self.grouping is None else self.grouping.hash
        if self.data is None:
            return self.full.provenance(grouping_hash)
        return self.full.provenance(grouping_hash, self.data.input_shape, self.data.hash)

    def open_store(self, folder: str | Path | None) -> CounterfactualStore:
        """The store at a folder; None takes the context's own.

        Raises:
            ConfigError: There is neither.
        """
        chosen = folder or self.store
        if chosen is None:
            raise ConfigError(
                "no store of counterfactuals is configured",
                found="store=None",
                expected="a folder, of the attributor or of the context",
                fix="pass store=RUN/store",
            )
        return CounterfactualStore(chosen)


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedAttributor(ABC):
    """Scores queries against groups; immutable. Subclasses are frozen dataclasses.

    Attributes:
        groups: The groups that ``score`` scores, in order.
        method: Its name in score tables and their files.
        seed: Seed of what it scores with, such as counterfactuals.
    """

    groups: tuple[str, ...]
    method: str
    seed: int = 0

    def prepare(self) -> None:  # noqa: B027  (most need none)
        """Compute what scoring needs of the training samples, once, if it needs anything that takes long.

        All ranks call it before the first ``score``. What it computes is kept in the context's ``features``,
        part by part; a second call, in this process or another, finds it there.
        """

    def preparation(self) -> int:
        """Network evaluations that ``prepare`` still needs; a backward pass counts as two."""
        return 0

    def kept(self) -> tuple[Path, ...]:
        """Files and folders in the context's ``features`` that ``prepare`` fills and scoring reads.

        What they cost is told once for all scores that read the same.
        """
        return ()

    def made(self) -> tuple[Path, ...]:
        """Folders of weights that are made before and that scoring reads, each with the record of its cost.

        Such as those of counterfactuals, or of a posterior and its parts.
        """
        return ()

    @abstractmethod
    def score(self, queries: Queries) -> ScoreTable:
        """Score every query against every group.

        Args:
            queries: ``Q`` queries, the same on all ranks of the execution.

        Returns:
            ``Q × groups`` rows for each weighting, on all ranks; what a user should know of this scoring
            besides its scores is in ``ScoreTable.notes``.

        Raises:
            QueryError: There are no queries.
        """

    @abstractmethod
    def record(self, queries: Queries) -> ScoreRecord:
        """What identifies the scores of these queries.

        Of other queries, its ``query_hash`` (and ``encoders``) differ and nothing else.
        """

    def evaluations(self, queries: Queries) -> int:
        """Network evaluations that scoring these queries still needs, at most."""
        return 0

    def keeping(self, folder: Path) -> Self:
        """The same; where ``score`` takes long for each query, it goes on there if it was interrupted.

        Args:
            folder: Folder of one score table, for what is known of some queries; it goes with the last one.
        """
        return self

    def bytes_per_query(self) -> int:
        """About how much memory ``score`` needs for every query besides its picture."""
        return _ROW_BYTES * len(self.groups)


class Attributor(ABC):
    """Configuration of anything that scores query × group.

    A new one is one file: a frozen dataclass whose fields are its options, and the `FittedAttributor` that
    its ``fit`` returns. A YAML names it by ``class_path``.
    """

    @abstractmethod
    def fit(self, context: AttributionContext) -> FittedAttributor:
        """Find or compute what scoring needs, and refuse what does not fit.

        Args:
            context: The full model, data, groups and store.

        Raises:
            GudaError: Something that the attributor needs is missing, or was made from something else.
        """


def refuse_no_queries(queries: Queries) -> None:
    """Refuse to score nothing.

    Raises:
        QueryError: There are no queries.
    """
    if not len(queries):
        raise QueryError(
            "there is nothing to score",
            found="0 queries",
            expected="at least one image",
            fix="run `guda sample`, or pass --queries FILE|FOLDER",
        )


def training_data(context: AttributionContext, method: str) -> tuple[GroupDataModule, Grouping]:
    """The training data and their groups, for a method that compares queries with them.

    Raises:
        ConfigError: There are no training data.
        GroupError: The groups are those of other data.
    """
    data, grouping = context.data, context.grouping
    if data is None or grouping is None:
        raise ConfigError(
            f"{method} needs the training images",
            found="no data",
            expected="the datamodule of the training data",
            fix="pass AttributionContext(data=datamodule)",
        )
    if grouping.num_samples != len(data.ids):
        raise GroupError(
            "the groups are those of other training data",
            found=f"groups over {grouping.num_samples} samples",
            expected=f"groups over {len(data.ids)} samples",
            fix="take the grouping of the same data section",
        )
    return data, grouping


def sizes_of(grouping: Grouping, groups: Sequence[str]) -> dict[str, int]:
    """Number of training samples of each scored group, such as ``3`` or, as one, ``3+7``."""
    return {name: len(grouping.forget(grouping.coalition(name))) for name in groups}


def refuse_unlike(queries: Queries, data: GroupDataModule) -> None:
    """Refuse queries that cannot be compared with the training data.

    Raises:
        QueryError: They have another shape, or pixels that are no numbers.
    """
    shape = tuple(queries.images.shape[1:])
    if shape != data.image_shape:
        raise QueryError(
            "the queries are not of the training images' shape",
            found=f"{shape}: channels, height, width",
            expected=data.image_shape,
            fix="resize and convert them, or pass --resize true",
        )
    finite = queries.images.flatten(1).isfinite().all(dim=1)
    if not finite.all():
        raise QueryError(
            f"the query '{queries.ids[int((~finite).nonzero()[0])]}' has pixels that are no numbers",
            found=f"{int((~finite).sum())} such queries",
            expected="finite pixels in [-1, 1]",
            fix="draw or export them again",
        )
