from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.test_util import check_grads

from fmdp.flow import losses
from fmdp.flow.average_field import flow_map
from fmdp.flow.interpolant import interpolate
from fmdp.networks.mlp import MLP

pytestmark = [pytest.mark.device, pytest.mark.usefixtures("cheap_compilation")]

S, U, T = 0.25, 0.5, 0.8
SHAPE = (2, 3, 1)


@pytest.fixture
def setup(x64):
    """A small network at random parameters, noise and data, all float64."""
    network = MLP(width=8, blocks=1, frequencies=2)
    params = network.init(jax.random.key(0), jnp.zeros(SHAPE), 0.0, 0.0)
    flat, unravel = ravel_pytree(params)
    flat = flat + 0.3 * jax.random.normal(jax.random.key(1), flat.shape)
    x0, x1 = jax.random.normal(jax.random.key(2), (2, *SHAPE))
    times = tuple(jnp.asarray(time) for time in (S, U, T))
    return lambda flat: partial(network.apply, unravel(flat)), flat, x0, x1, times


def central(function, x, step=1e-5):
    return (function(x + step) - function(x - step)) / (2 * step)


def targets(field, x0, x1, s, u, t):
    """What each term regresses on, with central differences in the place of every jvp."""
    x_s, b = interpolate(x0, x1, s), x1 - x0
    end = flow_map(field, x_s, s, t)

    def eulerian(b, tangent):
        return b + (t - s) * central(lambda h: field(x_s + h * tangent, s + h, t), 0.0)

    own, middle = field(x_s, s, s), flow_map(field, x_s, s, u)
    return {
        "lagrangian": field(end, t, t),
        "semigroup": (flow_map(field, middle, u, t) - x_s) / (t - s),
        "eulerian": eulerian(own, own),
        "meanflow": eulerian(b, b),
        "improved_meanflow": eulerian(b, own),
    }


def students(field, x0, x1, s, t):
    """What each term pulls towards its target."""
    x_s = interpolate(x0, x1, s)
    v = field(x_s, s, t)
    speed = central(lambda t: flow_map(field, x_s, s, t), t)
    return {"lagrangian": speed} | dict.fromkeys(("semigroup", "eulerian", "meanflow", "improved_meanflow"), v)


