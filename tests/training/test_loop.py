import json
import pathlib
import shutil
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmdp import data
from fmdp.config.defaults import default_config
from fmdp.errors import InputError
from fmdp.flow.times import kronecker_times
from fmdp.parallel import data_parallel, mesh
from fmdp.training import checkpoint, loop
from fmdp.training import loss as train_loss
from fmdp.training.checksum import checksums
from fmdp.training.hyperparameters import hyperparameters
from fmdp.training.loss import make_loss
from fmdp.training.state import init_state, make_field, make_network
from fmdp.training.step import make_train_step


def small_config(steps=8, **loss):
    """A run of a few steps of a tiny network on the digits."""
    c = default_config()
    c.name = "small"
    c.data.source = "digits"
    c.network = dict(name="mlp", width=8, blocks=1)
    c.train.update(steps=steps, batch_size=16, log_every=2, checkpoint_every=4)
    c.loss.update({"off_diagonal": "meanflow"} | loss)
    return c


def leaves(state):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


IMAGES = data.digits()[0][:40]


def devices_there():
    """The devices of this process, as many as divide the small batch as one device does."""
    return jax.devices()[: next(n for n in (4, 2, 1) if n <= jax.device_count())]


def one_step(c, mode="jit", devices=None, fsdp=False, images=IMAGES):
    devices = devices or devices_there()
    run = data_parallel.make_train_mode(mode, devices, fsdp)
    state = run.place_state(init_state(c, IMAGES.shape[1:], jax.random.key(0)))
    step = run.compile(lambda spread: make_train_step(c, spread), state)
    batches = data.batches(images, c.train.batch_size, 0)
    for _ in range(3):
        state, metrics = step(state, run.place_batch(next(batches)), jax.random.key(1), hyperparameters(c))
    return state, metrics


@pytest.mark.device
@pytest.mark.slow
def test_lattice_fills_the_unit_square_evenly():
    a, b = jax.vmap(lambda row: kronecker_times(jax.random.key(0), row))(jnp.arange(256))
    counts, _, _ = np.histogram2d(a, b, bins=4, range=[[0, 1], [0, 1]])
    assert abs(counts - 16).max() <= 4  # a plain draw of 256 strays by 8 and more
    first = jax.vmap(lambda key: kronecker_times(key, jnp.asarray(7))[0])(jax.random.split(jax.random.key(1), 2000))
    assert np.mean(first) == pytest.approx(0.5, abs=0.03)


@pytest.mark.device
@pytest.mark.slow
@pytest.mark.parametrize("weighting", ["none", "learned"])
def test_a_step_reports_its_loss_and_moves_everything(weighting):
    """The metrics of a step are the loss it was taken on; parameters, average and step count all move."""
    c = small_config(weighting=weighting)
    state = init_state(c, IMAGES.shape[1:], jax.random.key(0))
    batch = next(data.batches(IMAGES, 16, 0))
    key = jax.random.key(1)
    step = jax.jit(make_train_step(c))
    after, metrics = step(state, batch, key)
    loss, parts = jax.jit(make_loss(c))(state.params, batch, jax.random.fold_in(key, 0))
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    if weighting == "none":
        np.testing.assert_allclose(loss, 0.75 * parts["diagonal"] + 0.25 * parts["off_diagonal"], rtol=1e-5)
    later, _ = step(after, batch, key)
    assert int(later.step) == 2
    assert any((a != b).any() for a, b in zip(leaves(after.params), leaves(later.params), strict=True))
    assert any((a != b).any() for a, b in zip(leaves(after.ema), leaves(later.ema), strict=True))


