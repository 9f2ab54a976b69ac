"""Several averages of the parameters, and the choice among them."""

import json
import shutil

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmdp import data
from fmdp.config.validation import validate
from fmdp.errors import InputError
from fmdp.exact import Gaussian
from fmdp.flow.average_field import flow_map, integrate
from fmdp.io.weights import read_weights
from fmdp.training import averages, loop
from fmdp.training.hyperparameters import hyperparameters
from fmdp.training.state import init_state
from fmdp.training.step import make_train_step
from fmdp.training.vectors import pack, take_apart
from tests.training.test_loop import IMAGES, leaves, small_config

pytestmark = pytest.mark.usefixtures("cheap_compilation")

SHAPE = IMAGES.shape[1:]


def averaged_config(*half_lives, steps=8, **parallel):
    """A run with an average of half-life 64 images, four steps, and these."""
    c = small_config(steps)
    c.ema.update(half_life=64.0, more_half_lives=half_lives)
    c.train.validation_images = 6 if half_lives else 0
    c.parallel.update(parallel)
    return c


@pytest.mark.device
@pytest.mark.slow
@pytest.mark.parametrize("form", [pack, lambda state: state])
def test_each_average_is_that_of_the_sequence_of_parameters(form):
    c = averaged_config(16.0, 1e9)
    step, batch, key = jax.jit(make_train_step(c)), next(data.batches(IMAGES, 16, 0)), jax.random.key(1)
    state = form(init_state(c, SHAPE, jax.random.key(0)).replace(step=jnp.int32(100)))  # with parameters known by now
    wanted = 3 * [np.concatenate([x.ravel() for x in leaves(take_apart(state).ema)])]
    for k in range(4):
        state, _ = step(state, batch, key)
        params = np.concatenate([x.ravel() for x in leaves(take_apart(state).params["network"])])
        decays = [min(2 ** (-16 / half_life), (101 + k) / (110 + k)) for half_life in (64, 16, 1e9)]
        wanted = [d * average + (1 - d) * params for d, average in zip(decays, wanted, strict=True)]
    found = take_apart(state)
    for average, expected in zip((found.ema, *found.more_ema), wanted, strict=True):
        np.testing.assert_allclose(np.concatenate([x.ravel() for x in leaves(average)]), expected, atol=1e-6)
    assert abs(wanted[0] - wanted[1]).max() > 1e-4 < abs(wanted[0] - wanted[2]).max()


@pytest.mark.device
@pytest.mark.slow
def test_more_averages_change_nothing_else_and_their_half_lives_compile_nothing():
    batch, key = next(data.batches(IMAGES, 16, 0)), jax.random.key(1)
    one, several, other = averaged_config(), averaged_config(16.0), averaged_config(300.0)
    step, alone = jax.jit(make_train_step(several)), jax.jit(make_train_step(one))
    state = pack(init_state(several, SHAPE, jax.random.key(0)))
    after, _ = step(state, batch, key, hyperparameters(several))
    step(state, batch, key, hyperparameters(other))
    assert step._cache_size() == 1
    plain, _ = alone(pack(init_state(one, SHAPE, jax.random.key(0))), batch, key, hyperparameters(one))
    for a, b in zip(leaves(after.replace(more_ema=())), leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)


@pytest.mark.device
def test_the_flow_along_the_velocity_ends_where_the_exact_flow_map_does():
    field = Gaussian(0.3 * jnp.ones((4, 4, 1)), 0.25).average_field
    x = jax.random.normal(jax.random.key(0), (5, 4, 4, 1))
    for s, tolerance in ((0.0, 0.02), (0.5, 2e-3), (1.0, 1e-6)):
        np.testing.assert_allclose(integrate(field, x, s, 8), flow_map(field, x, s, 1.0), atol=tolerance)
    errors = [abs(integrate(field, x, 0.4, n) - flow_map(field, x, 0.4, 1.0)).max() for n in (8, 16)]
    assert 3 < errors[0] / errors[1] < 9  # at least of second order


