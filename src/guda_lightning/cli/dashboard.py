"""``guda dashboard``: a W&B workspace for the runs of a project, or of one run folder."""

from __future__ import annotations

import netrc
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from guda_lightning.cli.arguments import Arguments
from guda_lightning.cli.commands import Command
from guda_lightning.errors import ConfigError
from guda_lightning.storage.paths import refuse_no_run, user_path

_NAME = re.compile(r"[^/\\#?%:\x00-\x1f]{1,128}")
_LATER = """\
dashboard: no W&B API key here, so {path} holds what is to be sent. To push it:
  1. wandb login   (or set WANDB_API_KEY)
  2. wandb sync {runs}   (where runs were logged offline)
  3. {command}"""


def run(command: Command, arguments: Sequence[str]) -> int:
    """Push it where there is a key, else write it."""
    parser = Arguments(command)
    parser.add_argument("run", type=Path, nargs="?", help="run folder: show its runs alone")
    parser.add_argument("--project", help="W&B project; default: that of the runs in RUN/wandb")
    parser.add_argument("--entity", help="user or team in W&B; default: that of the runs, or of the key")
    chosen = parser.parse_args(arguments)
    _refuse_no_name("--project", chosen.project)
    _refuse_no_name("--entity", chosen.entity)
    project, entity, group = _of_runs(chosen.run, chosen.project, chosen.entity)
    from guda_lightning.report import workspace

    workspace.require()
    folder = Path("dashboard") if chosen.run is None else user_path(chosen.run)
    path = folder / f"{project}.json" if chosen.run is None else folder / "dashboard" / "workspace.json"
    pushed = has_key()
    if pushed:
        print("dashboard: pushing it to W&B, which takes seconds where the network reaches it", flush=True)
    made = workspace.workspace(project, entity or (_entity() if pushed else ""), group, path)
    workspace.save(made, path)
    if pushed:
        made.save()
        workspace.save(made, path)  # with the name that W&B has given it, to change it the next time
        print(f"dashboard: open {made.url}")
    else:
        again = " ".join(["guda", command.name, *arguments])
        runs = folder / "wandb" if chosen.run is not None else Path("wandb")
        print(_LATER.format(path=path, runs=runs / "offline-run-*", command=again))
    return 0


def _refuse_no_name(option: str, name: str | None) -> None:
    """Refuse what W&B does not take as a name, and no file can be called.

    Raises:
        ConfigError: It is no such name.
    """
    if name is not None and not _NAME.fullmatch(name):
        raise ConfigError(
            f"{option} is no name in W&B",
            found=repr(name),
            expected=r"1 to 128 characters, none of them / \ # ? % : or a line break",
            fix="pass the name that the page of the project shows",
        )


def has_key() -> bool:
    """Whether W&B can be reached with a key: ``WANDB_API_KEY`` or netrc, unless it is switched off."""
    if os.environ.get("WANDB_MODE", "online") in ("offline", "disabled", "dryrun"):
        return False
    if os.environ.get("WANDB_API_KEY"):
        return True
    address = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    try:
        host = urlparse(address).hostname or ""
    except ValueError as error:
        raise ConfigError(
            "WANDB_BASE_URL is no address",
            found=address,
            expected="the address of a W&B server, such as https://api.wandb.ai",
            fix="correct it, or unset it",
        ) from error
    named = os.environ.get("NETRC")
    for path in [Path(named)] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        try:
            if path.is_file() and netrc.netrc(str(path)).authenticators(host):
                return True
        except (netrc.NetrcParseError, UnicodeError, OSError) as error:
            raise ConfigError(
                f"{path} cannot be read",
                found=str(error),
                expected="a file as `wandb login` writes it",
                fix="correct it, or set WANDB_API_KEY",
            ) from error
    return False


def _entity() -> str:
    """Whose key it is, as W&B knows."""
    import wandb

    api: Any = wandb.Api()
    return str(api.default_entity)


def _of_runs(
    root: Path | None, project: str | None, entity: str | None
) -> tuple[str, str | None, str | None]:
    """Project, entity and group of the runs of a folder; what the user says comes first.

    Raises:
        StoreError: There is no such run folder.
        ConfigError: Nobody says which project.
    """
    if root is None:
        if project is None:
            raise ConfigError(
                "guda dashboard needs a run folder or a project",
                found="neither",
                expected="guda dashboard RUN, or guda dashboard --project PROJECT",
                fix="name the folder that guda run wrote, or a project in W&B",
            )
        return project, entity, None
    folder = user_path(root)
    files = sorted(folder.glob("wandb/*run-*/run-*.wandb"))
    if not files:
        refuse_no_run(root)
    found = None
    if files:
        from guda_lightning.report.wandb import run_in

        found = run_in(files[-1])
    if found is None and project is None:
        raise ConfigError(
            f"{folder} does not say which W&B project its runs are in",
            found=f"no run in {folder / 'wandb'}",
            expected="runs that a WandbLogger has logged there",
            fix="pass --project PROJECT",
        )
    there, whose, group = found or ("", "", "")
    return project or there, entity or whose or None, group or folder.resolve().name
