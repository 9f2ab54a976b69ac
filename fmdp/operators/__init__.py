"""Forward operators of inverse problems: `make` one by name, or take any JAX function with `from_function`.

>>> import jax.numpy as jnp
>>> blur = make("gaussian_blur", (28, 28, 1), kernel_size=5, std=1.0)
>>> x = jnp.ones((28, 28, 1))
>>> blur(x).shape, adjoint(blur, blur(x)).shape
((28, 28, 1), (28, 28, 1))
>>> sorted(OPERATORS)[:3]
['box_inpainting', 'brush_inpainting', 'colorization']
"""

from fmdp.operators.base import Operator, adjoint, from_function, norm
from fmdp.operators.registry import GIVEN_ARRAYS, OPERATORS, RANDOM_OPERATORS, check_parameters, make

__all__ = [
    "GIVEN_ARRAYS",
    "OPERATORS",
    "RANDOM_OPERATORS",
    "Operator",
    "adjoint",
    "check_parameters",
    "from_function",
    "make",
    "norm",
]
