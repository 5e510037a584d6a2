"""Several processes: ranks, strategies, and weights that are sharded over them."""

from guda_lightning.distributed.execution import Execution
from guda_lightning.distributed.ranks import ALONE, Ranks
from guda_lightning.distributed.strategies import FSDP2Strategy

__all__ = ["ALONE", "Execution", "FSDP2Strategy", "Ranks"]
