"""The precision of matrix products and convolutions, which a process sets once, before it compiles anything."""

import jax

PRECISIONS = ("default", "highest")
AUTO = "auto"  # the type of a network's products that suits the device


def use_precision(name: str) -> None:
    """Compute every product and convolution of this process in this precision, except those that name their own.

    It is part of the compiled programs, so the two precisions have different keys in the cache of programs.

    Args:
      name: one of PRECISIONS. "highest" multiplies float32 numbers in float32. "default" leaves the choice to JAX: it
        rounds the factors to TensorFloat-32 on a GPU and to bfloat16 on a TPU, unless JAX_DEFAULT_MATMUL_PRECISION
        names another precision. A CPU multiplies in float32 in either case.
    """
    if name == "highest":
        jax.config.update("jax_default_matmul_precision", name)


def product_type(name: str | None) -> str | None:
    """The type of a network's products: for AUTO bfloat16 on a GPU or TPU and None, that of the input, on a CPU."""
    if name != AUTO:
        return name
    return None if jax.default_backend() == "cpu" else "bfloat16"
