"""The same numbers as people bring them: of every type and range, in every layout, and spoiled."""

import contextlib
import math

import jax.numpy as jnp
import jaxtyping
import numpy as np
from hypothesis import strategies as st

from fmdp.errors import InputError

CASES = dict(
    levels=10, npz=10, training=10, restore=16, arrays=8, requests=6, fields=14, operators=14, solvers=3, exact=9,
)  # fmt: skip
"""Generated cases in `make test`, by what they are of; `make test-long` draws ten times as many, new ones."""

_SMALL, _FLOATS = [(0, 1), (-1, 1), (0, 255)], [(0, 1), (-1, 1), (0, 255), (0, 65535), (-0.5, 2.0)]
RANGES = {
    "bool": [(0, 1)], "uint8": [(0, 255), (0, 1)], "int8": [(-128, 127), (0, 100)], "uint16": [(0, 65535), (0, 4095)],
    ">u2": [(0, 65535), (0, 1023)], "int16": [(-1000, 3000), (0, 255)], "uint32": [(0, 4095), (0, 2**32 - 1)],
    "int32": [(0, 65535), (-5, 5)], ">i4": [(0, 255)], "uint64": [(0, 2**53)], "int64": [(0, 255), (-(2**40), 2**40)],
    "float16": _SMALL, "bfloat16": _SMALL, "float32": _FLOATS, ">f4": _FLOATS, "float64": _FLOATS,
    "longdouble": _FLOATS,
}  # fmt: skip
"""Types by name, with values of black and white that they can hold."""

SIGNED = sorted(kind for kind, ranges in RANGES.items() if (-1, 1) in ranges or ranges[0][0] < 0 or ranges[-1][0] < 0)
"""The types that hold -1, 0 and 1."""


def in_type(values, kind):
    """An array of numpy of this type."""
    return np.asarray(values).astype(jnp.bfloat16 if kind == "bfloat16" else kind)


def numbers():
    """A type and a range that it can hold."""
    return st.sampled_from(sorted(RANGES)).flatmap(lambda kind: st.tuples(st.just(kind), st.sampled_from(RANGES[kind])))


def pixels(seed, shape, kind, stated):
    """Random pixels in the range, of this type, of which the first is black and the last white."""
    values = np.random.default_rng(seed).uniform(*stated, shape)
    if values.size:
        values.flat[0], values.flat[-1] = stated
    whole = kind == "bool" or np.dtype(float if kind == "bfloat16" else kind).kind in "iu"
    return in_type(np.round(values) if whole else values, kind)


def _as_jax(x):
    """JAX's array where it can hold these numbers without 64 bits."""
    fits = x.dtype.itemsize <= 4 and x.dtype.isnative
    return jnp.asarray(x) if fits else x


FORMS = {
    "plain": lambda x: x,
    "fortran": np.asfortranarray,
    "strided": lambda x: np.repeat(x, 2, 0)[::2],
    "backwards": lambda x: x[::-1].copy()[::-1],
    "lists": lambda x: x.tolist(),
    "jax": _as_jax,
    "nothing masked": np.ma.masked_array,
}
"""The same numbers in other containers and layouts."""


def _with(number):
    def change(x):
        values = x.astype(np.float64)
        values.flat[:1] = number  # an empty array has none
        return values

    return change


SPOILS = {
    "nan": _with(np.nan),
    "infinite": _with(-np.inf),
    "complex": lambda x: x.astype(np.complex64),
    "text": lambda x: x.astype(np.float64).astype(str),
    "dates": lambda x: np.zeros(x.shape, "datetime64[s]"),
    "objects": lambda x: np.full(x.shape, None),
    "masked": lambda x: np.ma.masked_array(x, np.arange(x.size).reshape(x.shape) == 0),
    "nothing": lambda x: None,
}
"""What is not an array of finite real numbers."""


def outcome(call):
    """What a call returns, or the one clear line that it raises. Errors of other kinds are raised again."""
    try:
        return call()
    except InputError as error:
        assert str(error), "no message"  # noqa: PT017
        assert "\n" not in str(error), str(error)  # noqa: PT017
        assert ": " in str(error) or ", " in str(error), f"no remedy: {error}"  # noqa: PT017
        return error


def refused(call):
    """Whether a call ends in one clear line."""
    return isinstance(outcome(call), InputError)


@contextlib.contextmanager
def without_type_checks():
    """As users have it: the hook of the tests refuses other types than those annotated, before the code can."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


SEED = st.integers(0, 2**31)
FORM, SPOIL = st.sampled_from(sorted(FORMS)), st.sampled_from([""] * 12 + sorted(SPOILS))


def linear(s, t, variance=0.25):
    """L(s, t), by which D_{s,t} multiplies an image of independent pixels of this variance."""
    q_s, q_t = ((1 - time) ** 2 + time**2 * variance for time in (s, t))
    slope = (s * variance - (1 - s)) / q_s if t == s else (math.sqrt(q_t / q_s) - 1) / (t - s)
    return 1 + (1 - s) * slope
