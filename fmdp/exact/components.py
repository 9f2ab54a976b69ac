"""The compiled part of Gaussian mixtures: posterior, velocity and flow of single points, and the solve for many."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from jax import Array

from fmdp.exact.gaussian import marginal_variance

STATIC = ("image_shape", "tolerance", "chunk", "adjoint")
MAX_STEPS = 4096  # of a solve


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Components:
    """What the functions below use of a mixture, as a pytree; mixtures of equal shape share one compilation.

    `bases` is [n, K, n], so that one product rotates into all bases; `rotated` are the means in their bases, [K, n].
    """

    log_weights: Array
    means: Array
    eigenvalues: Array
    roots: Array
    bases: Array
    rotated: Array
    image_shape: tuple[int, int, int] = field(metadata=dict(static=True))
    tolerance: float = field(metadata=dict(static=True))
    chunk: int = field(metadata=dict(static=True))
    adjoint: diffrax.AbstractAdjoint = field(metadata=dict(static=True))


def prepare(mixture: Any, xp: ModuleType, dtype) -> Components:
    """The components of a `GaussianMixture`, by numpy in float64 or, under a transformation, by jax.numpy."""
    arrays = dict(
        log_weights=xp.log(mixture.weights),
        means=mixture.means,
        eigenvalues=mixture.eigenvalues,
        roots=xp.sqrt(mixture.eigenvalues),
        bases=xp.swapaxes(mixture.bases, 0, 1),
        rotated=xp.einsum("kij,ki->kj", mixture.bases, mixture.means),
    )
    fields: dict[str, Any] = {name: jnp.asarray(array, dtype) for name, array in arrays.items()}
    return Components(**fields, **{name: getattr(mixture, name) for name in STATIC})


@partial(jax.jit, static_argnums=0)
def in_chunks(function: Callable, c: Components, x: Array, *each: Array, shared: Array | None = None) -> Array:
    """`function(c, x [n], *each)` for all queries, in equal chunks of at most `c.chunk`; vectors become images."""
    batch = x.shape[:-3]
    size = math.prod(batch)
    count = max(1, -(-size // c.chunk))
    width = -(-size // count)
    # Repeats fill the last chunk, so that one program serves all chunks.
    fill = jnp.minimum(jnp.arange(count * width), size - 1).reshape(count, width)
    queries = [a.reshape(size, *a.shape[len(batch) :])[fill] for a in (x.reshape(*batch, -1), *each)]
    extra = () if shared is None else (shared,)
    solve = jax.vmap(lambda *query: function(c, *query, *extra))
    out = solve(*(q[0] for q in queries))[None] if count == 1 else jax.lax.map(lambda q: solve(*q), tuple(queries))
    out = out.reshape(count * width, *out.shape[2:])[:size]
    return out.reshape(*batch, *(c.image_shape if out.ndim == 2 else out.shape[1:]))


def draw(c: Components, noise: Array, label: Array) -> Array:
    """A sample [n] of the component with this label."""
    return c.means[label] + c.bases[:, label] @ (c.roots[label] * noise)


def along(c: Components, x: Array, s: Array, times: Array) -> Array:
    """D_{s,t}(x) at all times [T], [T, n]: v(x, s, t) is the integral so far, divided by its share of the interval."""
    shares = jnp.clip((times - s) / jnp.where(s < 1, 1 - s, 1), 0, 1)
    starts, one = jnp.concatenate([jnp.zeros(1, x.dtype), shares[:-1]]), jnp.ones_like(s)

    def extend(v, interval):
        v = _advance(c, x, s, one, v, *interval)
        return v, v

    _, gathered = jax.lax.scan(extend, jnp.zeros_like(x), (starts, shares))
    near = shares[:, None] > 0
    v = jnp.where(near, gathered / jnp.where(near, shares[:, None], 1), velocity(c, x, s))
    return x + (1 - s) * v


def _posterior(c: Components, x: Array, t: Array) -> tuple[Array, Array, Array]:
    """Responsibilities [K], E[x1 - x0 | x, k] minus the mean of component k in its basis [K, n], and q [K, n]."""
    q = marginal_variance(c.eigenvalues, t)
    y = jnp.einsum("i,ikj->kj", x, c.bases) - t * c.rotated
    share = jax.nn.softmax(c.log_weights - (y**2 / q + jnp.log(q)).sum(-1) / 2)
    return share, (t * c.eigenvalues - (1 - t)) / q * y, q


def velocity(c: Components, x: Array, t: Array) -> Array:
    """b(x, t), [n]."""
    share, rotated, _ = _posterior(c, x, t)
    return share @ c.means + jnp.einsum("ikj,kj->i", c.bases, share[:, None] * rotated)


def posterior_variance(c: Components, x: Array, t: Array) -> Array:
    """The variance of x1 given x_t = x, the mean over its coordinates."""
    share, rotated, q = _posterior(c, x, t)
    centres = x + (1 - t) * (c.means + jnp.einsum("ikj,kj->ki", c.bases, rotated))
    within = (1 - t) ** 2 * c.eigenvalues / q
    between = (centres - share @ centres) ** 2
    return share @ (within + between).mean(-1)


def average(c: Components, x: Array, s: Array, t: Array) -> Array:
    """v(x, s, t), [n]."""
    return _advance(c, x, s, t, jnp.zeros_like(x), 0.0, 1.0)


def _advance(c: Components, x: Array, s: Array, t: Array, v: Array, start: Array | float, end: Array | float) -> Array:
    """dv/du = b(x + (t - s) v, s + u (t - s)) from v at u = start to u = end: from 0 to 1 it gives v(x, s, t), [n].

    There is no division by t - s, so that the end is exact at t = s. Where a solve takes more than MAX_STEPS steps, the
    result is not a number.
    """

    def speed(u, v, _):
        return velocity(c, x + (t - s) * v, s + u * (t - s))

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(speed),
        diffrax.Tsit5(),
        t0=start,
        t1=end,
        dt0=None,
        y0=v,
        saveat=diffrax.SaveAt(t1=True),
        stepsize_controller=diffrax.PIDController(rtol=c.tolerance, atol=c.tolerance),
        adjoint=c.adjoint,
        max_steps=MAX_STEPS,
        throw=False,  # it would call the host, and a program that does so is never kept in the compile cache
    )
    assert solution.ys is not None
    return jnp.where(solution.result == diffrax.RESULTS.successful, solution.ys[0], jnp.nan)
