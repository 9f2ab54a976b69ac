"""A solver on a batch of measurements, as one compiled program."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fmdp import operators
from fmdp.config.tasks import Task
from fmdp.errors import InputError, translating
from fmdp.operators.noise import GaussianNoise, LaplaceNoise, Noise, Observation, PoissonNoise, observe
from fmdp.parallel.batching import in_batches, shard_rows
from fmdp.solvers import SOLVERS, STATIC, Info
from fmdp.types import AverageField, PRNGKey

ONE_BY_ONE = ("d_flow",)  # solvers that are not vectorised over images, see there
NOISES: dict[str, Callable[[float], Noise]] = {
    "sigma": lambda sigma: GaussianNoise(sigma=sigma),
    "peak": lambda peak: PoissonNoise(peak=peak),
    "laplace": lambda scale: LaplaceNoise(scale=scale),
}


def draw_observations(task: Task, name: str, images: Array, key: PRNGKey) -> Observation:
    """The measurements of images [n, H, W, C]: masks, kernels and noise are drawn anew for each; a batched Observation.

    Raises:
      InputError: an operator, a parameter or a noise that is not known or cannot be used.
    """
    given = [noise for noise in NOISES if noise in task]
    if "operator" not in task or len(given) != 1:
        raise InputError(f"task {name}: name its operator, and one of sigma, peak and laplace for its noise")
    parameters = {key: value for key, value in task.items() if key not in ("operator", "steps", *NOISES)}

    def one(x, key):
        operator_key, noise_key = jax.random.split(key)
        operator = operators.make(task["operator"], x.shape, operator_key, **parameters)
        noise = NOISES[given[0]](task[given[0]])
        return observe(operator, noise, x, noise_key)

    with translating(lambda why: f"task {name}: {why}", InputError):
        return jax.vmap(one)(images, jax.random.split(key, len(images)))


def solve_batch(
    field: AverageField, observations: Observation, key: PRNGKey, solver: str, options: dict[str, Any], batch: int
) -> tuple[np.ndarray, Info]:
    """A set of n observations restored in batches, [n, H, W, C]; compiled once for all values of traced options."""
    numbers = {name: jnp.float32(value) for name, value in options.items() if name not in STATIC[solver]}
    static = tuple(sorted((name, value) for name, value in options.items() if name in STATIC[solver]))
    n = len(observations.y)
    # As a list of arrays: an Observation checks its values, but with several processes each holds only a part of them.
    arrays, form = jax.tree.flatten((observations, jax.random.key_data(jax.random.split(key, n))))
    restore = partial(_solve, field, numbers, form=form, solver=solver, static=static)
    return in_batches(restore, arrays, min(batch, n))


@partial(jax.jit, static_argnames=("form", "solver", "static"))
def _solve(
    field: AverageField,
    numbers: dict[str, Array],
    arrays: list[Array],
    form: jax.tree_util.PyTreeDef,
    solver: str,
    static: tuple,
) -> tuple[Array, Info]:
    """The solver on the rows of (observations, data of their keys) with these arrays, each device on its own."""

    def rows(shared, arrays):
        field, numbers = shared
        given = jax.tree.unflatten(form, arrays)

        def one(given):
            observed, key = given
            return SOLVERS[solver](field, observed, jax.random.wrap_key_data(key), **dict(static), **numbers)

        return jax.lax.map(one, given) if solver in ONE_BY_ONE else jax.vmap(one)(given)

    return shard_rows(rows)((field, numbers), arrays)
