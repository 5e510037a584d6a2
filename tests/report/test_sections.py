from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import altair as alt
import pandas as pd
import pytest
import torch
from lightning.pytorch.loggers import WandbLogger
from markupsafe import escape

from guda_lightning.errors import ConfigError
from guda_lightning.report.logged import log_section
from guda_lightning.report.section import Section
from guda_lightning.report.wandb import closing_runs
from guda_lightning.scores import ScoreTable
from toys import message
from wandb_files import runs

HOSTILE = "</script><b>&\"'"


def _section() -> Section:
    frame = pd.DataFrame({"group": ["a", "b"], "value": [1, 2]})
    return Section(
        name="audit",
        title=f"Groups {HOSTILE}",
        lines=[f"Two groups. {HOSTILE}"],
        columns=["group", "samples"],
        rows=[[HOSTILE, "3"], ["b", "4"]],
        chart=alt.Chart(frame).mark_bar().encode(x="value", y="group"),
        chart_text=f"bars {HOSTILE}",
        pictures={HOSTILE: torch.rand(2, 1, 8, 8) * 2 - 1},
    )


def test_the_page_shows_a_section_as_text(
    page: Callable[..., Path], score_table: Callable[..., ScoreTable]
) -> None:
    text = page(score_table(torch.randn(3, 2)), sections=[_section()]).read_text("utf-8")
    shown = text[text.index('<section id="audit"') :]
    shown = shown[: shown.index("</section>")]
    assert HOSTILE not in shown and str(escape(HOSTILE)) in shown
    assert shown.count("<td>3</td>") == shown.count("<td>4</td>") == 1
    assert shown.count("data:image/png") == 2 and shown.count("data:image/svg+xml") == 1


def test_rows_fit_their_columns() -> None:
    wrong = message(
        "a row of the section x does not fit its columns",
        "1 cells: a",
        "2: a, b",
        "give every row a cell a column",
    )
    with pytest.raises(ConfigError, match=wrong):
        Section(name="x", title="X", lines=[], columns=["a", "b"], rows=[["a"]])


def test_wandb_gets_what_the_page_shows(tmp_path: Path) -> None:
    with closing_runs():
        log_section([WandbLogger(name="x", save_dir=tmp_path, offline=True)], _section(), {"of": "all"})
    run = runs(tmp_path)["x"]
    assert run.config["of"] == "all"
    assert run.table("audit/table")[:2] == (["group", "samples"], [[HOSTILE, "3"], ["b", "4"]])
    assert run.table("audit/answer")[1] == [[f"Two groups. {HOSTILE}"]]
    assert {"audit/chart", "audit/pictures"} <= run.whole["summary"].keys()
