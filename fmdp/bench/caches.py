"""JAX's persistent cache of compiled programs, set aside or replaced for one measurement."""

import contextlib
from collections.abc import Iterator

import jax
from jax.experimental.compilation_cache import compilation_cache

CACHE = ("jax_enable_compilation_cache", "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")


@contextlib.contextmanager
def persistent_cache(folder: str) -> Iterator[None]:
    """Keep every compiled program in this folder within the block."""
    with _changed(True, folder, 0.0):
        yield


@contextlib.contextmanager
def without_persistent_cache() -> Iterator[None]:
    """Compile within the block as if there were no persistent cache."""
    with _changed(False, None, 0.0):
        yield


@contextlib.contextmanager
def _changed(*values: object) -> Iterator[None]:
    before = [getattr(jax.config, name) for name in CACHE]
    try:
        _update(values)
        yield
    finally:
        _update(before)


def _update(values) -> None:
    for name, value in zip(CACHE, values, strict=True):
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # JAX decides once, at the first compilation, whether it uses a cache
