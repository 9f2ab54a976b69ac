"""Numbers that are not finite, numbers of few bits, and a learned weight that would run away."""

import json
import signal
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmdp import data
from fmdp.errors import InputError
from fmdp.networks.log_variance import LogVariance
from fmdp.training import checkpoint, loop
from fmdp.training.hyperparameters import hyperparameters
from fmdp.training.state import init_state
from fmdp.training.step import make_train_step, step_form
from fmdp.training.vectors import take_apart
from tests.support.faults import signal_before
from tests.training.test_loop import leaves, small_config

pytestmark = pytest.mark.usefixtures("cheap_compilation")

DIGITS = data.digits()[0]
STEPS, BATCH, LIMIT = 16, 16, 3
ONE_EPOCH = DIGITS[: STEPS * BATCH]


def spoiled(steps):
    """Images of one epoch, in which the batch of each of these steps has one image that is not a number."""
    images = ONE_EPOCH.copy()
    for step in steps:
        images[data.records(images, BATCH, 0, step - 1)[5]] = np.nan
    return images


def config_of_one_epoch():
    c = small_config(steps=STEPS)
    c.train.update(checkpoint_every=8, max_consecutive_skips=LIMIT)
    return c


def by_hand(c, images, steps, state=None):
    """The state after the given steps, without the loop."""
    init_key, key = jax.random.split(jax.random.key(c.seed))
    state = step_form(c, state or init_state(c, images.shape[1:], init_key))
    step_fn = jax.jit(make_train_step(c))
    for step in steps:
        rows = np.arange(BATCH, dtype=np.int32)
        batch = {"image": images[data.records(images, BATCH, c.seed, step - 1)], "row": rows}
        state, metrics = step_fn(state, batch, key, hyperparameters(c))
    return take_apart(state), metrics


