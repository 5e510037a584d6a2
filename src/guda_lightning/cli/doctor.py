"""``guda doctor``: what is installed and what that gives, and where a run folder stands."""

from __future__ import annotations

import json
import netrc
import os
import platform
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from guda_lightning.cli.arguments import Arguments
from guda_lightning.cli.commands import Command
from guda_lightning.cli.text import table
from guda_lightning.storage.paths import refuse_no_run
from guda_lightning.storage.runs import RunFolder

if TYPE_CHECKING:
    from guda_lightning.storage.run_state import RunState

_PACKAGES = ("torch", "lightning", "diffusers", "jsonargparse", "datasets", "torchmetrics", "wandb")
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "firefox")
# What an extra of setup.cfg is for; one that is not named here is shown without.
_GIVES = {
    "report": "guda report: the page",
    "digits": "the handwritten digits of the demo",
    "ray": "counterfactuals spread over a Ray cluster",
    "text": "text-to-image pipelines and LoRA",
    "app": "guda app: attribute a dropped picture",
    "dashboard": "guda dashboard: a W&B workspace",
    "sign": "guda manifest --key: signatures",
    "foreign": "schedulers and networks of other libraries",
}
_FOR_DEVELOPERS = ("dev",)
_EXTRA = re.compile(r"""extra\s*==\s*["']([\w-]+)["']""")
_NAME = re.compile(r"[\w.-]+")
_GIGABYTE = 1e9


@dataclass(frozen=True)
class Extra:
    """Optional dependencies.

    Attributes:
        name: What follows ``guda-lightning`` in brackets.
        gives: What they are for.
        missing: Packages that are not installed.
    """

    name: str
    gives: str
    missing: tuple[str, ...]


def run(command: Command, arguments: Sequence[str]) -> int:
    """Look, and say what was found."""
    parser = Arguments(command)
    parser.add_argument("run", type=Path, nargs="?", help="run folder to look through, too")
    parser.add_argument("--json", action="store_true", help="print everything that was found, as JSON")
    chosen = parser.parse_args(arguments)
    folder = Path() if chosen.run is None else refuse_no_run(chosen.run)
    found: dict[str, Any] = {
        "versions": _versions(),
        "devices": _devices(),
        "extras": [asdict(one) for one in extras()],
        "disk_free_bytes": shutil.disk_usage(folder).free,
        "wandb": wandb_state(os.environ),
        "browser": _browser(),
    }
    state = None
    if chosen.run is not None:
        from guda_lightning.storage.run_state import run_state

        state = run_state(RunFolder(folder), hashed=True)
        found["run"] = state.to_json()
    print(json.dumps(found, indent=2) if chosen.json else _text(found, state))
    return 0


def _versions() -> dict[str, str]:
    found = {"guda-lightning": version("guda-lightning"), "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _browser() -> str | None:
    if platform.system() in ("Darwin", "Windows"):
        return "that of the system"
    return next((found for one in _BROWSERS if (found := shutil.which(one))), None)


def _devices() -> list[str]:
    """The accelerators that torch sees, and the cores; one line each."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = [f"{cores} CPU cores, {torch.get_num_threads()} threads of torch"]
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        found.append(f"cuda:{index} {about.name}, {about.total_memory / _GIGABYTE:.0f} GB")
    if torch.backends.mps.is_available():
        found.append("mps: Apple GPU")
    return found


def extras() -> list[Extra]:
    """The extras of this installation, with what they lack."""
    needed: dict[str, list[str]] = {}
    for requirement in requires("guda-lightning") or ():
        of_extra, name = _EXTRA.search(requirement), _NAME.match(requirement)
        if of_extra and name and of_extra[1] not in _FOR_DEVELOPERS:
            needed.setdefault(of_extra[1], []).append(name[0])
    return [
        Extra(name, _GIVES.get(name, ""), tuple(one for one in packages if not _installed(one)))
        for name, packages in sorted(needed.items())
    ]


def _installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return find_spec(distribution.replace("-", "_")) is not None
    return True


def wandb_state(environment: Mapping[str, str]) -> str:
    """Where W&B would log, by the environment and a netrc file; no key is read out.

    Args:
        environment: The environment variables.
    """
    mode = environment.get("WANDB_MODE", "online")
    if mode in ("offline", "disabled", "dryrun"):
        return f"{mode}, as WANDB_MODE says"
    address = environment.get("WANDB_BASE_URL", "https://api.wandb.ai")
    try:
        host = urlsplit(address).hostname or ""
    except ValueError:
        return f"not logged in: WANDB_BASE_URL is no address: {address}"
    if environment.get("WANDB_API_KEY"):
        return f"logged in to {host} by WANDB_API_KEY"
    file = Path(environment.get("NETRC") or Path.home() / ".netrc")
    try:
        known = netrc.netrc(str(file)).hosts
    except (OSError, UnicodeError, netrc.NetrcParseError):
        known = {}
    if host in known:
        return f"logged in to {host} by {file}"
    return "not logged in: runs stay offline with WANDB_MODE=offline, `wandb login` connects"


def _text(found: Mapping[str, Any], state: RunState | None) -> str:
    lines = ["installed:", *(f"  {name:<16}{number}" for name, number in found["versions"].items())]
    lines += ["", "devices:", *(f"  {line}" for line in found["devices"])]
    rows = [["extra", "state", "gives"]]
    for extra in found["extras"]:
        lacks = f'pip install "guda-lightning[{extra["name"]}]"' if extra["missing"] else "installed"
        rows.append([extra["name"], lacks, extra["gives"]])
    lines += ["", *(f"  {line}" for line in table(rows).splitlines())]
    browser = found["browser"] or "none found: copy report/index.html to a machine with one"
    lines += [
        "",
        f"disk:    {found['disk_free_bytes'] / _GIGABYTE:.1f} GB free",
        f"W&B:     {found['wandb']}",
        f"browser: {browser}",
    ]
    return "\n".join(lines if state is None else [*lines, "", *_of_run(state)])


def _of_run(state: RunState) -> list[str]:
    made = [*state.posteriors, *(f"{count} {name}" for name, count in state.counterfactuals.items())]
    lines = [
        f"{state.run}:",
        f"  full model       {state.full}",
        f"  queries          {state.queries}",
        f"  groups           {len(state.groups)}",
        f"  counterfactuals  {', '.join(made) or 'none'}",
        f"  tables           {', '.join(one.name for one in state.tables) or 'none'}",
        f"  page             {state.page}",
    ]
    for title, found in (
        ("at work", [f"{owner.path} {owner}" for owner in state.at_work]),
        ("unfinished", state.unfinished),
        ("stale", state.stale),
        ("damaged", state.damaged),
    ):
        lines += [f"  {title}:", *(f"    {line}" for line in found)] if found else []
    steps = [f"    {line}" for line in state.next]
    return [*lines, "  next:", *steps] if steps else [*lines, "  nothing is left to do"]
