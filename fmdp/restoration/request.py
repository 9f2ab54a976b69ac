"""What to restore, and how: the request, checked when it is made."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

import jax
import numpy as np

from fmdp import operators
from fmdp.errors import InputError, ParameterError
from fmdp.io.levels import Range, range_fault
from fmdp.operators import Operator

MAX_COUNT = 100_000  # samples or steps
MAX_FLOAT = float(np.finfo(np.float32).max)
GRAY_LEVELS = 127.5  # of 255, for 1 on the [-1, 1] scale
MAX_SIGMA = 4.0  # twice the range from black to white, the noise level .8; beyond it, other units are meant
NOT_IMAGES = ("phase_retrieval",)  # operators whose measurements are not images


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to restore, and how.

    >>> Request(operator="gaussian_blur", parameters={"kernel_size": 5, "std": 1.0}, lookaheads=(0.0, 1.0)).steps
    100
    >>> Request(operator="gauss_blur")
    Traceback (most recent call last):
    fmdp.errors.ParameterError: Request(operator='gauss_blur'): unknown operator 'gauss_blur', did you mean ...

    Attributes:
      operator: a name in `operators.OPERATORS`, or an operator of your own (`operators.from_function`). "denoising"
        is one evaluation of the field, everything else plug-and-play.
      parameters: of a named operator, by name.
      degraded: whether the image is the measurement, as a picture of your own is. With False it is a clean image,
        which is degraded first, so that the error is known.
      sigma: standard deviation of the noise on the [-1, 1] scale, at most `MAX_SIGMA` for named operators. None stands
        for 0.05 where noise is added, and for an estimate where a degraded image is denoised. Plug-and-play scales its
        data step by `gain` instead.
      lookaheads: relative ones, from 0 to 1. Denoising goes from minimum error to perfect perception; within
        plug-and-play, where the lookahead sets the denoiser of every step, these end points are only a trend.
      num_samples: restorations by plug-and-play from independent noise.
      steps: of plug-and-play.
      gain: of its data step; 1 never overshoots a linear operator.
      seed: of masks, noise and solver.
      tile: pixels a side of the tiles of a fully convolutional prior; None stands for the size that the prior names.
      memory_gb: for tiles that are restored at once: on each GPU or TPU, or on all parts of a CPU together. None stands
        for half of what is free.
      range: the values of black and white in the image, such as (0, 1). None takes bytes from 0 to 255 and floats from
        -1 to 1, and refuses what could be mistaken (`fmdp.io.levels.find_range`). Results are in [-1, 1] all the same.

    Raises:
      ParameterError: a value that cannot be used with any image.
    """

    operator: str | Operator = "denoising"
    parameters: dict[str, Any] = field(default_factory=dict)
    degraded: bool = True
    sigma: float | int | jax.Array | None = None
    lookaheads: tuple[float | int, ...] = (0.0,)
    num_samples: int = 1
    steps: int = 100
    gain: float | int | jax.Array = 1.0
    seed: int = 0
    tile: int | None = None
    memory_gb: float | None = None
    range: Range | None = None

    def __post_init__(self) -> None:
        for name in {parameter for parameter, *_ in RULES} - {"operator", "parameters"}:
            value = getattr(self, name)
            one = isinstance(value, np.generic | np.ndarray | jax.Array) and value.ndim == 0
            if one and not isinstance(value, jax.core.Tracer):
                object.__setattr__(self, name, value.item())
        for parameter, is_valid, remedy in RULES:
            if not is_valid(getattr(self, parameter)):
                raise self.error(parameter, remedy)
        if isinstance(self.operator, str):
            try:
                operators.check_parameters(self.operator, self.parameters)
            except InputError as error:
                known = self.operator in operators.OPERATORS
                raise self.error("parameters" if known else "operator", str(error)) from error
        elif self.parameters:
            raise self.error("parameters", f"{self.name} has its own: leave them out")
        image_measured = isinstance(self.operator, str) and self.operator not in NOT_IMAGES
        if self.sigma is not None and self.sigma > MAX_SIGMA and image_measured:
            converted = f"for {self.sigma:g} of 255 give sigma={self.sigma / GRAY_LEVELS:.3g}"
            most = f"must be at most {MAX_SIGMA:g}, which is {MAX_SIGMA * GRAY_LEVELS:g} of 255"
            remedy = f"the scale from black to white is 2; {converted}" if self.sigma <= 255 else most
            raise self.error("sigma", remedy)
        if self.num_samples > 1 and self.denoises:
            raise self.error("num_samples", "denoising is deterministic: leave it out")
        if self.degraded and self.operator in operators.RANDOM_OPERATORS:
            array, taker = ("kernel", "motion_blur") if self.operator == "motion_blur" else ("mask", "brush_inpainting")
            if all(self.parameters.get(name) is None for name in operators.GIVEN_ARRAYS):
                remedy = f"{self.name} would draw another {array}: pass {array}=... to the operator {taker}"
                raise self.error("degraded", f"{remedy}, or have a clean image degraded")
        if self.degraded and self.operator in NOT_IMAGES:
            raise self.error("degraded", f"{self.name} does not measure an image: have a clean image degraded")

    @property
    def name(self) -> str:
        """The name of the operator."""
        return self.operator if isinstance(self.operator, str) else self.operator.name

    @property
    def denoises(self) -> bool:
        """Whether it is one evaluation of the field, not plug-and-play."""
        return self.operator == "denoising"

    def error(self, parameter: str, remedy: str) -> ParameterError:
        """The error of a parameter that cannot be used, with its value."""
        return ParameterError("Request", parameter, getattr(self, parameter), remedy)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_positive(value: Any) -> bool:
    return _is_number(value) and bool(0 < value < MAX_FLOAT)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) > 0 and all(map(_is_number, value))


def _is_integer(value: Any, low: int, high: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and low <= int(value) <= high


def _is_count(value: Any) -> bool:
    return _is_integer(value, 1, MAX_COUNT)


SIGMA = "must be positive, on the [-1, 1] scale (0.05 is 6.4 of 255), or 0; for a map, use fmdp.solvers"
COUNT = f"must be an integer from 1 to {MAX_COUNT}"
RULES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("operator", lambda x: isinstance(x, str | Operator), "make an operator of your own with operators.from_function"),
    ("parameters", lambda x: isinstance(x, Mapping), "must be a dictionary"),
    ("degraded", lambda x: isinstance(x, bool), "must be True or False"),
    ("sigma", lambda x: x is None or _is_positive(x) or (_is_number(x) and x == 0), SIGMA),
    ("lookaheads", _are_numbers, "must be a tuple of numbers"),
    ("lookaheads", lambda x: all(0 <= r <= 1 for r in x), "must be from 0 (minimum error) to 1 (perfect perception)"),
    ("num_samples", _is_count, COUNT),
    ("steps", _is_count, COUNT),
    ("gain", _is_positive, "must be positive; 1 never overshoots a linear operator"),
    ("seed", lambda x: _is_integer(x, -(2**63), 2**63 - 1), "must be an integer of 64 bits"),
    ("tile", lambda x: x is None or _is_count(x), COUNT),
    ("memory_gb", lambda x: x is None or _is_positive(x), "must be positive, in GB"),
    ("range", lambda x: x is None or not range_fault(x), range_fault(())),
)
"""A parameter, what its value must satisfy, and what to say where it does not."""
