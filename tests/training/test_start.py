"""New runs that start from trained weights."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import fashion_mnist
from fmdp.cli.run import start_summary
from fmdp.cli.start_from import read_start
from fmdp.data import Split
from fmdp.errors import InputError
from fmdp.io.dataclass_json import to_json
from fmdp.io.weights import read_weights
from fmdp.pretrained import prior as prior_files
from fmdp.training import loop
from fmdp.training.start import announcement
from fmdp.training.state import init_state, make_network
from tests.training.test_loop import IMAGES, leaves, small_config

pytestmark = pytest.mark.usefixtures("cheap_compilation")

SHAPE = IMAGES.shape[1:]
UNET = dict(name="unet", channels=4, multipliers=(1, 2), blocks=1, attention=(4,), resolution=8)


def write_prior(folder, options, shape=SHAPE, half=False):
    """A network of random weights, none zero, as a folder."""
    c = small_config()
    c.network = options
    network = make_network(c)
    params = network.init(jax.random.key(5), jnp.zeros(shape), 0.0, 0.0)["params"]
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(6), x.shape), params)
    about = prior_files.PriorMetadata(name="tiny", train={"steps": 7})
    prior_files.save(folder, prior_files.Prior(params=params, network=network, image_shape=shape, about=about), half)
    return str(folder)


def starting(folder, network=None, **settings):
    c = small_config(**settings)
    c.train.start_from = str(folder)
    if network:
        c.network = network
    return c


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(leaves(a), leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


class _FirstStepError(Exception):
    pass


def first_state(c, start, workdir, monkeypatch):
    """The state that the first step of a run takes."""
    taken = []

    def stop(config, state):
        taken.append(jax.tree.map(np.asarray, state))
        raise _FirstStepError

    with monkeypatch.context() as patch:
        patch.setattr(loop, "step_form", stop)
        with pytest.raises(_FirstStepError):
            loop.fit(c, IMAGES, workdir, start_from=start)
    return taken[0]


@pytest.mark.device
@pytest.mark.slow
@pytest.mark.parametrize(("mode", "fsdp"), [("jit", False), ("pmap", False), ("jit", True)])
def test_the_first_step_takes_the_weights_as_parameters_and_average(tmp_path, monkeypatch, capsys, mode, fsdp):
    options = dict(name="mlp", width=64, blocks=1)  # wide enough to be sharded
    c = starting(write_prior(tmp_path / "prior", options, half=mode == "pmap"), options, weighting="learned")
    c.parallel.update(mode=mode, fsdp=fsdp)
    start = read_start(c, SHAPE, tmp_path / "run")
    given = prior_files.load(tmp_path / "prior").params
    state = first_state(c, start, tmp_path / "run", monkeypatch)
    same(state.params["network"], given)
    same(state.ema, given)
    assert all(x.dtype == np.float32 for x in leaves(given))
    fresh = init_state(c, SHAPE, jax.random.split(jax.random.key(c.seed))[0])
    same(state.params["log_variance"], fresh.params["log_variance"])
    same(state.opt_state, fresh.opt_state)
    assert state.step == 0
    line = f"starts from the weights of {tmp_path / 'prior'} (tiny, 7 steps); the optimizer and the step count are new"
    assert line in capsys.readouterr().out.splitlines()


def test_a_run_says_when_its_average_cannot_leave_the_given_weights(tmp_path):
    options = dict(name="mlp", width=32, blocks=1)
    c = starting(write_prior(tmp_path / "prior", options), options, steps=100)
    start = read_start(c, SHAPE, tmp_path / "run")
    images = 100 * c.train.batch_size
    c.ema.half_life = images / 2.0  # a quarter is left
    first, *others = announcement(start, c).splitlines()
    assert first.startswith("starts from the weights of")
    assert others == [
        f"25% of the average will still be the given weights at the end: config.ema.half_life={images // 2} is long "
        f"for a run of {images} images: to learn something new, shorten it to {images // 10} or train for longer"
    ]
    c.ema.half_life = images / 10.0
    assert announcement(start, c) == first


@pytest.mark.slow
def test_a_run_starts_from_the_workdir_of_another_and_resumes(tmp_path, monkeypatch, capsys):
    c = small_config(steps=4, diagonal_share=1.0)  # flow matching
    first, _ = loop.fit(c, IMAGES, tmp_path / "first")
    c = starting(tmp_path / "first", steps=4)
    c.optimizer.learning_rate, c.optimizer.decay, c.seed = 3e-4, False, 1
    start = read_start(c, SHAPE, tmp_path / "second")
    same(first_state(c, start, tmp_path / "none", monkeypatch).ema, jax.tree.map(np.asarray, first.ema))
    _, progress = loop.fit(c, IMAGES, tmp_path / "second", start_from=start)
    digest = {"source": str(tmp_path / "first"), "name": "small", "steps": 4, "sha256": start.record["sha256"]}
    assert progress["started_from"] == start.record == digest
    assert read_weights(tmp_path / "second")[1]["about"]["train"]["started_from"] == digest

    c.train.steps = 8
    (tmp_path / "first").rename(tmp_path / "gone")
    capsys.readouterr()
    assert read_start(c, SHAPE, tmp_path / "second") is None
    resumed, progress = loop.fit(c, IMAGES, tmp_path / "second")
    out = capsys.readouterr().out
    assert f"resumed from step 4 in {tmp_path / 'second'}" in out
    assert "starts from" not in out
    assert "is not used" not in out
    assert progress["started_from"] == digest
    split = Split(train=IMAGES, test=IMAGES, train_labels=np.zeros(40), test_labels=np.zeros(40), hash="0")
    summary = to_json(start_summary(c, split, progress, None))
    assert summary["started_from"] == digest
    assert "started_from" not in summary["train"]

    c.train.start_from = str(tmp_path / "gone")
    straight, _ = loop.fit(c, IMAGES, tmp_path / "third", start_from=read_start(c, SHAPE, tmp_path / "third"))
    same(resumed.saved(), straight.saved())
    loop.fit(c, IMAGES, tmp_path / "second")
    line = f"config.train.start_from={tmp_path / 'gone'} is not used: this run has begun, from {tmp_path / 'first'}"
    assert line in capsys.readouterr().out
    with pytest.raises(InputError, match="pass its weights to fit, too"):
        loop.fit(c, IMAGES, tmp_path / "fourth")


@pytest.mark.slow
def test_a_resumed_run_with_other_settings_is_told_how_to_start_anew(tmp_path):
    c = small_config(steps=2)
    loop.fit(c, IMAGES, tmp_path / "first")
    old, way = "name another workdir, or go back to the old value", f"train.start_from={tmp_path / 'first'}"
    changes = (
        ("optimizer.learning_rate", 1e-4, way),
        ("ema.half_life", 3.0, way),
        ("loss.weighting", "learned", way),
        ("train.batch_size", 8, way),
        ("seed", 3, way),
        ("data.flip", True, way),
        ("data.channels", 1, old),
        ("network.width", 9, old),
    )
    for key, value, remedy in changes:
        other = c.copy_and_resolve_references()
        other.update_from_flattened_dict({key: value})
        with pytest.raises(InputError, match=re.escape(remedy) + "$"):
            loop.fit(other, IMAGES, tmp_path / "first")
        with pytest.raises(InputError, match=old):
            loop.restore_state(other, SHAPE, tmp_path / "first")
        if remedy == way:
            other.train.start_from = str(tmp_path / "first")
            assert read_start(other, SHAPE, tmp_path / "second") is not None


def refusal(c, shape, workdir):
    with pytest.raises(InputError) as error:
        read_start(c, shape, workdir)
    message = str(error.value)
    assert message.startswith(f"config.train.start_from={c.train.start_from}")
    assert message.isprintable()
    return message


def test_weights_that_do_not_fit_are_refused_with_the_difference(tmp_path):
    unet, mlp = write_prior(tmp_path / "unet", UNET), write_prior(tmp_path / "mlp", dict(name="mlp", width=8, blocks=1))
    run = tmp_path / "run"
    message = refusal(starting(unet), SHAPE, run)
    assert "does not fit config.network: config.network.name is mlp, and unet in the weights: set" in message
    other = starting(unet, UNET | dict(channels=8, time_scale=4.0, multipliers=(1, 1), dropout=0.1))
    message = refusal(other, SHAPE, run)
    assert "config.network.channels is 8, and 4 in the weights; " in message
    assert "config.network.multipliers is (1,1), and (1,2) in the weights; " in message
    assert "config.network.time_scale is 4.0, and 1.0 in the weights: set" in message
    assert "dropout" not in message
    message = refusal(starting(unet, UNET | dict(attention=(8, 4))), SHAPE, run)
    assert "config.network.attention is (8,4), and (4,) in the weights; array " in message
    assert "array dec_0_block1/norm2/bias is missing from the weights, and has the shape (4,) in the network" in message
    assert re.search(r"; and \d+ more: set", message)
    message = refusal(starting(unet, UNET | dict(attention=())), SHAPE, run)
    assert "array dec_1_block1/norm2/bias of shape (8,) has no place in the network" in message
    message = refusal(starting(unet, UNET), (8, 8, 3), run)
    assert "the images have 3 channels, and those of the weights had 1: choose" in message
    message = refusal(starting(mlp), (4, 16, 1), run)  # its arrays fit, but not what they mean
    assert "the sides are [4, 16], and were [8, 8]: only a U-Net can change them" in message
    assert not run.exists()


def test_weights_of_another_shape_of_array_or_that_are_not_finite_are_refused(tmp_path, monkeypatch):
    c = starting(write_prior(tmp_path / "prior", UNET), UNET)
    load = prior_files.load

    def changed(path):
        prior = load(path)
        prior.params["enc_0_conv"]["bias"] = value
        return prior

    monkeypatch.setattr("fmdp.cli.start_from.load", changed)
    value = jnp.zeros(5)
    message = "array enc_0_conv/bias has the shape (4,) in the network, and (5,) in the weights: set"
    assert message in refusal(c, SHAPE, tmp_path / "run")
    value = jnp.full(4, jnp.nan)
    assert "its array enc_0_conv/bias is not finite: name other weights" in refusal(c, SHAPE, tmp_path / "run")


def test_a_unet_may_train_at_another_size_with_its_attention_at_the_same_level(tmp_path):
    larger = UNET | dict(attention=(8,), resolution=16, dtype="bfloat16", dropout=0.2)
    c = starting(write_prior(tmp_path / "prior", UNET), larger)
    start = read_start(c, (16, 16, 1), tmp_path / "run")
    same(start.params, jax.tree.map(np.asarray, prior_files.load(tmp_path / "prior").params))
    c.network.update(UNET)
    assert read_start(c, (16, 16, 1), tmp_path / "run") is not None


def test_a_prior_that_ships_is_found_by_its_name():
    c = fashion_mnist.get_config()
    c.train.start_from = "fashion_mnist"
    start = read_start(c, (28, 28, 1), prior_files.SHIPPED_WEIGHTS / "none")
    assert start.record["source"] == start.record["name"] == "fashion_mnist"
    same(start.params, jax.tree.map(np.asarray, prior_files.load("fashion_mnist").params))
    c.train.start_from = ""
    assert read_start(c, (28, 28, 1), prior_files.SHIPPED_WEIGHTS) is None


def test_what_is_no_weights_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.pt").write_text("no weights")
    assert "no checkpoint" in refusal(starting(tmp_path / "nowhere"), SHAPE, tmp_path / "run")
    assert "holds neither model.json nor a run's config.json" in refusal(
        starting(tmp_path / "empty"), SHAPE, tmp_path / "run"
    )
    assert "text.pt" in refusal(starting(tmp_path / "text.pt"), SHAPE, tmp_path / "run")
    assert "the workdir of the run itself: name another --workdir" in refusal(
        starting(tmp_path / "empty"), SHAPE, tmp_path / "empty"
    )
