"""Score tables, the squared errors that they derive from, and the numbers that sum them up."""

from guda_lightning.scores.record import ScoreRecord
from guda_lightning.scores.scoring import Scoring, score_table
from guda_lightning.scores.squared_errors import SquaredErrors
from guda_lightning.scores.stored import stored_errors, table_of_draw
from guda_lightning.scores.table import ScoreTable
from guda_lightning.scores.verdicts import Evidence, Grade, Lead, Rise, Verdict

__all__ = [
    "Evidence",
    "Grade",
    "Lead",
    "Rise",
    "ScoreRecord",
    "ScoreTable",
    "Scoring",
    "SquaredErrors",
    "Verdict",
    "score_table",
    "stored_errors",
    "table_of_draw",
]
