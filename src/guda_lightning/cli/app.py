"""``guda app``: a local page that answers for any picture."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from guda_lightning.cli.arguments import Arguments
from guda_lightning.cli.commands import Command, Stage
from guda_lightning.cli.stage import run_on
from guda_lightning.errors import ConfigError, MissingExtraError
from guda_lightning.storage.full_record import FullRecord
from guda_lightning.storage.leftovers import tidy
from guda_lightning.storage.paths import refuse_no_run
from guda_lightning.storage.runs import RunFolder

if TYPE_CHECKING:
    from guda_lightning.stages.opened import Configured, Run

_NEEDED = ("jinja2", "starlette", "uvicorn")
PORT = 8800


def run(command: Command, arguments: Sequence[str]) -> int:
    """Serve it until Ctrl-C."""
    parser = Arguments(command)
    parser.add_argument("run", type=Path, help="run folder with a posterior, as guda guide makes it")
    parser.add_argument(
        "--by", default="guidance", metavar="POSTERIOR", help="which posterior of it (default: guidance)"
    )
    parser.add_config("configuration of the run; default: that of RUN/full, where guda fit trained it")
    parser.add_argument(
        "--full", metavar="PATH", help="with -c: the full model, where the configuration does not name it"
    )
    parser.add_argument(
        "--port", type=int, default=PORT, help=f"port of the page, 0 for any free one (default: {PORT})"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: 127.0.0.1, this machine alone; 0.0.0.0: whoever reaches it)",
    )
    chosen = parser.parse_args(arguments)
    folder = refuse_no_run(chosen.run)
    for package in _NEEDED:
        if find_spec(package) is None:
            raise MissingExtraError(package, "app")
    if not chosen.config:  # refused before torch is imported
        FullRecord.of_fit(RunFolder(folder), "pass -c with the configuration of this run")
        if chosen.full is not None:
            raise ConfigError(
                "--full goes with a configuration, which says what the model was trained on",
                found=f"--full {chosen.full}",
                expected="-c FILE beside it",
                fix="add -c with the configuration of this run, or leave out --full",
            )
    with _listening(chosen.host, chosen.port) as listener:
        print(f"app: reading {folder}", flush=True)
        tidy(folder)
        from guda_lightning.app.server import serve

        run = _opened(command, folder, chosen.config, chosen.full)
        serve(run, chosen.by, listener, chosen.host)
    return 0


def _opened(command: Command, folder: Path, configs: Sequence[str], full: str | None) -> Run | Configured:
    """The run, by the configuration that is given or that of RUN/full."""
    from guda_lightning.stages.opened import open_run

    if not configs:
        return open_run(folder)
    stage = Stage(
        command.name, command.summary, command.example, function="opened.configured_run", noted=False
    )
    run: Configured = run_on(stage, RunFolder(folder), configs, {"full": full})
    return run


def _listening(host: str, port: int) -> socket.socket:
    """A socket at an address.

    Raises:
        ConfigError: The address is no address of this machine, or taken.
    """
    try:
        host.encode("idna")  # a socket that is given no name of a machine is never closed
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError, UnicodeError) as error:
        raise ConfigError(
            f"guda app cannot listen on {host}, port {port}",
            found=getattr(error, "strerror", None) or error,
            expected="an address of this machine and a free port, 0 to 65535",
            fix="pass --port 0 for any free one, or another --host",
        ) from error
