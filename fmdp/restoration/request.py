"""What to restore, and how."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

from fmdp import operators
from fmdp.errors import InputError
from fmdp.operators import Operator

MAX_COUNT = 100_000  # num_samples or steps


NOT_IMAGES = ("phase_retrieval",)  # whose measurements are no pictures


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to restore, and how.

    >>> Request(operator="gaussian_blur", parameters={"kernel_size": 5, "std": 1.0}, lookaheads=(0.0, 1.0)).steps
    100
    >>> Request(operator="gauss_blur").check()
    Traceback (most recent call last):
    fmdp.errors.InputError: --operator=gauss_blur, did you mean 'gaussian_blur'?: must be one of denoising, ...

    Attributes:
      operator: by its name in `operators.OPERATORS`, or one of your own (`operators.from_function`); "denoising" is
        one evaluation of the field, everything else plug-and-play.
      parameters: of an operator by name.
      degraded: the picture is the measurement; otherwise it is measured first, so that the error can be told.
      sigma: of the noise on the [-1, 1] scale; None: SIGMA, or estimated where a degraded picture is denoised.
        Plug-and-play weighs the data by its gain and does not ask for it.
      lookaheads: relative ones, from 0 to 1. Denoising walks from minimum error to perfect perception; within
        plug-and-play, where the knob sets every denoiser on the way, that is only the tendency.
      num_samples: of the solver's noise.
      steps: of plug-and-play.
      gain: of its data step; at 1 it never overshoots a linear operator.
      seed: of masks, noise and solver.
    """

    operator: str | Operator = "denoising"
    parameters: dict[str, Any] = field(default_factory=dict)
    degraded: bool = False
    sigma: float | None = None
    lookaheads: tuple[float, ...] = (0.0,)
    num_samples: int = 1
    steps: int = 100
    gain: float = 1.0
    seed: int = 0

    @property
    def name(self) -> str:
        """That of the operator."""
        return self.operator.name if isinstance(self.operator, Operator) else str(self.operator)

    def check(self) -> None:
        """Raises InputError for what could be used with no picture."""
        if isinstance(self.operator, Operator):
            if self.parameters:
                raise InputError(f"{self.name} has its parameters already: leave parameters out")
        elif callable(self.operator):
            raise InputError("an operator of your own: make it with operators.from_function")
        elif not isinstance(self.parameters, Mapping):
            raise InputError(f"parameters {self.parameters!r}: must be a dictionary")
        elif self.name not in operators.OPERATORS:
            raise InputError(
                f"--operator={self.name}{operators.did_you_mean(self.name, operators.OPERATORS)}:"
                f" must be one of {', '.join(operators.OPERATORS)}"
            )
        else:
            operators.check_parameters(self.name, self.parameters)
        numbers = {"lookahead": self.lookaheads, "sigma": (self.sigma or 1.0,), "gain": (self.gain,)}
        whole = {"num_samples": self.num_samples, "steps": self.steps, "seed": self.seed}
        for name, values in numbers.items():
            if not isinstance(values, tuple | list) or not values or not all(isinstance(x, Real) for x in values):
                raise InputError(f"{name} {values!r}: must be numbers{', in a tuple' * (name == 'lookahead')}")
        for name, value in whole.items():
            if not isinstance(value, Integral):
                raise InputError(f"{name} {value!r}: must be a whole number")
        for r in self.lookaheads:
            if not 0 <= r <= 1:
                raise InputError(f"--lookahead={r:g}: must be from 0 (minimum error) to 1 (perfect perception)")
        if self.sigma is not None and not 0 < self.sigma < math.inf:
            raise InputError(f"--sigma={self.sigma:g}: must be positive, on the [-1, 1] scale (.05 is 6.4 of 255)")
        if not (1 <= self.num_samples <= MAX_COUNT and 1 <= self.steps <= MAX_COUNT):
            raise InputError(
                f"--num_samples={self.num_samples} --steps={self.steps}: both must be from 1 to {MAX_COUNT}"
            )
        if not 0 < self.gain < math.inf:
            raise InputError(f"--gain={self.gain:g}: must be positive; 1 never overshoots a linear operator")
        if not -(2**63) <= self.seed < 2**63:
            raise InputError(f"--seed={self.seed}: must be a number of 64 bits")
        if self.num_samples > 1 and self.operator == "denoising":
            raise InputError(f"--num_samples={self.num_samples}: denoising is deterministic: leave it out")
        if (
            self.degraded
            and self.operator in operators.RANDOM_OPERATORS
            and not {"mask", "kernel"} & self.parameters.keys()
        ):
            told = "kernel=FILE" if self.operator == "motion_blur" else "mask=FILE with --operator=brush_inpainting"
            raise InputError(f"--already_degraded: {self.operator} would be drawn anew: tell it, --operator_arg={told}")
        if self.degraded and self.operator in NOT_IMAGES:
            raise InputError(f"--already_degraded: what {self.operator} measures is no picture: give the clean one")
