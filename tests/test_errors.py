from __future__ import annotations

import copy
import inspect
import math
import pickle

import pytest

from guda_lightning import errors
from guda_lightning.errors import ConfigError, GudaError, MissingExtraError, check_range
from toys import message

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


@pytest.mark.parametrize(
    ("bounds", "inside", "outside", "expected"),
    [
        ({"ge": 1}, (1, 2.5, math.inf), (0, -1, math.nan), "rank >= 1"),
        ({"gt": 0}, (1e-9,), (0, math.nan), "rank > 0"),
        ({"le": 3}, (3, -math.inf), (3.1, math.nan), "rank <= 3"),
        ({"ge": 0, "lt": 1}, (0, 0.5), (-0.1, 1, math.nan), "0 <= rank < 1"),
        ({"gt": 0, "le": 0.25}, (0.25,), (0, 0.3), "0 < rank <= 0.25"),
    ],
)
def test_a_range_is_checked_and_put_into_words(
    bounds: dict[str, float], inside: tuple[float, ...], outside: tuple[float, ...], expected: str
) -> None:
    for value in (*inside, None):
        check_range("lora.rank", value, fix="set lora.rank", **bounds)
    for value in outside:
        pattern = message("lora.rank is out of range", value, expected, "set lora.rank")
        with pytest.raises(ConfigError, match=pattern):
            check_range("lora.rank", value, fix="set lora.rank", **bounds)


def test_a_range_may_have_a_symbol_or_words_of_its_own() -> None:
    with pytest.raises(ConfigError, match=message("the rank is out of range", 0, "rank >= 1", "set it")):
        check_range("the rank", 0, ge=1, symbol="rank", fix="set it")
    with pytest.raises(ConfigError, match=message("the rank is out of range", 0, "1 or null", "set it")):
        check_range("the rank", 0, ge=1, expected="1 or null", fix="set it")
