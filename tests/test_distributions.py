"""Quantiles, against published tables and against simulation."""

import numpy as np
import pytest

from pytest_autotune.distributions import normal_quantile, student_quantile, two_sided

# NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2, "Critical Values of the Student's t Distribution".
TABLE = [
    (0.95, 1, 6.314),
    (0.975, 1, 12.706),
    (0.975, 2, 4.303),
    (0.95, 5, 2.015),
    (0.99, 7, 2.998),
    (0.975, 10, 2.228),
    (0.995, 15, 2.947),
    (0.999, 20, 3.552),
    (0.975, 30, 2.042),
    (0.975, 60, 2.000),
    (0.975, 100, 1.984),
]


@pytest.mark.parametrize(("probability", "freedom", "value"), TABLE)
def test_student_quantiles_are_those_of_the_table(probability, freedom, value):
    assert student_quantile(probability, freedom) == pytest.approx(value, abs=0.0005)


@pytest.mark.parametrize("probability", [0.6, 0.9, 0.975, 0.9999])
def test_the_closed_form_and_the_expansion_meet(probability):
    assert student_quantile(probability, 201) == pytest.approx(student_quantile(probability, 200), rel=2e-4)
    assert student_quantile(probability, 10**7) == pytest.approx(normal_quantile(probability), rel=1e-5)


def test_student_quantiles_fall_with_the_degrees_of_freedom():
    values = [student_quantile(0.975, freedom) for freedom in (*range(1, 60), 199, 200, 201, 202, 1000)]
    assert values == sorted(values, reverse=True)


def test_a_two_sided_interval_leaves_half_of_the_rest_on_each_side():
    draws = np.random.default_rng(1).standard_t(6, size=200_000)
    assert np.mean(np.abs(draws) < two_sided(0.9, 6)) == pytest.approx(0.9, abs=0.003)
