"""Requests are checked when they are made, by the names that Python code gives their parameters."""

import dataclasses

import numpy as np
import pytest

from fmdp import operators
from fmdp.errors import InputError, ParameterError
from fmdp.restoration.request import Request


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(operator="denoise"), "Request(operator='denoise'): unknown operator 'denoise', did you mean 'denoising'"),
        (dict(lookaheads=(1.5,)), "Request(lookaheads=(1.5,)): must be from 0 (minimum error) to 1 (perfect percep"),
        (dict(lookaheads=(0.5, float("nan"))), "Request(lookaheads=(0.5, nan)): must be from 0"),
        (dict(lookaheads=()), "Request(lookaheads=()): must be a tuple of numbers"),
        (dict(sigma=-1.0), "Request(sigma=-1.0): must be positive"),
        (
            dict(sigma=25.0),
            "Request(sigma=25.0): the scale from black to white is 2; for 25 of 255 give sigma=0.196",
        ),
        (dict(sigma=300.0), "Request(sigma=300.0): must be at most 4, which is 510 of 255"),
        (dict(gain=0.0), "Request(gain=0.0): must be positive"),
        (dict(operator="hdr", gain=float("nan")), "Request(gain=nan): must be positive"),
        (dict(operator="hdr", steps=0), "Request(steps=0): must be an integer from 1 to 100000"),
        (dict(num_samples=2), "Request(num_samples=2): denoising is deterministic"),
        (dict(num_samples=10**9, operator="hdr"), "Request(num_samples=1000000000): must be an integer from 1 to 100"),
        (dict(seed=2**64), "Request(seed=18446744073709551616): must be an integer of 64 bits"),
        (
            dict(operator="decimation", parameters={"factor": "two"}),
            "Request(parameters={'factor': 'two'}): decimation: factor='two': pass a whole number",
        ),
        (
            dict(operator="decimation", parameters={"factor": 0}),
            "Request(parameters={'factor': 0}): decimation: factor=0: pass a number that is at least 1",
        ),
        (
            dict(operator="gaussian_blur"),
            "gaussian_blur: missing parameters 'kernel_size', 'std': pass kernel_size=..., std=...",
        ),
        (dict(operator="gaussian_blur", parameters={"std": 1.0}), "gaussian_blur: missing parameter 'kernel_size'"),
        (dict(operator="decimation"), "Request(parameters={}): decimation: missing parameter 'factor'"),
        (
            dict(operator="phase_retrieval", degraded=True),
            "Request(degraded=True): phase_retrieval does not measure an image: have a clean image degraded",
        ),
        (
            dict(operator="random_inpainting", parameters={"ratio": 0.5}, degraded=True),
            "Request(degraded=True): random_inpainting would draw another mask: pass mask=... to the operator "
            "brush_inpainting, or have a clean image degraded",
        ),
        (
            dict(operator="motion_blur", degraded=True),
            "motion_blur would draw another kernel: pass kernel=... to the operator motion_blur",
        ),
        (
            dict(operator=operators.from_function(lambda x: x, (8, 8, 1), name="mine"), parameters={"size": 3}),
            "Request(parameters={'size': 3}): mine has its own: leave them out",
        ),
    ],
)
def test_values_that_cannot_be_used_are_one_line(changes, message):
    with pytest.raises(ParameterError) as refused:
        Request(**changes)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value.parameter in changes or refused.value.parameter in ("parameters", "degraded")


def test_a_changed_copy_is_checked():
    request = Request(sigma=0.1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.sigma = -1.0
    with pytest.raises(InputError, match=r"Request\(sigma=-1.0\)"):
        dataclasses.replace(request, sigma=-1.0)


def test_noise_may_be_strong_and_that_of_other_measurements_has_its_own_scale():
    assert Request(sigma=4.0).sigma == 4
    assert Request(operator="phase_retrieval", degraded=False, sigma=25.0).sigma == 25
    sums = operators.from_function(lambda x: x.sum(0), (8, 8, 1), linear=True)
    assert Request(operator=sums, sigma=25.0).sigma == 25


def unchecked(**changes):
    """A request made outside the tests, where no types are checked."""
    request = Request()
    for name, value in changes.items():
        object.__setattr__(request, name, value)
    request.__post_init__()
    return request


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(lookaheads=0.5), "Request(lookaheads=0.5): must be a tuple of numbers"),
        (dict(sigma="x"), "Request(sigma='x'): must be positive"),
        (dict(num_samples=2.5), "Request(num_samples=2.5): must be an integer from 1 to 100000"),
        (dict(parameters=None), "Request(parameters=None): must be a dictionary"),
        (dict(operator=lambda x: x), "make an operator of your own with operators.from_function"),
        (dict(operator="hdr", gain=10**400), "000): must be positive"),
    ],
)
def test_values_of_the_wrong_type_are_one_line(changes, message):
    with pytest.raises(ParameterError) as refused:
        unchecked(**changes)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_numbers_of_numpy_are_numbers():
    unchecked(sigma=np.float32(0.1), seed=np.int64(3), steps=np.int32(5), gain=np.float64(0.5))
