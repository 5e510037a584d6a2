"""What pytest prints last says what was not tested, and how to get it tested."""

from __future__ import annotations

import pytest


def test_reasons_stand_once_before_the_last_line(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.skipif(True, reason="no browser: apt-get install it")

        def test_one(): ...
        def test_two(): ...

        @pytest.mark.skipif(True, reason="no data: set DATA")
        def test_three(): ...
        """
    )
    pytester.makepyfile(test_other="import pytest\n\ndef test_it(): pytest.skip('no data: set DATA')")
    lines = pytester.runpytest_inprocess("-p", "skips").outlines
    assert [line.strip("= ") for line in lines[-4:-1]] == [
        "not tested here",
        "2 skipped: no browser: apt-get install it",
        "2 skipped: no data: set DATA",
    ]
    assert "4 skipped" in lines[-1]


def test_nothing_is_said_where_everything_was_tested(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_one(): ...")
    assert "not tested here" not in pytester.runpytest_inprocess("-p", "skips").stdout.str()