@pytest.mark.slow
@pytest.mark.parametrize("name", losses.OFF_DIAGONAL)
def test_value_and_gradient_against_finite_differences(setup, name):
    make, flat, x0, x1, (s, u, t) = setup
    fixed = targets(make(flat), x0, x1, s, u, t)[name]

    def expected(flat):
        return jnp.mean((students(make(flat), x0, x1, s, t)[name] - fixed) ** 2)

    value, gradient = jax.value_and_grad(lambda flat: losses.OFF_DIAGONAL[name](make(flat), x0, x1, s, u, t))(flat)
    np.testing.assert_allclose(value, expected(flat), rtol=1e-7)
    for seed in range(3):
        direction = jax.random.normal(jax.random.key(seed), flat.shape)
        direction /= jnp.linalg.norm(direction)
        slope = central(lambda h, d=direction: expected(flat + h * d), 0.0, 1e-4)
        np.testing.assert_allclose(gradient @ direction, slope, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_diagonal_gradient(setup):
    make, flat, x0, x1, (s, _, _) = setup
    check_grads(lambda flat: losses.diagonal(make(flat), x0, x1, s), (flat,), order=1, modes=["rev"])


def test_network_gradients_in_parameters_input_and_times(setup):
    make, flat, x0, _, (s, _, t) = setup

    def apply(flat, *inputs):
        return make(flat)(*map(jnp.asarray, inputs))

    check_grads(apply, (flat, x0, s, t), order=1, modes=["fwd", "rev"])


def test_every_loss_is_zero_where_the_data_is_one_point(x64):
    """There the flow is known: straight lines to the point, so x1 - x0 is the velocity itself."""
    x1, x0 = jax.random.normal(jax.random.key(0), (2, *SHAPE))

    def field(x, s, t):
        return (x1 - x) / (1 - s)

    s, u, t = (jnp.asarray(time) for time in (S, U, T))
    assert losses.diagonal(field, x0, x1, s) < 1e-25
    for term in losses.OFF_DIAGONAL.values():
        assert term(field, x0, x1, s, u, t) < 1e-25
        wrong = term(lambda x, s, t: field(x, s, t) * (1 + t - s), x0, x1, s, u, t)
        assert wrong > 1e-3


@pytest.mark.parametrize("name", losses.OFF_DIAGONAL)
def test_a_finite_difference_gives_the_value_and_the_gradient_of_the_derivative(setup, name):
    make, flat, x0, x1, times = setup

    def of(step):
        return jax.value_and_grad(lambda flat: losses.OFF_DIAGONAL[name](make(flat), x0, x1, *times, None, step))(flat)

    (exact, gradient), (close, slope), (far, _) = of(0.0), of(1e-3), of(0.1)
    np.testing.assert_allclose(close, exact, rtol=1e-4)
    np.testing.assert_allclose(slope, gradient, rtol=1e-3, atol=1e-4 * jnp.abs(gradient).max())
    assert (far == exact) == (name == "semigroup")  # which has no derivative


@pytest.mark.parametrize("name", losses.OFF_DIAGONAL)
@pytest.mark.parametrize(
    "times", [(0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.0, 0.5, 1.0), (0.4, 0.4, 0.4), (0.4, 0.4, 0.401)]
)
def test_a_finite_difference_keeps_to_ordered_times_in_the_unit_interval(name, times, x64):
    x0, x1 = jax.random.normal(jax.random.key(0), (2, *SHAPE))

    def field(x, s, t):
        return jnp.where((s >= 0) & (s <= t) & (t <= 1), 1 + s * t, jnp.nan) * x

    value = losses.OFF_DIAGONAL[name](field, x0, x1, *map(jnp.asarray, times), None, 0.1)
    assert jnp.isfinite(value)


@pytest.mark.parametrize("name", ["meanflow", "improved_meanflow"])
def test_the_conditional_losses_become_flow_matching_on_the_diagonal(setup, name):
    make, flat, x0, x1, (s, _, _) = setup
    value, gradient = jax.value_and_grad(lambda flat: losses.OFF_DIAGONAL[name](make(flat), x0, x1, s, s, s))(flat)
    expected, slope = jax.value_and_grad(lambda flat: losses.diagonal(make(flat), x0, x1, s))(flat)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(gradient, slope, rtol=1e-9, atol=1e-12)


def test_losses_are_per_pixel_means():
    big = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    zero = losses.diagonal(lambda x, s, t: jnp.zeros_like(x), big[0], big[1], 0.5)
    np.testing.assert_allclose(zero, jnp.mean((big[1] - big[0]) ** 2), rtol=1e-6)


@pytest.mark.parametrize(("power", "huber"), [(0.0, 0.0), (0.5, 0.0), (1.0, 0.0), (0.0, 0.1), (0.7, 0.1)])
def test_a_robust_loss_against_its_closed_form(x64, power, huber):
    loss = jnp.asarray(0.3)
    value, slope = jax.value_and_grad(losses.adapt)(loss, power, huber)
    hubered, hubered_slope = (np.hypot(0.3**0.5, huber) - huber, 0.5 / np.hypot(0.3**0.5, huber)) if huber else (0.3, 1)
    weight = (hubered + losses.ADAPTIVE_FLOOR) ** -power
    np.testing.assert_allclose(value, weight * hubered, rtol=1e-12)
    np.testing.assert_allclose(slope, weight * hubered_slope, rtol=1e-12)  # none through the weight


@pytest.mark.parametrize("huber", [0.0, 0.01])
def test_a_robust_loss_has_a_finite_gradient_at_zero(huber):
    assert jnp.isfinite(jax.grad(losses.adapt)(0.0, 0.5, huber))


def test_learned_weight_is_bounded_and_best_at_the_logarithm_of_the_loss():
    w = jnp.linspace(-3, 3, 601)
    best = w[jnp.argmin(jax.vmap(lambda w: losses.weigh(jnp.asarray(0.2), w, 4.0))(w))]
    assert 4.0 * jnp.tanh(best / 4.0) == pytest.approx(np.log(0.2), abs=0.02)
    runaway = jax.grad(lambda loss: losses.weigh(loss, jnp.asarray(1e6), 4.0))(0.2)
    assert runaway == pytest.approx(np.exp(-4.0), rel=1e-5)  # still there, not switched off