@pytest.mark.device
def test_the_error_is_the_closed_form_for_an_exact_field_and_larger_for_any_other():
    v, images = 0.25, np.random.default_rng(1).normal(0.0, 0.5, (2000, 4, 4, 1)).astype(np.float32)
    exact = Gaussian(jnp.zeros((4, 4, 1)), v).average_field
    wanted = np.mean([v * a**2 / ((1 - a) ** 2 * v + a**2) for a in averages.NOISE_LEVELS])
    found = averages.validation_error(exact, images, 1000)
    assert found == pytest.approx(wanted, rel=0.02)
    scaled = jax.tree_util.Partial(lambda factor, x, s, t: factor * exact(x, s, t))
    smooth = jax.tree_util.Partial(lambda x, s, t: exact(x, s, s))  # no lookahead: a lower MSE at t = 1
    long_jumps = jax.tree_util.Partial(lambda x, s, t: exact(x, s, t) * (1 + 2 * (t - s))[..., None, None, None])
    fields = [jax.tree_util.Partial(scaled, jnp.float32(0.9)), jax.tree_util.Partial(scaled, jnp.float32(1.1))]
    for other in (*fields, smooth, long_jumps):
        assert averages.validation_error(other, images, 1000) > 1.005 * found


@pytest.mark.device
@pytest.mark.slow
@pytest.mark.parametrize("best", [0, 1, 2])
def test_the_planted_average_is_chosen(best):
    c = averaged_config(16.0, 256.0)
    state = init_state(c, SHAPE, jax.random.key(0))
    spoiled = [jax.tree.map(lambda x: x + 3 * jnp.cos(jnp.arange(x.size)).reshape(x.shape), state.ema) for _ in "12"]
    spoiled[0] = jax.tree.map(lambda x: x * jnp.nan, spoiled[0])
    spoiled.insert(best, state.ema)
    state = state.replace(ema=spoiled[0], more_ema=tuple(spoiled[1:]))
    progress = averages.choose(c, state, IMAGES[:6])
    assert progress["ema_half_life"] == (64.0, 16.0, 256.0)[best]
    assert len(progress) == 3  # the choice and two errors: one is not finite
    assert progress[f"validation_error_of_{progress['ema_half_life']:g}"] == min(list(progress.values())[1:])
    for a, b in zip(leaves(averages.with_chosen(c, state, progress).ema), leaves(spoiled[best]), strict=True):
        np.testing.assert_array_equal(a, b)
    nothing = state.replace(
        ema=spoiled[1 if best else 2], more_ema=2 * (jax.tree.map(lambda x: x * jnp.nan, state.ema),)
    )
    assert averages.choose(c, nothing.replace(ema=nothing.more_ema[0]), IMAGES[:6]) == {"ema_half_life": 64.0}


@pytest.mark.device
@pytest.mark.slow
@pytest.mark.parametrize("parallel", [{}, {"mode": "pmap"}, {"fsdp": True}])
def test_a_run_uses_the_average_that_it_chose(parallel, tmp_path, capsys):
    c = averaged_config(1.0, 10.0, **parallel)
    state, progress = loop.fit(c, IMAGES, tmp_path)
    errors = {x: progress[f"validation_error_of_{x:.12g}"] for x in averages.half_lives(c)}
    assert len(set(errors.values())) == 3
    assert progress["ema_half_life"] == min(errors, key=errors.get) != 64.0
    index = (1.0, 10.0).index(progress["ema_half_life"])
    for a, b in zip(leaves(state.ema), leaves(state.more_ema[index]), strict=True):
        np.testing.assert_array_equal(a, b)
    arrays, model, _ = read_weights(tmp_path)
    for name, wanted in flax.traverse_util.flatten_dict(state.ema, sep="/").items():
        np.testing.assert_array_equal(arrays[name], wanted)
    assert model["about"]["train"] == progress
    restored, _ = loop.restore_state(c, SHAPE, tmp_path)
    again, _ = loop.fit(c, IMAGES, tmp_path)
    assert "already trained" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "checkpoints" / "8")
    resumed, after = loop.fit(c, IMAGES, tmp_path)
    for other in (restored, again, resumed):
        for a, b in zip(leaves(state), leaves(other), strict=True):
            np.testing.assert_array_equal(a, b)
    assert {**after, "seconds": 0, "examples_per_second": 0} == {**progress, "seconds": 0, "examples_per_second": 0}


