"""The operators by name."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin

import jax
import numpy as np

from fmdp.errors import MAX_NUMBER, InputError, Range, kind_fault, plain, require_key, require_known
from fmdp.io.levels import as_numpy
from fmdp.operators.base import Denoising, Operator, as_shape
from fmdp.operators.blur import motion_blur
from fmdp.operators.color import colorization
from fmdp.operators.inpainting import box_inpainting, brush_inpainting, random_inpainting
from fmdp.operators.jpeg import jpeg
from fmdp.operators.nonlinear import hdr, phase_retrieval
from fmdp.operators.separable import decimation, gaussian_blur, super_resolution


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

RANDOM_OPERATORS = ("random_inpainting", "brush_inpainting", "motion_blur")
"""The operators that are drawn from the key, unless one of `GIVEN_ARRAYS` is given."""

GIVEN_ARRAYS = ("mask", "kernel", "psf")


def make(name: str, image_shape: Sequence[int] | np.ndarray, key: Any = None, **parameters: Any) -> Operator:
    """The operator of this name for images of this shape; the builders in `OPERATORS` document its parameters.

    Args:
      image_shape: (H, W, C).
      key: from which random masks and kernels are drawn, as `jax.random.key` makes it; no other operator needs it.

    Raises:
      InputError: an unknown name or parameter, a missing parameter or key, or a value that cannot be used.
    """
    check_parameters(name, parameters)
    shape = as_shape(name, image_shape)
    drawn = name in RANDOM_OPERATORS and all(parameters.get(array) is None for array in GIVEN_ARRAYS)
    if drawn:
        require_key(f"{name} is drawn at random", key)
    for parameter, value in parameters.items():
        value = parameters[parameter] = plain(value)  # of uint8, say, in which sizes would wrap around
        if isinstance(value, list | tuple):
            parameters[parameter] = np.asarray(value, float)
        elif isinstance(value, int) and _kind(inspect.signature(OPERATORS[name]).parameters[parameter]) is float:
            parameters[parameter] = float(value)
    return OPERATORS[name](shape, key, **parameters)


def check_parameters(name: str, parameters: Mapping[str, Any]) -> None:
    """Raises InputError for an unknown operator or parameter, a missing one, or a value of another kind or range."""
    require_known("unknown operator", name, OPERATORS)
    known = dict(list(inspect.signature(OPERATORS[name]).parameters.items())[2:])
    for parameter, value in parameters.items():
        require_known(f"{name}: unknown parameter", parameter, known)
        if fault := _fault(known[parameter], value):
            raise InputError(f"{name}: {parameter}={' '.join(repr(value).split())[:60]}: pass {fault}")
    if missing := [p for p, spec in known.items() if spec.default is spec.empty and p not in parameters]:
        names, remedy = (", ".join(form.format(parameter) for parameter in missing) for form in ("{!r}", "{}=..."))
        raise InputError(f"{name}: missing parameter{'s' * (len(missing) > 1)} {names}: pass {remedy}")


def _kind(parameter: inspect.Parameter) -> Any:
    """The type of a parameter without its range."""
    annotation = parameter.annotation
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _fault(parameter: inspect.Parameter, value: Any) -> str:
    """What a value should be instead, if it does not suit its parameter; a traced value cannot be read."""
    kind = _kind(parameter)
    if isinstance(value, jax.core.Tracer):
        return ""
    if get_origin(kind) is Literal:
        return "" if isinstance(value, str) and value in get_args(kind) else f"one of {', '.join(get_args(kind))}"
    if kind is bool:
        return kind_fault(value, bool)
    if kind in (int, float):
        if kind is float and isinstance(value, np.ndarray | jax.Array) and np.ndim(value) == 0:
            value = value.item()
        limits = [limit for limit in getattr(parameter.annotation, "__metadata__", ()) if isinstance(limit, Range)]
        return kind_fault(value, kind) or next((limit.fault(value) for limit in limits), "")
    try:
        fine = value is None or (as_numpy(value).dtype.kind in "biuf" and np.abs(np.asarray(value, float)) < MAX_NUMBER)
        checks = [check for check in getattr(parameter.annotation, "__metadata__", ()) if callable(check)]
        return next((check(value) for check in checks), "") if np.all(fine) else "an array of finite numbers"
    except (ValueError, TypeError, OverflowError):
        return "an array of finite numbers"
