"""Training images with their groups, and queries."""

from __future__ import annotations

from guda_lightning.data.datamodule import GroupDataModule
from guda_lightning.data.duplicates import NearDuplicate, near_duplicates
from guda_lightning.data.held_out import HeldOutDataModule
from guda_lightning.data.parquet import HubDataset, Parquet
from guda_lightning.data.prompted_folder import PromptedFolder
from guda_lightning.data.prompts import PromptParts, PromptTemplate, read_prompts
from guda_lightning.data.queries import QueryHash, query_hash, save_queries
from guda_lightning.data.query_folder import QueryFolder, load_queries
from guda_lightning.data.sources import Digits, ImageFolder
from guda_lightning.data.styled import Styled
from guda_lightning.data.table import ImageTable, Source
from guda_lightning.data.unlearn import UnlearnDataModule

__all__ = [
    "Digits",
    "GroupDataModule",
    "HeldOutDataModule",
    "HubDataset",
    "ImageFolder",
    "ImageTable",
    "NearDuplicate",
    "Parquet",
    "PromptParts",
    "PromptTemplate",
    "PromptedFolder",
    "QueryFolder",
    "QueryHash",
    "Source",
    "Styled",
    "UnlearnDataModule",
    "load_queries",
    "near_duplicates",
    "query_hash",
    "read_prompts",
    "save_queries",
]
