import math

import jax
import numpy as np
import pytest

from fmdp.errors import InputError, Range, kind_fault, require_in_range, require_key, require_known, translating


@pytest.mark.parametrize(
    ("value", "kind", "fault"),
    [
        (3, int, ""),
        (np.int32(3), int, ""),
        (True, int, "a whole number"),
        (3.0, int, "a whole number"),
        (2**31, int, "a whole number below 2.15e+09"),
        (3, float, ""),
        (np.float32(0.5), float, ""),
        ("3", float, "a finite number"),
        (1j, float, "a finite number"),
        (math.nan, float, "a finite number below 2.15e+09"),
        (-math.inf, float, "a finite number below 2.15e+09"),
        (10**400, float, "a finite number below 2.15e+09"),
        (1, bool, "True or False"),
        (False, bool, ""),
        (None, str, "text"),
        ("x", str, ""),
    ],
)
def test_values_of_another_kind_are_described_by_what_they_should_be(value, kind, fault):
    assert kind_fault(value, kind, 2**31) == fault


@pytest.mark.parametrize(
    ("limits", "value", "fault"),
    [
        (Range(0, 1), 1, ""),
        (Range(0, 1), -0.1, "a number from 0 to 1"),
        (Range(0, 1), math.nan, "a number from 0 to 1"),
        (Range(0, 1, excluded=1), 1, "a number that is at least 0 and below 1"),
        (Range(0, 1, excluded=0), 0, "a number above 0 and at most 1"),
        (Range(0, excluded=0), 0.0, "a number above 0"),
        (Range(1), 0, "a number that is at least 1"),
        (Range(1), 10**400, ""),
    ],
)
def test_numbers_outside_a_range_are_described_by_it(limits, value, fault):
    assert limits.fault(value) == fault


def test_errors_of_libraries_become_one_line_and_input_errors_pass():
    def refused(error, *kinds):
        with pytest.raises(InputError) as raised, translating(lambda why: f"x is bad ({why})", *kinds):
            raise error
        return str(raised.value)

    assert refused(OSError(2, "No such file"), OSError) == "x is bad (No such file)"
    assert refused(KeyError("a"), LookupError) == "x is bad ('a')"
    assert refused(ValueError("one\ntwo"), ValueError) == "x is bad (one)"
    assert refused(MemoryError(), Exception) == "x is bad (MemoryError)"
    assert refused(InputError("y is bad"), Exception) == "y is bad"
    assert refused(InputError("y is bad"), InputError) == "x is bad (y is bad)"
    with pytest.raises(KeyError), translating(lambda why: why, OSError):
        raise KeyError


@pytest.mark.parametrize("value", ["x", math.nan, -0.5, np.array([0.5, 2.0]), 10**400])
def test_numbers_outside_a_range_are_refused_by_name_and_value(value):
    with pytest.raises(InputError, match=r"^blur: share=.*: pass a (finite )?number"):
        require_in_range("blur", {"share": Range(0, 1)}, {"share": value, "other": 9})


def test_numbers_inside_a_range_and_unknown_values_pass():
    for value in (0, 0.5, np.float32(1), np.array([0.1, 0.9]), None, object()):
        require_in_range("blur", {"share": Range(0, 1)}, {"share": value})
    require_in_range("blur", {"share": Range(0, 1)}, {})

    def traced(value):
        require_in_range("blur", {"share": Range(0, 1)}, {"share": value})
        return value

    assert jax.eval_shape(traced, 7.0).shape == ()


@pytest.mark.parametrize(
    ("name", "known", "message"),
    [
        ("stpes", ["steps", "gain"], "unknown key 'stpes', did you mean 'steps'?; known: steps, gain"),
        ("qqq", {"steps": 1}, "unknown key 'qqq'; known: steps"),
        (3, (), "unknown key 3; known: none"),
    ],
)
def test_unknown_names_are_refused_with_the_known_ones(name, known, message):
    require_known("unknown key", "steps", ["steps"])
    with pytest.raises(InputError) as refused:
        require_known("unknown key", name, known)
    assert str(refused.value) == message


@pytest.mark.parametrize("kind", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_keys_of_every_generator_and_both_kinds_are_keys(kind):
    for make in (jax.random.key, jax.random.PRNGKey):
        require_key("it is drawn at random", make(0, impl=kind))
    for value in (0, None, jax.random.split(jax.random.key(0)), np.zeros(3, np.uint32)):
        with pytest.raises(InputError, match=r"^it is drawn at random.*: pass key=jax.random.key"):
            require_key("it is drawn at random", value)
