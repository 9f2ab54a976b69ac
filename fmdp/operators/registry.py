"""The operators by name."""

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from fmdp.errors import InputError
from fmdp.operators.base import Denoising, Operator
from fmdp.operators.blur import motion_blur
from fmdp.operators.color import colorization
from fmdp.operators.inpainting import box_inpainting, brush_inpainting, random_inpainting
from fmdp.operators.jpeg import jpeg
from fmdp.operators.nonlinear import hdr, phase_retrieval
from fmdp.operators.separable import decimation, gaussian_blur, super_resolution
from fmdp.types import PRNGKey


def denoising(image_shape, key) -> Operator:
    """The identity."""
    return Denoising(image_shape=image_shape)


OPERATORS: dict[str, Callable[..., Operator]] = {
    build.__name__: build
    for build in (
        denoising,
        box_inpainting,
        random_inpainting,
        brush_inpainting,
        gaussian_blur,
        motion_blur,
        super_resolution,
        decimation,
        colorization,
        jpeg,
        phase_retrieval,
        hdr,
    )
}
"""Builders (image_shape, key, **parameters) -> Operator."""

MAX_PARAMETER = 1e30  # above all numbers that are of use
RANDOM_OPERATORS = ("random_inpainting", "brush_inpainting", "motion_blur")
"""Those that are drawn from the key, unless a mask or kernel is given."""


def make(name: str, image_shape: tuple[int, ...], key: PRNGKey | None = None, **parameters: Any) -> Operator:
    """The operator of that name for images of that shape; the builders in `OPERATORS` document the parameters.

    Args:
      image_shape: (H, W, C).
      key: from which random masks and kernels are drawn; needed by those only.

    Raises:
      InputError: an unknown name or parameter, a missing parameter or key, or a value that cannot be used.
    """
    check_parameters(name, parameters)
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise InputError(f"{name}: image_shape={image_shape} must be (height, width, channels)")
    drawn = name in RANDOM_OPERATORS and all(parameters.get(array) is None for array in ("mask", "kernel"))
    if key is None and drawn:
        raise InputError(f"{name} is drawn at random: pass key=jax.random.key(...)")
    for parameter, spec in inspect.signature(OPERATORS[name]).parameters.items():
        value = parameters.get(parameter)
        if spec.annotation is float and isinstance(value, int):
            parameters[parameter] = float(value)
        elif isinstance(value, list | tuple):
            parameters[parameter] = np.asarray(value, float)
    return OPERATORS[name](tuple(image_shape), key, **parameters)


def check_parameters(name: str, parameters: Mapping[str, Any]) -> None:
    """Raises InputError for an unknown operator or parameter, a missing one, or a value of another kind."""
    if name not in OPERATORS:
        raise InputError(f"unknown operator {name!r}{did_you_mean(name, OPERATORS)}; known: {', '.join(OPERATORS)}")
    known = dict(list(inspect.signature(OPERATORS[name]).parameters.items())[2:])
    for parameter in parameters:
        if parameter not in known:
            listed = ", ".join(known) or "none"
            raise InputError(
                f"{name}: unknown parameter {parameter!r}{did_you_mean(parameter, known)}; known: {listed}"
            )
    missing = [p for p, spec in known.items() if spec.default is spec.empty and p not in parameters]
    if missing:
        raise InputError(f"{name}: missing parameter {missing[0]!r}: pass {missing[0]}=...")
    for parameter, value in parameters.items():
        fault = _fault(known[parameter].annotation, value)
        if fault:
            raise InputError(f"{name}: {parameter}={' '.join(repr(value).split())[:60]}: {fault}")


def _fault(kind: Any, value: Any) -> str:
    """What is wrong with a value for a parameter of this kind, if anything; what is being traced cannot be read."""
    if isinstance(value, jax.core.Tracer):
        return ""
    if kind is int:
        whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        return "" if whole and abs(value) < 2**31 else "pass a whole number"
    if kind is float:
        number = isinstance(value, (int, float, np.number, np.ndarray, jax.Array)) and not isinstance(value, bool)
        fine = number and np.ndim(value) == 0 and np.isreal(value) and abs(value) < MAX_PARAMETER
        return "" if fine else "pass a finite number"
    if kind is str:
        return "" if isinstance(value, str) else "pass a text"
    if value is None:
        return ""
    if isinstance(value, str | bytes):
        return "pass an array of finite numbers"
    try:
        finite = bool(np.all(np.abs(np.asarray(value, float)) < MAX_PARAMETER))
    except (ValueError, TypeError, OverflowError):
        finite = False
    return "" if finite else "pass an array of finite numbers"


def did_you_mean(name: str, known) -> str:
    """', did you mean ...?' with the closest of the known names, or nothing."""
    close = difflib.get_close_matches(name, known, 1, 0.5)
    return f", did you mean {close[0]!r}?" if close else ""