def assert_same(a, b):
    for x, y in zip(leaves(a), leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.device
@pytest.mark.slow
@pytest.mark.parametrize("scale", [np.nan, np.inf, 1e18])
def test_an_update_that_is_not_finite_changes_only_the_counts(scale):
    """Also where the loss is finite (at 1e18) and the gradient's norm is not."""
    c = config_of_one_epoch()
    before, _ = by_hand(c, ONE_EPOCH, [1, 2])
    after, metrics = by_hand(c, np.full_like(ONE_EPOCH, scale), [3], before)
    assert np.isfinite(metrics["loss"]) == (scale == 1e18)
    assert not np.isfinite(metrics["gradient_norm"])
    assert int(after.step) == 3
    assert_same(after.replace(step=before.step, skipped=before.skipped), before)
    assert (int(metrics["skipped_in_a_row"]), int(metrics["skipped"])) == (1, 1)
    later, metrics = by_hand(c, ONE_EPOCH, [4], after)
    assert (int(metrics["skipped_in_a_row"]), int(metrics["skipped"])) == (0, 1)
    for part in ("params", "ema", "opt_state"):
        assert any(
            (a != b).any() for a, b in zip(leaves(getattr(later, part)), leaves(getattr(after, part)), strict=True)
        )


@pytest.mark.slow
def test_all_devices_skip_what_one_of_them_finds_not_finite():
    """In a process of its own, because the number of devices is fixed when JAX starts."""
    program = """
        import jax
        jax.config.update("jax_num_cpu_devices", 4)
        import numpy as np
        from fmdp import data
        from fmdp.parallel import mesh
        from fmdp.parallel import data_parallel
        from fmdp.training.hyperparameters import hyperparameters
        from fmdp.training.state import init_state
        from fmdp.training.step import make_train_step
        from tests.robustness.test_numerics import BATCH, assert_same, config_of_one_epoch, leaves, spoiled
        mesh.MIN_SHARDED_SIZE = 16
        c = config_of_one_epoch()
        c.loss.diagonal_share = 0.5
        images, found = spoiled([3]), {}
        for mode, fsdp, parts in (("jit", False, 1), ("pmap", False, 1), ("jit", True, 1), ("jit", False, 2)):
            c.train.grad_accumulation_steps = parts
            run = data_parallel.make_train_mode(mode, jax.devices(), fsdp)
            state = run.place_state(init_state(c, images.shape[1:], jax.random.key(0)))
            step = run.compile(lambda spread: make_train_step(c, spread), state)
            batches, states = data.batches(images, BATCH, 0), []
            for _ in range(4):
                state, metrics = step(state, run.place_batch(next(batches)), jax.random.key(1), hyperparameters(c))
                states.append(leaves((state.params, state.ema, state.opt_state)))
            assert_same(states[1], states[2])
            assert [int(x) for x in leaves(state.skipped)[0]] == [0, 1]
            assert float(metrics["skipped"]) == 1
            found[mode, fsdp, parts] = states[3]
        one = found.pop(("jit", False, 1))
        assert any((a != b).any() for a, b in zip(states[2], one))
        for other in found.values():
            for a, b in zip(one, other, strict=True):
                np.testing.assert_allclose(a, b, atol=2e-6)
        print("equal")
"""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert done.stdout.endswith("equal\n"), done.stderr[-2000:]


@pytest.mark.slow
def test_too_many_skipped_updates_in_a_row_roll_back_to_the_last_checkpoint(tmp_path, capsys):
    """Steps 9 to 12 fail. This is reported at 14; steps 15 and 16 then start from the parameters of step 8."""
    c, images = config_of_one_epoch(), spoiled([9, 10, 11, 12])
    state, progress = loop.fit(c, images, tmp_path)
    records = ", ".join(map(str, np.sort(data.records(images, BATCH, 0, 11))))
    out = capsys.readouterr().out
    assert "the loss is nan at step 12, the gradient norm nan, and 4 updates in a row" in out
    assert f"the last was on the training images {records}; rolling back to the parameters of step 8\n" in out
    good, _ = by_hand(c, images, range(1, 9))
    wanted, _ = by_hand(c, images, (15, 16), good.replace(step=jnp.int32(14), skipped=jnp.array([0, 4])))
    assert_same(state, wanted)
    assert (progress["steps"], progress["skipped"]) == (16, 4)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {line["step"]: line["skipped_in_a_row"] for line in lines if line["loss"] is None} == {10: 2, 12: 4}
    restored, again = loop.restore_state(c, images.shape[1:], tmp_path)
    assert_same(restored, state)
    assert again == progress


@pytest.mark.slow
def test_a_second_rollback_to_the_same_checkpoint_stops_the_run(tmp_path):
    c, images = config_of_one_epoch(), spoiled(range(9, 17))
    c.train.log_every = 1
    records = ", ".join(map(str, np.sort(data.records(images, BATCH, 0, 14))))
    with pytest.raises(InputError, match=f"nan at step 15.* images {records}; the run already rolled back to step 8"):
        loop.fit(c, images, tmp_path)
    with checkpoint.Checkpoints(tmp_path, c) as checkpoints:
        assert checkpoints.latest_step == 8
    with pytest.raises(
        InputError, match=r"nan at step 3.*; there is no checkpoint to roll back to: lower config.optimizer"
    ):
        loop.fit(c, spoiled(range(1, 17)), tmp_path / "new")
    assert not checkpoint.has_checkpoint(tmp_path / "new")


@pytest.mark.slow
@pytest.mark.parametrize("bad", [(), (9, 10, 11, 12)])
def test_interrupted_at_every_step_equals_uninterrupted_bit_for_bit(bad, tmp_path):
    """Sixteen interruptions of one run, also in the middle of updates that are skipped and of what follows on them."""
    c, images = config_of_one_epoch(), spoiled(bad)
    whole, progress = loop.fit(c, images, tmp_path / "whole")
    cut = tmp_path / "cut"
    for step in range(1, STEPS + 1):
        with signal_before(step, signal.SIGTERM), pytest.raises(SystemExit) as ended:
            loop.fit(c, images, cut)
        assert ended.value.code == 128 + signal.SIGTERM
        assert (cut / "checkpoints" / str(step)).exists() == (step not in (*bad, *(13, 14) * bool(bad)))
    resumed, after = loop.fit(c, images, cut)
    assert_same(resumed, whole)
    assert after["skipped"] == progress["skipped"] == len(bad)
    last = [json.loads((run / "metrics.jsonl").read_text().splitlines()[-1]) for run in (tmp_path / "whole", cut)]
    for line in last:
        del line["examples_per_second"]
    assert last[0] == last[1]


@pytest.mark.device
@pytest.mark.slow
def test_bfloat16_trains_without_a_loss_scale():
    """The network computes in it; parameters, their average and the optimizer's state stay in float32."""
    found = {}
    for dtype in ("float32", "bfloat16"):
        c = small_config(steps=40, off_diagonal="semigroup")
        c.network = dict(name="unet", channels=8, multipliers=(1,), blocks=0, attention=(), resolution=8, dtype=dtype)
        c.optimizer.update(warmup_steps=1, decay=False, learning_rate=3e-3)
        state = init_state(c, DIGITS.shape[1:], jax.random.key(0))
        step, batches, means = jax.jit(make_train_step(c)), data.batches(DIGITS, 16, 0), []
        for _ in range(40):
            state, metrics = step(state, next(batches), jax.random.key(1))
            means.append(float(metrics["loss"]))
        batches.close()
        assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.ema))} == {jnp.dtype("float32")}
        assert {leaf.dtype for leaf in jax.tree.leaves(state.opt_state)} <= {jnp.dtype("float32"), jnp.dtype("int32")}
        assert int(state.skipped[1]) == 0
        found[dtype] = np.reshape(means, (4, 10)).mean(1)
    assert found["bfloat16"][-1] < 0.8 * found["bfloat16"][0]
    np.testing.assert_allclose(found["bfloat16"], found["float32"], rtol=0.03)
    assert (found["bfloat16"] != found["float32"]).any()


@pytest.mark.slow
def test_the_bound_and_its_own_rate_keep_a_learned_weight_from_switching_the_diagonal_off():
    """Without them the off-diagonal term, easily met by a field that says little, takes over the gradient."""
    times = jnp.linspace(0, 1, 11)
    found = {}
    for name, options in {"ours": {}, "free": {"weight_bound": 1e6, "weight_learning_rate": 1.0}}.items():
        c = small_config(steps=600, off_diagonal="semigroup", weighting="learned", **options)
        c.network.width, c.train.batch_size = 64, 64
        c.optimizer.update(warmup_steps=1, decay=False)
        state = init_state(c, DIGITS.shape[1:], jax.random.key(0))
        step, batches, diagonal = jax.jit(make_train_step(c)), data.batches(DIGITS, 64, 0), []
        for _ in range(600):
            state, metrics = step(state, next(batches), jax.random.key(1))
            diagonal.append(metrics["diagonal"])
        batches.close()

        def weight(s, c=c, state=state):
            w = LogVariance().apply({"params": state.params["log_variance"]}, s, times)
            return np.exp(-c.loss.weight_bound * np.tanh(w / c.loss.weight_bound))

        found[name] = np.mean(jax.device_get(diagonal)[-50:]), weight(0 * times).max() / weight(times).mean()
    assert found["ours"][0] < 0.85
    assert found["ours"][1] < 10
    assert found["free"][0] > 1.2  # of 1.7, what a field that is zero has
    assert found["free"][1] > 4 * found["ours"][1]  # between 20 and 500, from seed to seed
