"""``guda completion``: what makes a shell complete commands, files and options."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from guda_lightning.cli.commands import COMMANDS, Command, Stage
from guda_lightning.cli.configs import shipped

# Fixed words: asking guda at every press of the key would import torch each time.
_BASH = """\
_guda() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" words=""
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="{commands}"
    elif [ "$before" = -c ] || [ "$before" = --config ]; then
        words="{files}"
    else
        case "${{COMP_WORDS[1]}}" in
{options}
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word") $(compgen -f -- "$word"))
}}
complete -o filenames -F _guda guda
"""
_ZSH = "autoload -U +X bashcompinit && bashcompinit\n"


def run(command: Command, arguments: Sequence[str]) -> int:
    """Print the script."""
    parser = argparse.ArgumentParser(
        f"guda {command.name}",
        description=f"{command.summary}.",
        epilog='For example: eval "$(guda completion bash)" in ~/.bashrc.',
    )
    parser.add_argument("shell", choices=("bash", "zsh"))
    parser.add_argument(
        "--options", action="store_true", help="complete the options of stages too; takes some seconds now"
    )
    chosen = parser.parse_args(arguments)
    stages = [stage for stage in COMMANDS if isinstance(stage, Stage)]
    options = {
        stage.name: _options(stage) if chosen.options else ["--config", "--help", "--print_config", "--run"]
        for stage in stages
    }
    options["completion"] = ["bash", "zsh", "--options"]
    print(_ZSH * (chosen.shell == "zsh") + _script(options), end="")
    return 0


def _script(options: dict[str, list[str]]) -> str:
    return _BASH.format(
        commands=" ".join(command.name for command in COMMANDS),
        files=" ".join(shipped()),
        options="\n".join(
            f'            {name}) words="{" ".join(words)}" ;;' for name, words in options.items()
        ),
    )


def _options(stage: Stage) -> list[str]:
    """All options of a stage, by its parser."""
    from guda_lightning import compat
    from guda_lightning.cli.lightning import StageCLI

    class Unparsed(StageCLI):
        def parse_arguments(self, parser: Any, args: Any) -> None:
            self.config = parser.get_defaults()

        def before_instantiate_classes(self) -> None:
            pass  # nothing will be built

    return compat.option_names(Unparsed(stage, ()).parser)