@pytest.mark.device
@pytest.mark.slow
def test_dropout_is_drawn_for_every_example_and_only_in_training():
    c = small_config(diagonal_share=1.0)
    c.network = dict(name="unet", channels=4, multipliers=(1,), blocks=1, attention=(), resolution=8, dropout=0.5)
    params = init_state(c, IMAGES.shape[1:], jax.random.key(0)).params
    params = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(1), x.shape), params)
    batch, key = next(data.batches(IMAGES, 16, 0)), jax.random.key(2)
    with_dropout = jax.jit(make_loss(c))
    loss, _ = with_dropout(params, batch, key)
    halves = [
        with_dropout(params, jax.tree.map(lambda x, part=part: x[part], batch), key)[0]
        for part in (slice(8), slice(8, 16))
    ]
    np.testing.assert_allclose(loss, np.mean(halves), rtol=1e-5)

    network = make_network(c)
    field = jax.jit(lambda x, key=None: make_field(network, params["network"], key)(x, 0.3, 0.8))
    kept, *dropped = field(IMAGES[:1]), *(field(IMAGES[:1], jax.random.key(seed)) for seed in (0, 1))
    c.network.dropout = 0.0
    without = make_field(make_network(c), params["network"])
    np.testing.assert_allclose(jax.jit(without)(IMAGES[:1], 0.3, 0.8), kept, rtol=1e-5)
    assert not np.allclose(dropped[0], dropped[1], rtol=1e-2)
    assert abs(jax.jit(make_loss(c))(params, batch, key)[0] / loss - 1) > 1e-3


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_only_dropout_tells_keys_and_rows_apart_where_noise_and_times_are_the_same(dropout, monkeypatch):
    monkeypatch.setattr(train_loss, "kronecker_times", lambda key, row: (jnp.float32(0.3), jnp.float32(0.8)))
    monkeypatch.setattr(train_loss.jax.random, "normal", lambda key, shape: jnp.zeros(shape))
    c = small_config(diagonal_share=1.0)
    c.network = dict(name="unet", channels=4, multipliers=(1,), blocks=1, attention=(), resolution=8, dropout=dropout)
    params = jax.tree.map(lambda x: x + 0.1, init_state(c, IMAGES.shape[1:], jax.random.key(0)).params)
    loss = jax.jit(make_loss(c))

    def of(row, seed):
        batch = {"image": jnp.asarray(IMAGES[:1]), "row": jnp.array([row], jnp.int32)}
        return float(loss(params, batch, jax.random.key(seed))[0])

    first, *others = of(0, 0), of(0, 1), of(1, 0)
    assert of(0, 0) == first
    assert all((other == first) == (dropout == 0) for other in others)


@pytest.mark.device
@pytest.mark.slow
def test_average_follows_the_parameters_with_the_stated_half_life():
    c = small_config()
    c.ema.half_life = 16.0 * 50
    c.optimizer.learning_rate = 1e-9
    state = init_state(c, IMAGES.shape[1:], jax.random.key(0))
    state = state.replace(step=jnp.asarray(10_000), ema=jax.tree.map(lambda x: x + 1.0, state.ema))
    step = jax.jit(make_train_step(c))
    batch = next(data.batches(IMAGES, 16, 0))
    for _ in range(50):
        state, _ = step(state, batch, jax.random.key(0))
    gap = leaves(jax.tree.map(lambda a, b: a - b, state.ema, state.params["network"]))
    np.testing.assert_allclose(gap[0], 0.5, rtol=1e-3)


