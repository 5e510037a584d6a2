"""A W&B workspace for the runs of a project: grouped by run folder, one section a command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guda_lightning import compat
from guda_lightning.errors import MissingExtraError
from guda_lightning.report.log_keys import LOGGED, Logged, LoggedBy
from guda_lightning.storage.sealed import read_sealed, write_json

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Section, Workspace

WEIGHTINGS = ("elbo", "uniform", "middle")
STEP = "trainer/global_step"


def require() -> None:
    """Refuse before any work what would fail at the first panel.

    Raises:
        MissingExtraError: wandb-workspaces is not installed.
    """
    if find_spec("wandb_workspaces") is None:
        raise MissingExtraError("wandb-workspaces", "dashboard")


def workspace(project: str, entity: str, group: str | None = None, saved: Path | None = None) -> Workspace:
    """The workspace of a project.

    Args:
        project: W&B project.
        entity: User or team that it belongs to; empty: not known yet.
        group: The W&B group of one run folder, to show its runs alone; None shows all, grouped by folder.
        saved: What ``save`` wrote for it before: pushed again, the same workspace changes.
    """
    require()
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces import expr

    by_folder, by_stage = expr.Metric("Group"), expr.Metric("JobType")
    made = ws.Workspace(
        entity=entity,
        project=project,
        name=f"guda {group or project}",
        sections=[_section(one) for one in LOGGED],
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=30, group_by_prefix="first"),
        runset_settings=ws.RunsetSettings(
            filters="" if group is None else expr.And(by_folder == group), groupby=[by_folder, by_stage]
        ),
    )
    before = {}
    if saved is not None and saved.is_file():
        before = read_sealed(saved, "remove it: a new workspace is made")
    if (before.get("entityName"), before.get("projectName")) == (entity, project):
        compat.take_place_of(made, before["name"], before["id"])
    return made


def variables(made: Workspace) -> dict[str, Any]:
    """What W&B is sent for a workspace, with its specification as JSON values."""
    view = compat.view_of(made)
    return {
        "entityName": view.entity,
        "projectName": view.project,
        "name": view.name,
        "id": view.id,
        "displayName": view.display_name,
        "type": "project-view",
        "spec": json.loads(view.spec.model_dump_json(by_alias=True, exclude_none=True)),
    }


def save(made: Workspace, path: Path) -> None:
    """Write what W&B is sent, once it is pushed with the name that W&B has given it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, variables(made))


def _section(logged: LoggedBy) -> Section:
    import wandb_workspaces.workspaces as ws

    panels = [*_plots(logged), *(_shown(key) for one in logged.keys for key in _spelled(one))]
    return ws.Section(
        name=logged.title,
        panels=[panel for panel in panels if panel is not None],
        is_open=logged.is_open,
        layout_settings=ws.SectionLayoutSettings(columns=2, rows=3),
    )


def _plots(logged: LoggedBy) -> Sequence[Any]:
    """One panel for all numbers that have a name, and one for each kind whose names are the user's."""
    from wandb_workspaces.reports.v2 import interface as wr

    numbers = [one.key for one in logged.keys if one.kind == "number"]
    named = [key for key in numbers if key == key.lower()]
    plots = [wr.LinePlot(title=key, x=STEP, y=[key]) for key in named]
    for key in numbers:
        if key not in named:
            folder = key.rpartition("/")[0]
            others = "".join(f"(?!{one.rpartition('/')[2]}$)" for one in named)
            plots.append(wr.LinePlot(title=key, x=STEP, metric_regex=f"^{folder}/{others}[^/]*$"))
    return plots


def _spelled(logged: Logged) -> Sequence[Logged]:
    if "WEIGHTING" not in logged.key:
        return [logged]
    return [Logged(logged.key.replace("WEIGHTING", w), logged.what, logged.kind) for w in WEIGHTINGS]


def _shown(logged: Logged) -> Any:
    from wandb_workspaces.reports.v2 import interface as wr

    if logged.kind == "picture":
        return wr.MediaBrowser(title=f"{logged.key}: {logged.what}", media_keys=[logged.key], num_columns=1)
    if logged.kind == "table":
        return wr.WeavePanelSummaryTable(table_name=logged.key, layout=wr.Layout(w=24, h=12))
    return None
