import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fmdp import data
from fmdp.config.defaults import default_config
from fmdp.training.hyperparameters import hyperparameters, learning_rate
from fmdp.training.state import TrainState, init_state, make_optimizer
from fmdp.training.step import make_train_step, update
from tests.training.test_loop import IMAGES, small_config


def config_of(steps=8, decay=True, half_life=200_000.0, **optimizer):
    c = small_config(steps, diagonal_share=1.0)
    c.optimizer.update(optimizer, decay=decay)
    c.ema.half_life = half_life
    return c


def schedule_of_optax(c):
    rate, warmup, steps = c.optimizer.learning_rate, c.optimizer.warmup_steps, c.train.steps
    if c.optimizer.decay:
        return optax.warmup_cosine_decay_schedule(0.0, rate, min(warmup, steps // 2), steps)
    return optax.linear_schedule(0.0, rate, max(warmup, 1))


@pytest.mark.parametrize("decay", [True, False])
@pytest.mark.parametrize(
    ("steps", "warmup"), [(1, 0), (1, 100), (2, 100), (7, 0), (7, 3), (5700, 100), (400_000, 5000)]
)
def test_the_learning_rate_equals_the_schedules_of_optax(steps, warmup, decay):
    c = config_of(steps, decay, learning_rate=3e-3, warmup_steps=warmup)
    updates = np.unique(np.linspace(0, steps + 2, 500).astype(np.int32))
    rates = jax.jit(jax.vmap(learning_rate, (None, 0)))(hyperparameters(c), updates)
    wanted = jax.vmap(schedule_of_optax(c))(updates)
    np.testing.assert_allclose(rates, wanted, atol=3e-3 * 2e-7, rtol=0)


def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero():
    numbers = hyperparameters(config_of(20, learning_rate=1.0, warmup_steps=4))
    rates = [float(learning_rate(numbers, updates)) for updates in (0, 1, 4, 12, 20, 30)]
    assert rates == pytest.approx([0, 1 / 4, 1, 1 / 2, 0, 0], abs=1e-7)


def test_the_average_halves_its_distance_over_the_half_life():
    c = config_of(half_life=16.0 * 50)
    assert hyperparameters(c).ema_decay ** 50 == pytest.approx(0.5, rel=1e-5)


def test_only_the_average_of_random_parameters_forgets_them_quickly():
    c = default_config()
    state = TrainState(np.int32(0), {"network": np.float32(1)}, np.float32(0), (), np.zeros(2, np.int32))
    for start, kept in (("", 0.1), ("fashion_mnist", hyperparameters(c).ema_decay)):
        c.train.start_from, c.optimizer.learning_rate = start, 1e-30
        numbers = hyperparameters(c)
        state = state.replace(opt_state=make_optimizer(c, numbers).init(state.params))
        moved, _ = update(c, numbers, state, {"network": np.float32(1)}, {"loss": jnp.ones(())})
        assert moved.ema == pytest.approx(1 - kept, rel=1e-4)


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_a_step_moves_the_parameters_as_the_adamw_of_optax(weight_decay):
    """With traced numbers, and with the state that a checkpoint of a program with constants holds."""
    c = config_of(learning_rate=1e-2, warmup_steps=2, weight_decay=weight_decay)
    constant = optax.chain(
        optax.clip_by_global_norm(c.optimizer.clip_norm),
        optax.adamw(schedule_of_optax(c), b1=c.optimizer.b1, b2=c.optimizer.b2, weight_decay=weight_decay),
        optax.partition(
            {"network": optax.identity(), "log_variance": optax.scale(c.loss.weight_learning_rate)},
            lambda params: {name: name for name in params},
        ),
    )
    traced = jax.jit(lambda numbers, *given: make_optimizer(c, numbers).update(*given))
    params = {"network": {"w": jnp.array([1.0, -2.0, 0.5])}, "log_variance": {"b": jnp.array([0.1])}}
    ours, theirs = make_optimizer(c, hyperparameters(c)).init(params), constant.init(params)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for step in range(6):
        gradient = jax.tree.map(lambda x, k=step: jnp.sin(x + k), params)
        update, ours = traced(hyperparameters(c), gradient, ours, params)
        wanted, theirs = constant.update(gradient, theirs, params)
        for a, b in zip(jax.tree.leaves((update, ours)), jax.tree.leaves((wanted, theirs)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-9)
        params = optax.apply_updates(params, update)


@pytest.mark.slow
def test_steps_that_differ_only_in_numbers_are_one_program():
    one = config_of(8, learning_rate=1e-3, warmup_steps=2)
    other = config_of(40, learning_rate=3e-3, warmup_steps=5, weight_decay=0.2, half_life=3000.0)
    given = init_state(one, IMAGES.shape[1:], jax.random.key(0)), next(data.batches(IMAGES, 16, 0)), jax.random.key(1)

    def program(c, *numbers):
        return jax.jit(make_train_step(c)).lower(*given, *numbers).as_text()

    assert program(one, hyperparameters(one)) == program(other, hyperparameters(other))
    assert program(one) != program(other)  # by default they are constants
