"""Training images with their groups, and queries."""

from __future__ import annotations

from guda_lightning.data.datamodule import GroupDataModule
from guda_lightning.data.duplicates import NearDuplicate, near_duplicates
from guda_lightning.data.forget_retain import UnlearnDataModule
from guda_lightning.data.grouping import Grouping
from guda_lightning.data.held_out import HeldOutDataModule
from guda_lightning.data.prompts import PromptParts, PromptTemplate, read_prompts
from guda_lightning.data.queries import QueryHash, query_hash, save_queries
from guda_lightning.data.query_folder import QueryFolder, load_queries
from guda_lightning.data.sources.digits import Digits
from guda_lightning.data.sources.hub_dataset import HubDataset
from guda_lightning.data.sources.image_folder import ImageFolder
from guda_lightning.data.sources.listed import Listed
from guda_lightning.data.sources.parquet import Parquet
from guda_lightning.data.sources.prompted_folder import PromptedFolder
from guda_lightning.data.sources.source import ImageTable, Source
from guda_lightning.data.sources.styled import Styled

__all__ = [
    "Digits",
    "GroupDataModule",
    "Grouping",
    "HeldOutDataModule",
    "HubDataset",
    "ImageFolder",
    "ImageTable",
    "Listed",
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
