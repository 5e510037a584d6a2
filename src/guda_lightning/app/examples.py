"""The run's own queries, to try the page with, and what was drawn beside them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from guda_lightning.data import QueryFolder
from guda_lightning.errors import QueryError
from guda_lightning.report.without_section import drawn_beside
from guda_lightning.storage.runs import RunFolder
from guda_lightning.types import Queries

MAX_EXAMPLES = 24


@dataclass(frozen=True, eq=False)
class Examples:
    """The first queries of a run.

    Attributes:
        run: The run folder.
        full_hash: Hash of the full model's weights.
        queries: At most ``MAX_EXAMPLES``; None where the run has none.
    """

    run: RunFolder
    full_hash: str
    queries: Queries | None

    @classmethod
    def of(cls, run: RunFolder, image_shape: tuple[int, int, int], full_hash: str) -> Examples:
        """Those of RUN/queries.

        Args:
            run: The run folder.
            image_shape: Channels, height and width of a picture.
            full_hash: Hash of the full model's weights.

        Raises:
            QueryError: They cannot be read.
        """
        if not run.queries.is_dir():
            return cls(run, full_hash, None)
        folder = QueryFolder(run.queries, image_shape)
        return cls(run, full_hash, folder.load(range(min(MAX_EXAMPLES, len(folder)))))

    def one(self, query_id: str) -> Queries:
        """One of them.

        Raises:
            QueryError: There is none of that name.
        """
        if self.queries is None or query_id not in self.queries.ids:
            raise QueryError(
                "there is no such example",
                found=repr(query_id),
                expected="a query that the page shows",
                fix="load the page again, or drop a picture",
            )
        return self.queries.take([self.queries.ids.index(query_id)])

    def without(self, query_id: str, group: str, operator: str, counterfactual: str | None) -> Tensor | None:
        """What ``guda sample --without`` has drawn from the noise of a query, if it has.

        Args:
            query_id: The query.
            group: What is left out.
            operator: The kind of the posterior.
            counterfactual: Hash of its weights.

        Returns:
            ``[channels, height, width]`` in [-1, 1], or None.
        """
        assert self.queries is not None  # the query is one of them
        _, channels, height, width = self.queries.images.shape
        shape = (channels, height, width)
        wanted = {"without": group, "operator": operator, "counterfactual": counterfactual}
        for path, config in drawn_beside(self.run, self.full_hash, shape).items():
            folder = QueryFolder(path, shape)
            if all(config.get(name) == value for name, value in wanted.items()) and query_id in folder.ids:
                return folder.load([folder.ids.index(query_id)]).images[0]
        return None