@pytest.mark.device
@pytest.mark.slow
def test_learned_weight_has_a_learning_rate_of_its_own():
    c = small_config(weighting="learned", weight_learning_rate=0.0)
    before = init_state(c, IMAGES.shape[1:], jax.random.key(0))
    after, _ = one_step(c)
    for a, b in zip(leaves(before.params["log_variance"]), leaves(after.params["log_variance"]), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.device
@pytest.mark.slow
def test_pmap_and_jit_agree():
    (a, metrics_a), (b, metrics_b) = (one_step(small_config(), mode) for mode in data_parallel.MODES)
    for x, y in zip(leaves(a.params), leaves(b.params), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)
    np.testing.assert_allclose(metrics_a["loss"], metrics_b["loss"], rtol=1e-5)


@pytest.mark.device
@pytest.mark.slow
def test_every_parallel_mode_gives_the_numbers_of_one_device(monkeypatch):
    """Over the devices there are; the next test has four of them."""
    monkeypatch.setattr(mesh, "MIN_SHARDED_SIZE", 16)
    devices, c = devices_there(), small_config(diagonal_share=0.5)
    one, metrics = one_step(c, "jit", devices[:1])
    for mode, fsdp, parts in (("jit", False, 1), ("pmap", False, 2), ("jit", True, 1), ("jit", True, 2)):
        c.train.grad_accumulation_steps = parts
        several, metrics_of_several = one_step(c, mode, devices, fsdp)
        kernel = several.opt_state[1][0].mu["network"]["Dense_3"]["kernel"]
        assert kernel.addressable_data(0).size == kernel.size // (len(devices) if fsdp else 1)
        for name in metrics:
            np.testing.assert_allclose(metrics[name], metrics_of_several[name], rtol=1e-5)
        for a, b in zip(leaves(one), leaves(several), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("mode", data_parallel.MODES)
def test_a_step_on_bytes_is_that_on_their_floats(mode):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), np.uint8)
    stored = data.UInt8Images(pixels)
    (a, metrics_a), (b, metrics_b) = (one_step(small_config(), mode, images=images) for images in (stored, stored[:]))
    for x, y in zip(leaves((a, metrics_a)), leaves((b, metrics_b)), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.slow
def test_four_devices_give_the_numbers_of_one():
    """In a process of its own, because the number of devices is fixed when JAX starts."""
    program = """
        import jax
        import pytest
        jax.config.update("jax_num_cpu_devices", 4)
        from tests.training.test_loop import devices_there, test_every_parallel_mode_gives_the_numbers_of_one_device
        assert len(devices_there()) == 4
        with pytest.MonkeyPatch.context() as patch:
            test_every_parallel_mode_gives_the_numbers_of_one_device(patch)
        print("equal")
"""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert done.stdout.endswith("equal\n"), done.stderr[-2000:]


@pytest.mark.device
@pytest.mark.slow
@pytest.mark.parametrize("mode", data_parallel.MODES)
def test_a_batch_in_parts_gives_the_numbers_of_the_whole(mode):
    c, one = small_config(), jax.devices()[:1]
    whole, metrics = one_step(c, mode, one)
    c.train.grad_accumulation_steps = 4
    parts, metrics_parts = one_step(c, mode, one)
    for name in metrics:
        np.testing.assert_allclose(metrics[name], metrics_parts[name], rtol=1e-5)
    for a, b in zip(leaves(whole), leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


@pytest.mark.device
@pytest.mark.slow
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path, capsys):
    c = small_config()
    whole, progress = loop.fit(c, IMAGES, tmp_path / "whole")
    assert progress["steps"] == 8
    interrupted = tmp_path / "interrupted"
    loop.fit(c, IMAGES, interrupted)
    shutil.rmtree(interrupted / "checkpoints" / "8")
    resumed, progress = loop.fit(c, IMAGES, interrupted)
    assert progress["steps"] == 8
    assert "resumed from step 4" in capsys.readouterr().out
    for a, b in zip(leaves(whole), leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    lines = [json.loads(line) for line in (interrupted / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    loop.fit(c, IMAGES, interrupted)
    assert "already trained for 8 steps" in capsys.readouterr().out


@pytest.mark.device
def test_a_fingerprint_tells_any_change():
    rng = np.random.default_rng(0)
    tree = {"a": rng.standard_normal((3, 5)).astype(np.float32), "b": np.int32(7), "c": jnp.ones(4, jnp.bfloat16)}
    first = checksums(tree)
    assert len(first) == 3
    assert checksums(jax.tree.map(jnp.asarray, tree)) == first
    for bit in range(32):
        for place in (0, 7, 14):
            words = tree["a"].copy().view(np.uint32)
            words.ravel()[place] ^= np.uint32(1) << np.uint32(bit)
            assert checksums(tree | {"a": words.view(np.float32)})[0] != first[0]
    assert checksums(tree | {"a": tree["a"][::-1]})[0] != first[0]
    assert checksums(tree | {"b": np.int32(8)})[1] != first[1]


def damage(content, case, rng):
    """A truncation or a bit flip."""
    content = bytearray(content)
    if case % 3 == 0 or not content:
        return bytes(content[: rng.integers(len(content) + 1)])
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    return bytes(content)


def restore_damaged(c, run, newest, wanted, cases):
    """How often each checkpoint was used in these many cases, over every file of the newest one."""
    files = sorted(file for file in newest.rglob("*") if file.is_file())
    rng, used = np.random.default_rng(0), {4: 0, 8: 0}
    for case in range(cases):
        file = files[case % len(files)]
        whole = file.read_bytes()
        file.write_bytes(damage(whole, case, rng))
        state, progress = loop.restore_state(c, IMAGES.shape[1:], run)
        used[progress["steps"]] += 1
        for x, y in zip(wanted[progress["steps"]], leaves(state), strict=True):
            np.testing.assert_array_equal(x, y)
        file.write_bytes(whole)
    for file in files:
        file.write_bytes(file.read_bytes()[:-5])
    return used


def check_damaged_checkpoints(folder, cases):
    """The test below, in a process of its own."""
    folder, cases = pathlib.Path(folder), int(cases)
    c, run = small_config(), folder / "run"
    loop.fit(c, IMAGES, run)
    wanted, newest = {}, run / "checkpoints" / "8"
    for step in (8, 4):
        state, progress = loop.restore_state(c, IMAGES.shape[1:], run)
        assert progress["steps"] == step
        wanted[step] = leaves(state)
        if step == 8:
            newest.rename(folder / "8")
    shutil.copytree(folder / "8", newest)
    used = restore_damaged(c, run, newest, wanted, cases)
    assert used[4] > cases / 5, used  # the others hit what nobody reads, or changed nothing
    resumed, _ = loop.fit(c, IMAGES, run)
    assert (run / "damaged" / "8").is_dir()
    for x, y in zip(wanted[8], leaves(resumed), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.slow
@pytest.mark.parametrize("cases", [40, pytest.param(200, marks=pytest.mark.long)])
def test_damaged_checkpoints_are_told_and_the_one_before_is_used(cases, tmp_path):
    """Truncations and bit flips: what is restored is always whole, and training goes on from it.

    Where a read fails orbax leaves coroutines behind, whose warnings would reach other tests: hence the process.
    """
    program = "import pathlib, sys; from tests.training.test_loop import *; check_damaged_checkpoints(*sys.argv[1:])"
    arguments = [sys.executable, "-W", "ignore", "-c", program, str(tmp_path), str(cases)]
    finished = subprocess.run(arguments, capture_output=True, text=True, timeout=900)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert "checkpoints/8 is damaged" in finished.stdout
    assert "resumed from step 4" in finished.stdout


@pytest.mark.slow
def test_checkpoints_of_others_and_damaged_ones_are_refused(tmp_path):
    c = small_config(steps=2)
    with pytest.raises(InputError, match="no checkpoint"):
        loop.restore_state(c, IMAGES.shape[1:], tmp_path)
    loop.fit(c, IMAGES, tmp_path)
    moved = small_config(steps=2)
    moved.data.update(path="elsewhere", workers=3)
    _, progress = loop.restore_state(moved, IMAGES.shape[1:], tmp_path)
    assert progress["steps"] == 2
    other = small_config(steps=2)
    other.network.width = 9
    with pytest.raises(InputError, match=r"config.network was .*8.* and is now .*9"):
        loop.fit(other, IMAGES, tmp_path)
    files = [f for f in (tmp_path / "checkpoints" / "2" / "state").rglob("*") if f.is_file()]
    for file in files:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=r"checkpoints/2 is damaged"):
        loop.fit(c, IMAGES, tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_loss_that_is_not_finite_stops_with_the_step(tmp_path):
    c = small_config()
    c.train.max_consecutive_skips = 2
    images = IMAGES.copy()
    images[:] = np.nan
    with pytest.raises(InputError, match="loss is nan at step 2"):
        loop.fit(c, images, tmp_path)
    with checkpoint.Checkpoints(tmp_path, c) as checkpoints:
        assert checkpoints.latest_step is None
