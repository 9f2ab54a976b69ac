"""Forward operators of inverse problems: `make` one by name, or take any JAX function with `from_function`."""

from fmdp.operators.catalogue import OPERATORS, check, make, nearest
from fmdp.operators.operator import Operator, adjoint, from_function, norm

__all__ = ["OPERATORS", "Operator", "adjoint", "check", "from_function", "make", "nearest", "norm"]
