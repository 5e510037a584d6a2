"""The benchmarks run: all of their code at a tiny size, away from the documents of the repository."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.stages import DOCS
from benchmarks.tables import write_table

# The names in the first column that tells rows apart, of the tables that a benchmark writes.
TABLES = {
    "forget-target": ["10", "all 1619"],
    "stages": ["fit", "sample", "unlearn", "attribute", "report", r"all \(peak memory \d\.\d\d GiB\)"],
    "digits": ["another oracle seed", "guidance", "retrack", "similarity"],
    "guidance": ["another oracle seed", "guidance", "guided", "retrack", "similarity"],
    "speed": ["another oracle seed", "guidance", "retrack"],
    "classifiers": ["dense (default)", "dense, 1500 steps", "another oracle seed"],
}
FIGURES = {"yardstick_digits", "evaluations", "draws", "groups", "forget_weight", "neighbours", "steps"}
