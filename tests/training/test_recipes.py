"""Options of config.loss that change how a step is made of the terms: teacher, intervals, dropout, phases."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmdp import data
from fmdp.config.phases import phases
from fmdp.flow import losses
from fmdp.parallel import mesh
from fmdp.training import loop
from fmdp.training.hyperparameters import hyperparameters
from fmdp.training.loss import Fixed, make_loss
from fmdp.training.state import init_state
from fmdp.training.step import make_train_step, step_form
from tests.training.test_loop import IMAGES, devices_there, leaves, one_step, small_config

pytestmark = pytest.mark.usefixtures("cheap_compilation")

UNET = dict(name="unet", channels=4, multipliers=(1,), blocks=1, attention=(), resolution=8)


def moved(c, seed=1):
    """Parameters some way from their start, at which the network is zero."""
    params = init_state(c, IMAGES.shape[1:], jax.random.key(0)).params
    return jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(seed), x.shape), params)


def batch():
    return jax.tree.map(jnp.asarray, next(data.batches(IMAGES, 16, 0)))


@pytest.mark.device
@pytest.mark.slow
@pytest.mark.parametrize("difference", [0.0, 0.05])
@pytest.mark.parametrize("name", losses.OFF_DIAGONAL)
def test_a_teacher_makes_the_targets_and_has_no_gradient(name, difference):
    c = small_config(off_diagonal=name, difference=difference)
    params, other, key = moved(c), moved(c, 2)["network"], jax.random.key(2)

    @jax.jit
    def of(params, teacher):
        return jax.value_and_grad(lambda *x: make_loss(c)(x[0], batch(), key, Fixed(x[1]))[0], (0, 1))(params, teacher)

    itself, (gradient, _) = of(params, params["network"])
    plain, slope = jax.jit(jax.value_and_grad(lambda params: make_loss(c)(params, batch(), key)[0]))(params)
    np.testing.assert_allclose(itself, plain, rtol=1e-4)
    for a, b in zip(leaves(gradient), leaves(slope), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3 * np.abs(b).max() + 1e-6)
    another, (_, none) = of(params, other)
    assert abs(another / itself - 1) > 1e-3
    assert not any(x.any() for x in leaves(none))


@pytest.mark.device
@pytest.mark.slow
def test_the_teacher_follows_by_its_decay_and_parallel_modes_agree(monkeypatch):
    monkeypatch.setattr(mesh, "MIN_SHARDED_SIZE", 16)
    c = small_config(teacher_decay=0.9, interval_steps=4, diagonal_share=0.5)
    c.optimizer.update(learning_rate=1e-2, warmup_steps=0)
    state = step_form(c, init_state(c, IMAGES.shape[1:], jax.random.key(0)))
    after, _ = jax.jit(make_train_step(c))(state, batch(), jax.random.key(1))
    expected = 0.9 * state.teacher.values + 0.1 * after.params["network"].values
    np.testing.assert_allclose(after.teacher.values, expected, rtol=1e-5, atol=1e-7)
    assert (after.teacher.values != state.teacher.values).any()

    devices = devices_there()
    one, metrics = one_step(c, "jit", devices[:1])
    for mode, fsdp, parts in (("pmap", False, 1), ("jit", True, 2)):
        c.train.grad_accumulation_steps = parts
        several, metrics_of_several = one_step(c, mode, devices, fsdp)
        for name in metrics:
            np.testing.assert_allclose(metrics[name], metrics_of_several[name], rtol=1e-5)
        for a, b in zip(leaves(one), leaves(several), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-6)


@pytest.mark.slow
def test_other_decays_and_interval_steps_are_the_same_program():
    one, other = (small_config(teacher_decay=d, interval_steps=n) for d, n in ((0.9, 4), (0.99, 7)))
    given = init_state(one, IMAGES.shape[1:], jax.random.key(0)), batch(), jax.random.key(1)
    texts = [jax.jit(make_train_step(c)).lower(*given, hyperparameters(c)).as_text() for c in (one, other)]
    assert texts[0] == texts[1]


def test_intervals_grow_to_their_length():
    numbers = hyperparameters(small_config(interval_steps=4))
    assert [float(numbers.interval(jnp.asarray(step))) for step in (0, 1, 4, 9)] == [0, 0.25, 1, 1]
    assert hyperparameters(small_config()).interval(jnp.asarray(0)) is None


@pytest.mark.device
@pytest.mark.slow
def test_an_interval_shortens_the_jumps():
    c = small_config(off_diagonal="semigroup")
    loss = jax.jit(lambda interval: make_loss(c)(moved(c), batch(), jax.random.key(2), Fixed(None, interval))[1])
    whole, _ = loss(1.0), loss(0.5)
    plain = jax.jit(make_loss(c))(moved(c), batch(), jax.random.key(2))[1]
    np.testing.assert_allclose(whole["off_diagonal"], plain["off_diagonal"], rtol=1e-5)
    assert loss(0.0)["off_diagonal"] < 1e-10 < loss(0.5)["off_diagonal"] < whole["off_diagonal"]


@pytest.mark.device
@pytest.mark.slow
@pytest.mark.parametrize("name", losses.OFF_DIAGONAL)
def test_dropout_acts_on_every_loss(name):
    terms = []
    for dropout in (0.0, 0.5):
        c = small_config(off_diagonal=name)
        c.network = UNET | {"dropout": dropout}
        terms.append(jax.jit(make_loss(c))(moved(c), batch(), jax.random.key(2))[1])
    for term in ("diagonal", "off_diagonal"):
        assert abs(terms[1][term] / terms[0][term] - 1) > 1e-3


@pytest.mark.device
@pytest.mark.slow
def test_targets_have_no_dropout():
    """Over an empty interval the two sides of the semigroup identity are one field, so dropout is their difference."""
    errors = []
    for dropout in (0.0, 0.5):
        c = small_config(off_diagonal="semigroup")
        c.network = UNET | {"dropout": dropout}
        empty = Fixed(None, jnp.float32(0))
        errors.append(jax.jit(make_loss(c))(moved(c), batch(), jax.random.key(2), empty)[1]["off_diagonal"])
    assert errors[0] < 1e-10
    assert errors[1] > 1e-3


@pytest.mark.device
@pytest.mark.slow
def test_a_run_with_a_teacher_resumes_bit_for_bit(tmp_path):
    c = small_config(teacher_decay=0.9, interval_steps=6)
    whole, _ = loop.fit(c, IMAGES, tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "8")
    resumed, _ = loop.fit(c, IMAGES, tmp_path)
    assert resumed.teacher is not None
    for a, b in zip(leaves(whole), leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_each_phase_trains_its_share_and_resumes(tmp_path):
    c = small_config(phases=((0.5, 1.0), (0.25, 0.5), (0.25, 0.75)))
    whole, _ = loop.fit(c, IMAGES, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert ["off_diagonal" in line for line in lines] == [False, False, True, True]
    shutil.rmtree(tmp_path / "checkpoints" / "8")
    resumed, _ = loop.fit(c, IMAGES, tmp_path)  # from step 4, the last of the first phase
    for a, b in zip(leaves(whole), leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_phases_end_at_their_parts_of_the_steps():
    assert phases(small_config(steps=10)) == [(10, 0.75)]
    assert phases(small_config(steps=10, phases=((0.3, 1.0), (0.7, 0.5)))) == [(3, 1.0), (10, 0.5)]
