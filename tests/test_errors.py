from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from guda_lightning import errors
from guda_lightning.errors import GudaError, MissingExtraError

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, GudaError)]
PLAIN = [kind for kind in KINDS if kind is not MissingExtraError]


def test_every_kind_is_seen() -> None:
    assert {kind.__name__ for kind in KINDS} == {
        "ConfigError",
        "DataError",
        "GroupError",
        "GudaError",
        "MissingExtraError",
        "NumericsError",
        "QueryError",
        "RankError",
        "StoreError",
    }


@pytest.mark.parametrize("kind", PLAIN)
def test_the_message_says_what_where_and_how(kind: type[GudaError]) -> None:
    error = kind("no group 'cta'", found="cta", expected=["cat", "dog"], fix="--groups cat")
    assert (
        str(error) == "no group 'cta'\n  found:    cta\n  expected: ['cat', 'dog']\n  fix:      --groups cat"
    )
    assert isinstance(error, GudaError)


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("copied", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy])
def test_errors_travel_between_processes(kind: type[GudaError], copied: object) -> None:
    error = kind("problem", found=1, expected=(2, "three"), fix="fix")
    other = copied(error)  # type: ignore[operator]
    assert type(other) is kind
    assert str(other) == str(error)
    assert (other.problem, other.found, other.expected, other.fix) == ("problem", 1, (2, "three"), "fix")


def test_a_missing_extra_names_the_command_that_installs_it() -> None:
    error = MissingExtraError("altair", "report")
    assert str(error) == (
        "altair is not installed\n  found:    no package named altair\n"
        "  expected: the optional dependencies of the extra 'report'\n"
        '  fix:      pip install "guda-lightning[report]"'
    )
    other = pickle.loads(pickle.dumps(error))
    assert type(other) is MissingExtraError
    assert str(other) == str(error)
    assert (other.package, other.extra) == ("altair", "report")