@pytest.mark.slow
def test_images_set_aside_are_not_trained_on_and_belong_to_the_run(tmp_path):
    rest, aside, index = data.set_aside(IMAGES, 6, 3)
    assert (len(rest), len(aside)) == (34, 6)
    np.testing.assert_array_equal(rest[:], IMAGES[index])
    both = np.concatenate([rest[:], aside])
    np.testing.assert_array_equal(np.sort(both.reshape(40, -1), 0), np.sort(IMAGES.reshape(40, -1), 0))
    np.testing.assert_array_equal(data.set_aside(IMAGES, 6, 3)[1], aside)
    assert (data.set_aside(IMAGES, 6, 4)[2] != index).any()
    bytes_too = data.set_aside(data.UInt8Images(np.arange(40 * 64, dtype=np.uint8).reshape(40, 8, 8, 1)), 6, 3)
    np.testing.assert_array_equal(bytes_too[2], index)
    assert data.set_aside(IMAGES, 0, 3)[0] is IMAGES

    c = averaged_config(16.0)
    images = IMAGES.copy()
    images[np.setdiff1d(np.arange(40), data.set_aside(IMAGES, 6, c.seed)[2])] = np.nan
    _, progress = loop.fit(c, images, tmp_path)
    assert progress["skipped"] == 0
    assert progress["ema_half_life"] == 64.0  # no error is finite
    c.train.validation_images = 7
    with pytest.raises(InputError, match=r"config\.train\.validation_images was 6 and is now 7"):
        loop.fit(c, IMAGES, tmp_path)


@pytest.mark.slow
def test_a_fault_names_the_images_by_their_place_among_all(tmp_path):
    c = averaged_config(16.0)
    c.train.update(max_consecutive_skips=1, batch_size=8)
    index = data.set_aside(IMAGES, 6, c.seed)[2]
    wanted = ", ".join(map(str, np.sort(index[data.records(IMAGES[index], 8, c.seed, 1)])))
    with pytest.raises(InputError, match=f"on the training images {wanted};"):
        loop.fit(c, np.full_like(IMAGES, np.nan), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ema.more_half_lives": (16.0, -1.0)}, r"config\.ema\.more_half_lives = .*: must be positive"),
        ({"ema.more_half_lives": ("x",)}, r"config\.ema\.more_half_lives = .*: must be a"),
        ({"ema.more_half_lives": (16.0, 64.0)}, "must differ from each other and from config.ema.half_life"),
        ({"train.validation_images": 0}, r"config\.train\.validation_images = 0: must be 1 or more to choose"),
        ({"train.validation_images": -1}, r"config\.train\.validation_images = -1: must be 0 or more"),
    ],
)
def test_what_cannot_be_is_refused(change, message):
    c = averaged_config(16.0)
    with c.unlocked():
        c.update_from_flattened_dict(change)
    with pytest.raises(InputError, match=message):
        validate(c)


def test_too_many_images_set_aside_are_refused():
    with pytest.raises(InputError, match=r"validation_images = 21: must leave at least half of the 40 training images"):
        data.set_aside(IMAGES, 21, 0)


def test_the_choice_is_a_fact_of_the_report():
    from fmdp.evaluation.summary import Summary
    from fmdp.reporting.html_page import _facts

    train = {"steps": 8, "ema_half_life": 16.0, "validation_error_of_16": 0.1, "validation_error_of_64": 0.2}
    facts = dict(_facts(Summary(config="x", train=train)))
    assert facts["training: ema half life"] == "16"
    assert facts["training: validation error of 64"] == "0.2"
    json.dumps(train)
