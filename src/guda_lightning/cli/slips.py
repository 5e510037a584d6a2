"""The errors for what was left out or misspelt on a command line."""

from __future__ import annotations

from collections.abc import Collection

from guda_lightning.errors import ConfigError, near


def misspelt(problem: str, found: str, name: str, known: Collection[str], help_of: str) -> ConfigError:
    """The error for an option that does not exist.

    Args:
        problem: What is wrong.
        found: What was given.
        name: The name in it, with dashes where it is a flag.
        known: The names that exist, with dashes where they are flags.
        help_of: The fix where nothing is near.
    """
    dashes = "--" if name.startswith("--") else ""  # which all flags have in common
    section, dot, last = name.removeprefix(dashes).rpartition(".")
    start = dashes + section + dot
    below = [one.removeprefix(start) for one in known if one.startswith(start)]
    meant = [start + one for one in near(last, below)] or near(name, known, 1, 0.9)  # a misspelt section
    if meant:
        return ConfigError(problem, found=found, expected=meant[0], fix=f"use {meant[0]}")
    every = ", ".join(sorted(known)) if 0 < len(known) <= 30 else "one that exists"
    return ConfigError(problem, found=found, expected=every, fix=help_of)


def bare(command: str, given: str) -> ConfigError:
    """The error for words that belong to no option.

    Args:
        command: The command, such as ``guda fit``.
        given: The words.
    """
    first = given.split()[0]
    is_config = first.endswith((".yaml", ".yml", ".json"))
    return ConfigError(
        f"{command} takes options alone",
        found=given,
        expected=f"{command} -c FILE [--OPTION VALUE ...]",
        fix=f"did you forget -c? {command} -c {first}" if is_config else f"`{command} --help` explains them",
    )


def lacking(owner: str, section: str) -> ConfigError:
    """The error for a configuration without a section that is needed.

    Args:
        owner: The command, or what needs it.
        section: ``model`` or ``data``.
    """
    return ConfigError(
        f"{owner} lacks {section}",
        found="a configuration without it",
        expected=f"a section `{section}:`",
        fix="pass a configuration with -c, such as one that `guda configs` lists",
    )


def no_run_folder(command: str) -> ConfigError:
    """The error for a stage that has nowhere to read and write."""
    return ConfigError(
        f"{command} needs a run folder",
        found="no run folder in the configuration",
        expected="a folder to read and write",
        fix="add `run: runs/mine` to the configuration, or pass --run runs/mine",
    )


def no_data(command: str) -> ConfigError:
    """The error for a stage that works on groups, and has none."""
    return ConfigError(
        f"{command} needs the training data",
        found="no data in the configuration",
        expected="a GroupDataModule, which knows the groups",
        fix="add the section `data`, as in digits.yaml of `guda configs`",
    )
