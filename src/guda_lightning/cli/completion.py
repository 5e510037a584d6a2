"""``guda completion``: what makes a shell complete commands, options, files and names."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from guda_lightning.cli.arguments import Arguments
from guda_lightning.cli.candidates import candidates
from guda_lightning.cli.commands import Command

# Asked at every press of the key, it answers without torch.
_BASH = """\
_guda() {{
    local IFS=$'\\n' word="${{COMP_WORDS[COMP_CWORD]}}"
    COMPREPLY=($({asked} completion words -- "${{COMP_WORDS[@]:1:COMP_CWORD}}" 2>/dev/null))
    [[ "$word" == -* ]] || COMPREPLY+=($(compgen -f -- "$word"))
}}
complete -o filenames -F _guda guda
"""
_ZSH = "autoload -U +X bashcompinit && bashcompinit\n"


def run(command: Command, arguments: Sequence[str]) -> int:
    """Print the script, or what it asks for: ``words`` and what was typed so far."""
    if arguments and arguments[0] == "words":
        typed = list(arguments[2:]) or [""]
        print("\n".join(candidates(typed)))
        return 0
    parser = Arguments(command, epilog='For example: eval "$(guda completion bash)" in ~/.bashrc.')
    parser.add_argument("shell", choices=("bash", "zsh"))
    chosen = parser.parse_args(arguments)
    asked = f"{shlex.quote(sys.executable)} -m guda_lightning"
    print(_ZSH * (chosen.shell == "zsh") + _BASH.format(asked=asked), end="")
    return 0
