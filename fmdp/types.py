"""Array types used in signatures. Images are NHWC float32 in [-1, 1] unless a docstring says otherwise."""

from collections.abc import Callable
from typing import Protocol, TypeAlias, runtime_checkable

from jax import Array
from jaxtyping import Float, Key

Image: TypeAlias = Float[Array, "h w c"]
Images: TypeAlias = Float[Array, "*batch h w c"]
BroadcastImages: TypeAlias = Float[Array, "*#batch h w c"]
Time: TypeAlias = Float[Array, "*#batch"] | float
Scalar: TypeAlias = Float[Array, ""]
PRNGKey: TypeAlias = Key[Array, ""]

AverageField: TypeAlias = Callable[[Array, Time, Time], Array]
"""(x, s, t) -> v, the mean velocity of the flow between the times s and t, started from x at s.

x is [..., H, W, C]; s and t are scalars or of the leading shape of x.
"""


@runtime_checkable
class SizedField(Protocol):
    """An average field that knows the images it was trained on, such as `pretrained.Prior`; a pytree."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""

    def __call__(self, x: Array, s: Time, t: Time) -> Array:
        """v(x, s, t), as for any average field."""
