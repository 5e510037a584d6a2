from __future__ import annotations

import numpy as np
import pytest
from benchmarks.radius import exponent
from scipy.stats import linregress, t


def test_the_exponent_and_its_interval_are_those_of_scipy() -> None:
    images, random = [225, 450, 900, 1797], np.random.default_rng(0)
    radii = [3 * n**-0.4 * float(np.exp(random.normal(0, 0.1))) for n in images]
    fitted = linregress(np.log(images), np.log(radii))
    half = t.ppf(0.975, 2) * fitted.stderr
    expected = (-fitted.slope, -fitted.slope - half, -fitted.slope + half)
    assert exponent(images, radii) == pytest.approx(expected)
    assert exponent(images[:2], [2.0, 1.0])[0] == pytest.approx(1)
    assert np.isnan(exponent(images[:2], [2.0, 1.0])[1:]).all()
