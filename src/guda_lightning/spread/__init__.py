"""Counterfactuals that are made in other processes: here, or on a Ray cluster."""

from guda_lightning.spread.base import Ended, Executor
from guda_lightning.spread.processes import Processes
from guda_lightning.spread.ray_cluster import RayCluster
from guda_lightning.spread.task import Task

__all__ = ["Ended", "Executor", "Processes", "RayCluster", "Task"]
