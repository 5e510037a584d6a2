"""What a user requested of a stage, checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from guda_lightning.data.grouping import Grouping
from guda_lightning.errors import ConfigError, GroupError, check_range
from guda_lightning.functional.coalition_plans import subsets
from guda_lightning.scores import ScoreRecord, ScoreTable
from guda_lightning.scores.kinds import ModelDetails
from guda_lightning.storage.files import read_regular, slug, unique_slug
from guda_lightning.storage.paths import user_path
from guda_lightning.storage.runs import RunFolder

_MOST = 10_000_000  # of anything that is counted
_DIGITS = 18  # of a seed: what 64 bits hold
ALL = "all"  # instead of groups: each of them that has samples
# For `refuse_choices` where another attributor scores.
ATTRIBUTOR = (
    "another attributor was given",
    "an attributor, or options of counterfactuals",
    "the attributor",
)
# For `refuse_choices` where a screen chooses the groups.
SCREEN = ("a screen chooses groups one by one", "a screen, or subsets of groups", "--screen")


def chosen_groups(grouping: Grouping, requested: object = None) -> list[str]:
    """The groups that a stage works on: the requested ones, or all that have samples.

    Args:
        grouping: All groups.
        requested: A list of names, or a text such as ``a,b``; ``a+b`` are two groups that are removed
            together. What YAML makes of a name without quotes, such as 1e5 or true, is that name. None, an
            empty list, or the text ``all`` where no group is called so: all.

    Raises:
        GroupError: One does not exist, has no samples, or has all, or a text has several meanings.
    """
    every = [name for name in grouping.names if grouping.size(name)]
    if requested is None or (requested == ALL and grouping.known.find(ALL) is None):
        names = every
    elif isinstance(requested, str):
        names = grouping.known.split(requested) or every
    else:
        listed = requested if isinstance(requested, Sequence) else [requested]
        names = grouping.known.of_list(listed) or every
    for name in names:
        grouping.coalition(name)
    return names


@dataclass(frozen=True)
class Subsets:
    """Subsets of groups to train on, each of which leaves the other groups out.

    Attributes:
        which: How many to draw, or a text file with the names of the groups that stay, one subset a line.
        kept: Share of the groups that stay, of those that are drawn.
        seed: Seed of the draw.
    """

    which: int | str
    kept: float = 0.5
    seed: int = 0

    def removed(self, grouping: Grouping) -> list[str]:
        """The coalition that each subset leaves out, such as ``1+4``; equal ones once.

        Raises:
            ConfigError: There are not so many, or the file cannot be read or names none.
            GroupError: A group does not exist, or a subset leaves nothing out or no sample to train on.
        """
        players = [name for name in grouping.names if grouping.size(name)]
        every = self._read(grouping) if self._count is None else self._drawn(players, self._count)
        removed = [[name for name in players if name not in kept] for kept in every]
        for line, names in enumerate(removed, start=1):
            if not names:
                raise GroupError(
                    f"subset {line} of {self.which} leaves no group out",
                    found=f"all {len(players)} groups",
                    expected="some of the groups",
                    fix="leave that line out: it is the full model",
                )
        joint = [grouping.known.joint(names) for names in removed]
        for name in joint:
            grouping.coalition(name)
        return list(dict.fromkeys(joint))

    @property
    def _count(self) -> int | None:
        text = str(self.which)
        return int(text) if text.isdecimal() else None

    def _drawn(self, players: Sequence[str], count: int) -> list[set[str]]:
        drawn = subsets(len(players), round(self.kept * len(players)), count, self.seed)
        return [{name for name, stays in zip(players, row, strict=True) if stays} for row in drawn.tolist()]

    def _read(self, grouping: Grouping) -> list[set[str]]:
        path = user_path(str(self.which))
        try:
            lines = read_regular(path).decode().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                "the subsets cannot be read",
                found=f"{path}: {getattr(error, 'strerror', None) or error}",
                expected="a number of subsets, or a text file with the groups that stay, one subset a line",
                fix="pass --subsets 16, or correct the path",
            ) from error
        every = [
            {group for name in grouping.known.split(line) for group in grouping.known.coalition(name)}
            for line in map(str.strip, lines)
            if line
        ]
        if not every:
            raise ConfigError(
                f"{path} names no subset",
                found="an empty file",
                expected="the groups that stay, one subset a line, such as 0,1,6",
                fix="write some, or pass --subsets 16",
            )
        return every


def chosen_coalitions(
    grouping: Grouping, requested: object, subsets: int | str | None, kept: float
) -> list[str]:
    """The groups and coalitions that a stage works on: as ``chosen_groups``, or those that subsets leave out.

    Raises:
        ConfigError: Groups and subsets are both given, or the subsets cannot be drawn or read.
        GroupError: As ``chosen_groups`` and ``Subsets.removed``.
    """
    check_range("kept", kept, gt=0, lt=1, fix="take the usual 0.5")
    if subsets is None:
        return chosen_groups(grouping, requested)
    if requested is not None and requested != []:
        raise ConfigError(
            "groups and subsets were both given",
            found=f"--groups {requested} and --subsets {subsets}",
            expected="one of them: subsets say which groups are left out together",
            fix="leave out --groups, or --subsets",
        )
    return Subsets(subsets, kept).removed(grouping)


def chosen_seeds(requested: Sequence[int] | int | str, option: str = "--seeds") -> list[int]:
    """Distinct seeds from a list, one number, or ``0,1,2``.

    Raises:
        ConfigError: They are no whole numbers of at least 0.
    """
    listed = [requested] if isinstance(requested, int) else requested
    parts = listed.split(",") if isinstance(listed, str) else listed
    texts = [str(part).strip() for part in parts]
    if not texts or not all(text.isdecimal() and len(text) <= _DIGITS for text in texts):
        raise ConfigError(
            "the seeds are not usable",
            found=requested,
            expected=f"whole numbers of at least 0, of at most {_DIGITS} digits",
            fix=f"pass them as {option} 0,1,2",
        )
    return list(dict.fromkeys(map(int, texts)))


def table_of(
    run: RunFolder, method: str, seed: int, queries: Path | None = None, name: str | None = None
) -> Path:
    """The score table of a method and a seed, and, where there are any, of other queries and the user's name.

    Args:
        run: The run folder.
        method: What makes the scores.
        seed: Seed of the counterfactuals.
        queries: An image or a folder of images; None: the run's own queries.
        name: What the user calls the table. It makes one table of its own, whatever its characters.
    """
    of_queries = [] if queries is None else [slug(user_path(queries).resolve().stem)]
    return run.table(method, seed, *of_queries, *([unique_slug(name)] if name else []))


def table_about(path: Path, queries: Path | None, record: ScoreRecord, hparams: str | None = None) -> Path:
    """A score table that is about nothing else: where ``path`` is, its name gets a hash.

    ``a.png`` and ``a.jpg``, folders of one name, or names without a Latin letter would share a table, and so
    would counterfactuals that were chosen by their hyper-parameters.

    Args:
        path: As ``table_of`` names it.
        queries: As ``table_of`` got them; None: the run's own, of which those of before are no longer there.
        record: What identifies the scores, and with them the queries and the hyper-parameters.
        hparams: Which of several hyper-parameters were chosen; None: the store holds one kind.

    Raises:
        StoreError: What is there is damaged or no score table.
    """
    if queries is not None:
        path = _apart(path, lambda one: one.query_hash, record)
    return path if hparams is None else _apart(path, _hparams_of, record)


def _apart(path: Path, told: Callable[[ScoreRecord], str | None], record: ScoreRecord) -> Path:
    """The path, or the one with a hash of what tells scores apart where a table of others has it."""
    hashed = path.with_name(f"{path.stem}-{str(told(record))[:8]}{path.suffix}")
    for there in (path, hashed):
        if ScoreTable.exists(there) and told(ScoreTable.load_record(there)) == told(record):
            return there
    return hashed if ScoreTable.exists(path) else path


def _hparams_of(record: ScoreRecord) -> str | None:
    return record.details.hparams_hash if isinstance(record.details, ModelDetails) else None


def refuse_choices(instead: str, expected: str, fix: str, **choices: object) -> None:
    """Refuse options that are about counterfactuals where there are none.

    Args:
        instead: What there is.
        expected: What should be given.
        fix: What else may be done than to leave the option out.
        **choices: The options; None where one is not given.

    Raises:
        ConfigError: One is given.
    """
    for name, value in choices.items():
        if value is not None:
            raise ConfigError(
                f"{name} is about counterfactuals, and {instead}",
                found=f"{name} {value}",
                expected=expected,
                fix=f"leave out --{name}, or {fix}",
            )


def refuse_two_methods(attributor: object, objective: object, posterior: object) -> None:
    """Refuse a placebo test of two methods at once.

    Raises:
        ConfigError: More than one is given.
    """
    if attributor is not None:
        refuse_choices(*ATTRIBUTOR, objective=objective, posterior=posterior)
    if objective is not None and posterior is not None:
        raise ConfigError(
            "an objective unlearns and a posterior guides, and both were given",
            found=f"an objective {type(objective).__name__}, and the posterior {posterior}",
            expected="one of them",
            fix="leave out --objective, or --posterior",
        )


def refuse_several_processes(count: int, command: str, why: str, fix: str) -> None:
    """Refuse a command in several processes that works in one.

    Args:
        count: How many there are.
        command: Its name.
        why: One is enough.
        fix: How to have one.

    Raises:
        ConfigError: There are several.
    """
    if count > 1:
        raise ConfigError(
            f"guda {command} works in one process",
            found=f"{count} processes",
            expected=f"one: {why}",
            fix=fix,
        )


def at_least_one(name: str, value: int) -> None:
    """Refuse a count below one, or above what anybody waits for.

    Raises:
        ConfigError: It is.
    """
    check_range(name, value, ge=1, fix=f"pass --{name} 1 or more")
    check_range(name, value, le=_MOST, fix=f"pass a lower --{name}")
