from functools import partial

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from fmdp.networks.norms import NORMS, Norm, _affine_norm
from fmdp.networks.resampling import double, halve
from fmdp.networks.unet import Block, UNet, _kernel
from fmdp.networks.weight_net import WeightNet
from fmdp.pretrained.pytorch_unet import unet_from_state_dict, weight_net_from_state_dict

pytestmark = [pytest.mark.device, pytest.mark.slow, pytest.mark.usefixtures("cheap_compilation")]

TINY = UNet(channels=8, multipliers=(1, 2), blocks=0, attention=(8,), resolution=8)
SHAPE = (2, 8, 12, 3)


@pytest.mark.parametrize("shape", [(3, 3, 3, 8), (1, 1), (7, 16), (5, 3)])
def test_kernels_are_drawn_as_by_xavier_uniform(shape):
    key = jax.random.key(3)
    expected = jax.nn.initializers.xavier_uniform()(key, shape)
    np.testing.assert_allclose(_kernel(key, shape), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(_kernel, static_argnums=1)(key, shape), expected, rtol=1e-6)
    assert np.unique(np.asarray(_kernel(key, (64, 64)))).size > 4000


def shapes(network, image_shape):
    image = jax.ShapeDtypeStruct(image_shape, jnp.float32)
    return jax.eval_shape(network.init, jax.random.key(0), image, 0.0, 0.0)["params"]


def randomised(network, image_shape=SHAPE, dtype=jnp.float32):
    """Parameters that nothing is zero at; initialised ones would hide half of the network."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 0.2 + (leaf.ndim == 1), dtype),
        shapes(network, image_shape),
    )


def inputs(shape=SHAPE, dtype=jnp.float32):
    rng = np.random.default_rng(1)
    x, (s, t) = rng.normal(size=shape), np.sort(rng.uniform(size=(2, *shape[:-3])), axis=0)
    return tuple(jnp.asarray(array, dtype) for array in (x, s, t))


def convolutions(jaxpr):
    """The convolutions of a program in the order in which they run, those of its inner functions among them."""
    found = []
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "conv_general_dilated":
            found.append(eqn)
        for inner in jax.extend.core.jaxprs_in_params(eqn.params):
            found += convolutions(inner)
    return found


@pytest.fixture(scope="module")
def tiny():
    params = randomised(TINY)
    return params, jax.jit(partial(TINY.apply, {"params": params}))


@pytest.fixture
def released(reference):
    """The reference arrays and, of these, the state dict."""
    arrays = dict(np.load(reference / "unet.npz"))
    return arrays, {name.removeprefix("state/"): array for name, array in arrays.items() if name.startswith("state/")}


def test_published_velocity_and_log_variance(released):
    arrays, state = released
    s, t = (jnp.asarray(arrays[name].ravel()) for name in ("in/s", "in/t"))
    network, params = unet_from_state_dict(state)
    assert (network.channels, network.multipliers, network.blocks) == (16, (1, 2), 1)
    assert (network.attention, network.resolution) == ((8,), 16)
    x, expected = (jnp.asarray(arrays[name].transpose(0, 2, 3, 1)) for name in ("in/x", "out/v"))
    np.testing.assert_allclose(jax.jit(network.apply)({"params": params}, x, s, t), expected, atol=2e-5)
    weight_net, params = weight_net_from_state_dict(state)
    log_variance = jax.jit(weight_net.apply)({"params": params}, s, t)
    np.testing.assert_allclose(log_variance, arrays["out/logvar"].ravel(), atol=2e-7)


@pytest.mark.parametrize(("resolution", "expected"), [(128, 117_043_331), (192, 112_836_739), (256, 112_836_739)])
def test_parameter_count_of_the_released_networks(resolution, expected):
    weight_net = jax.eval_shape(WeightNet().init, jax.random.key(0), 0.0, 0.0)["params"]
    leaves = jax.tree.leaves((shapes(UNet(resolution=resolution), (resolution, resolution, 3)), weight_net))
    assert sum(leaf.size for leaf in leaves) == expected


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("model.enc.8x8_block0.qkv.bias", lambda a: a[:-1], r"qkv\.bias has the shape \(95,\)"),
        (
            "model.dec.16x16_block1.conv1.weight",
            lambda a: a[..., :2],
            r"dec\.16x16_block1\.conv1\.weight has the shape",
        ),
        ("model.map_layer1.weight", lambda a: None, r"model\.map_layer1\.weight is missing"),
        ("model.enc.16x16_conv.weight", lambda a: a[0], r"enc\.16x16_conv\.weight is missing or has the shape"),
        ("model.enc.8x8_block7.conv0.weight", lambda a: np.zeros(3), r"8x8_block7\.conv0\.weight has no place"),
        (
            "model.dec.16x16_up.conv0.resample_filter",
            lambda a: a[0],
            r"up\.conv0\.resample_filter is missing or has the shape",
        ),
        ("model.dec.16x16_up.conv0.resample_filter", lambda a: 2 * a, r"up\.conv0\.resample_filter differs"),
        ("model.map_layer0.weight", lambda a: None, r"map_layer0\.weight.*not a checkpoint"),
    ],
)
def test_an_array_that_does_not_fit_is_named(released, name, change, message):
    _, state = released
    changed = change(state.pop(name, None))
    with pytest.raises(ValueError, match=message):
        unet_from_state_dict(state if changed is None else state | {name: changed})


def test_a_weight_that_does_not_fit_is_named(released):
    _, state = released
    with pytest.raises(ValueError, match=r"weight_net\.conv3\.weight has the shape"):
        weight_net_from_state_dict(state | {"weight_net.conv3.weight": np.zeros((128, 64, 3, 3))})


@pytest.mark.parametrize("taps", [(0.5, 0.5), (0.1, 0.2, 0.3, 0.4), (0.0, 0.1, 0.4, 0.3, 0.1, 0.1)])
def test_doubling_is_twice_the_transpose_of_halving(x64, taps):
    rng = np.random.default_rng(0)
    fine, coarse = jnp.asarray(rng.normal(size=(2, 8, 3))), jnp.asarray(rng.normal(size=(2, 4, 3)))
    np.testing.assert_allclose(2 * jnp.vdot(halve(fine, taps, 1), coarse), jnp.vdot(fine, double(coarse, taps, 1)))
    padded = np.pad(np.asarray(fine[0, :, 0]), len(taps) // 2 - 1)
    np.testing.assert_allclose(halve(fine, taps, 1)[0, :, 0], np.correlate(padded, taps)[::2])


@pytest.mark.parametrize("groups", [3, None])
def test_the_rules_for_moments_are_the_derivatives_of_the_plain_formula(x64, groups):
    """Values, and derivatives up to the second order in both modes, of three groups of two channels, or of pixels."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 3, 4, 6)) + 0.5)
    gain, offset = jnp.asarray(rng.normal(size=(2, 2, 1, 1, 6)))

    def plain(x, gain, offset):
        grouped, axes = (x.reshape(2, 3, 4, 3, 2), (1, 2, 4)) if groups else (x, -1)
        centred = grouped - grouped.mean(axes, keepdims=True)
        y = centred / jnp.sqrt((centred**2).mean(axes, keepdims=True) + 1e-6)
        return gain * y.reshape(x.shape) + offset

    def derivatives(norm):
        """The value, the derivative along a direction, and the gradient of a function of both."""
        tangents = tuple(jnp.sin(3 * z) for z in (x, gain, offset))

        def both(*primals):
            return jax.jvp(norm, primals, tangents)

        return both(x, gain, offset), jax.grad(lambda *z: jnp.sum(jnp.prod(jnp.stack(both(*z)), 0)), (0, 1, 2))(
            x, gain, offset
        )

    ours = jax.jit(lambda: derivatives(lambda *z: _affine_norm(*z, groups)))()
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-10), ours, jax.jit(lambda: derivatives(plain))())
    check_grads(jax.jit(lambda x: _affine_norm(x, gain, offset, groups)), (x,), order=2, modes=["fwd", "rev"])


def test_each_norm_has_its_moments():
    rng = np.random.default_rng(0)
    x = jnp.asarray(3 * rng.normal(size=(2, 4, 6, 8)) + 5, jnp.float32)
    group, pixel, none = (
        Norm(jnp.float32, norm, activate=False).init_with_output(jax.random.key(0), x)[0] for norm in NORMS
    )
    for y, axes in ((group.reshape(2, 4, 6, 2, 4), (1, 2, 4)), (pixel, -1)):
        np.testing.assert_allclose(y.mean(axes), 0, atol=1e-5)
        np.testing.assert_allclose((y**2).mean(axes), 1, atol=1e-4)
    np.testing.assert_array_equal(none, x)


def test_the_norm_modulates_and_activates():
    """silu(weight (1 + scale) y + bias (1 + scale) + shift), and without moments this over the size of silu."""
    x, scale, shift = (
        jnp.asarray(np.random.default_rng(i).normal(size=shape), jnp.float32)
        for i, shape in enumerate([(2, 3, 3, 4), (2, 4), (2, 4)])
    )
    params = {"scale": jnp.arange(4.0), "bias": jnp.ones(4)}
    y = {"none": x, "pixel": (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)}
    for norm, size in (("none", 0.596), ("pixel", 1.0)):
        z = (y[norm] * params["scale"] + 1) * (1 + scale[:, None, None]) + shift[:, None, None]
        expected = z * jax.nn.sigmoid(z) / size
        found = Norm(jnp.float32, norm).apply({"params": params}, x, scale, shift)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_only_group_norm_knows_the_size_of_the_picture(norm):
    """Without shared moments, the field of a pixel depends neither on pixels far away nor on where the picture ends."""
    network = TINY.clone(channels=4, attention=(), middle_attention=False, norm=norm)
    apply = jax.jit(partial(network.apply, {"params": randomised(network)}))
    x = jnp.asarray(np.random.default_rng(1).normal(size=(120, 4, 3)), jnp.float32)
    whole, changed, tile = apply(x, 0.3, 0.8), apply(x.at[:10].add(3.0), 0.3, 0.8), apply(x[20:100], 0.3, 0.8)
    inside, scale = slice(50, 70), jnp.std(whole)
    far, size = (float(jnp.abs(y - whole[inside]).max() / scale) for y in (changed[inside], tile[30:50]))
    assert (far > 0.01, size > 0.01) == ((norm == "group",) * 2)
    if norm != "group":
        assert max(far, size) < 1e-5
        assert jnp.abs(changed - whole)[10:20].max() > 0.1 * scale


def test_every_norm_of_the_network_is_of_one_kind(tiny):
    """Also that before attention: without moments, no root is left in the program."""
    params, _ = tiny

    def roots(norm):
        return str(jax.make_jaxpr(TINY.clone(norm=norm).apply)({"params": params}, *inputs())).count("rsqrt")

    assert (roots("pixel"), roots("none")) == (roots("group"), 0)
    kinds = {norm: shapes(TINY.clone(norm=norm), SHAPE) for norm in NORMS}
    assert jax.tree.leaves(kinds["group"]) == jax.tree.leaves(kinds["pixel"]) == jax.tree.leaves(kinds["none"])
    assert TINY.norm == "group"


def test_without_norms_features_keep_their_size_at_first():
    x, embedding = jax.random.normal(jax.random.key(0), (4, 16, 16, 64)), jnp.zeros((4, 8))

    def size(norm):
        block = Block(64, norm=norm)
        y, _ = jax.jit(block.init_with_output)(jax.random.key(1), x, embedding)
        return float(jnp.sqrt(jnp.mean(y**2)))

    assert size("none") == pytest.approx(1, abs=0.1)
    assert size("group") == pytest.approx(0.5**0.5, abs=0.01)  # the branch begins at zero


def test_equal_blocks_share_one_function():
    """Three more blocks of one size add their parameters and calls to the program, and no arithmetic."""

    def convolutions(blocks):
        network = TINY.clone(blocks=blocks, attention=())
        params = shapes(network, SHAPE)
        text = jax.jit(network.apply).lower({"params": params}, *inputs()).as_text()
        return text.count("stablehlo.convolution")

    assert convolutions(3) == convolutions(6)


@pytest.mark.parametrize(
    ("norm", "attention", "eps"), [("group", True, None), ("pixel", False, 1e-6), ("none", False, 1e-6)]
)
def test_derivatives_forward_reverse_and_reverse_over_forward(x64, norm, attention, eps):
    """Only without attention, whose softmax is in float32, can the steps be as short as the sharpest norm needs."""
    network = UNet(
        channels=4, multipliers=(1,), blocks=0, attention=(), middle_attention=attention, adaptive=True, norm=norm
    )
    params = randomised(network, (3, 2, 1), jnp.float64)

    @jax.jit
    def value_and_speed(params, x, s, t):
        field = partial(network.apply, {"params": params}, x, s)
        return jax.jvp(field, (t,), (jnp.ones_like(t),))

    check_grads(value_and_speed, (params, *inputs((2, 3, 2, 1), jnp.float64)), order=1, modes=["fwd", "rev"], eps=eps)


def test_one_image_is_the_same_as_in_a_batch(tiny):
    _, apply = tiny
    x, s, t = inputs()
    v = apply(x, s, t)
    assert v.shape == x.shape
    assert jnp.std(v) > 0.1
    np.testing.assert_allclose(apply(x[1], s[1], t[1]), v[1], atol=1e-5)
    np.testing.assert_allclose(apply(x[:, None], s[:, None], t[0])[0, 0], v[0], atol=1e-5)


def test_heights_and_widths_that_differ_are_not_mixed_up(tiny):
    params, apply = tiny
    x, s, t = inputs()
    turned = jax.tree.map(lambda leaf: leaf.swapaxes(0, 1) if leaf.ndim == 4 else leaf, params)
    v = jax.jit(TINY.apply)({"params": turned}, x.swapaxes(1, 2), s, t)
    np.testing.assert_allclose(v.swapaxes(1, 2), apply(x, s, t), atol=1e-5)


@pytest.mark.parametrize("shape", [(7, 8, 3), (8, 9, 3)])
def test_a_size_the_coarsest_level_does_not_divide_is_refused(tiny, shape):
    _, apply = tiny
    with pytest.raises(ValueError, match=r"must be divisible by 2; pad it"):
        apply(jnp.zeros(shape), 0.0, 1.0)


def test_bfloat16_inside_is_float32_outside(tiny):
    params, apply = tiny
    x, s, t = inputs()
    jaxpr = jax.make_jaxpr(TINY.clone(dtype="bfloat16").apply)({"params": params}, x, s, t)
    v = jax.jit(jax.extend.core.jaxpr_as_fun(jaxpr))(*jax.tree.leaves(params), x, s, t)[0]
    assert v.dtype == jnp.float32
    expected = apply(x, s, t)
    deviation = jnp.linalg.norm(v - expected) / jnp.linalg.norm(expected)
    assert 1e-4 < deviation < 0.03
    kinds = [eqn.outvars[0].aval.dtype for eqn in convolutions(jaxpr.jaxpr)]
    assert kinds == [jnp.bfloat16] * (len(kinds) - 1) + [jnp.float32]


@pytest.mark.parametrize(("backend", "dtype"), [("cpu", None), ("gpu", "bfloat16"), ("tpu", "bfloat16")])
def test_auto_is_the_type_that_suits_the_device(monkeypatch, backend, dtype):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    image, time = jax.ShapeDtypeStruct((8, 8, 3), jnp.float32), jax.ShapeDtypeStruct((), jnp.float32)
    params = shapes(TINY, (8, 8, 3))

    def traced(name):
        apply = TINY.clone(dtype=name).apply
        return str(jax.make_jaxpr(lambda p, x, s, t: apply({"params": p}, x, s, t))(params, image, time, time))

    assert traced("auto") == traced(dtype)


def test_rematerialised_blocks_are_computed_twice_and_the_same(tiny):
    params, apply = tiny
    x, s, t = inputs()

    def gradient(network):
        return jax.grad(lambda params: jnp.sum(network.apply({"params": params}, x, s, t) ** 2))

    network = TINY.clone(remat=True)
    kept, again = (len(convolutions(jax.make_jaxpr(gradient(n))(params).jaxpr)) for n in (TINY, network))
    assert again > kept
    np.testing.assert_allclose(jax.jit(network.apply)({"params": params}, x, s, t), apply(x, s, t), atol=1e-5)


def test_zero_at_first_and_dropout_only_with_a_key(tiny):
    params, _ = tiny
    x, s, t = inputs()
    network = TINY.clone(dropout=0.5)

    @jax.jit
    def first(key):
        return network.apply(network.init(key, x, s, t), x, s, t)

    assert not jnp.any(first(jax.random.key(0)))
    assert str(jax.make_jaxpr(network.apply)({"params": params}, x, s, t)) == str(
        jax.make_jaxpr(TINY.apply)({"params": params}, x, s, t)
    )
    dropped = jax.jit(lambda key: network.apply({"params": params}, x, s, t, rngs={"dropout": key}))
    assert jnp.abs(dropped(jax.random.key(0)) - dropped(jax.random.key(1))).max() > 0.1


def test_meanflow_takes_the_times_by_their_logarithms():
    """With adaptive scales that is all: log(1 - s) / 4 is the first time, log(t - s) / 4 the later one."""
    x, s, t = inputs()
    adaptive = TINY.clone(adaptive=True)
    params = {"params": randomised(adaptive)}
    first, later = jnp.log(1 - s) / 4, jnp.log(t - s) / 4
    expected = jax.jit(adaptive.apply)(params, x, first, first + later)
    found = jax.jit(adaptive.clone(meanflow=True).apply)(params, x, s, t)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_meanflow_adds_the_times_before_the_second_norm(tiny):
    """Without a modulation both conditionings agree; a constant one is removed by a norm over all pixels of a group."""
    params, _ = tiny
    x, s, t = inputs()

    def run(network, scale, bias):
        def change(path, leaf):
            return leaf if "affine" not in str(path) else bias * jnp.ones_like(leaf) if leaf.ndim == 1 else scale * leaf

        changed = jax.tree_util.tree_map_with_path(change, params)
        return jax.jit(network.apply)({"params": changed}, x, s, t)

    meanflow = TINY.clone(meanflow=True)
    np.testing.assert_allclose(run(meanflow, 0.0, 0.0), run(TINY, 0.0, 0.0), atol=1e-5)
    np.testing.assert_allclose(run(meanflow, 0.0, 3.0), run(meanflow, 0.0, 0.0), atol=1e-3)
    assert jnp.abs(run(TINY, 0.0, 3.0) - run(TINY, 0.0, 0.0)).max() > 0.1
    assert jnp.abs(run(meanflow, 1.0, 0.0) - run(meanflow, 0.0, 0.0)).max() > 0.01


def test_meanflow_is_finite_at_all_times(tiny):
    params, _ = tiny
    x, _, _ = inputs((5, 8, 8, 3))
    s, t = jnp.array([0.0, 0.0, 0.5, 1.0, 1.0 + 1e-6]), jnp.array([0.0, 1.0, 0.5, 1.0, 1.0])
    assert jnp.isfinite(jax.jit(TINY.clone(meanflow=True).apply)({"params": params}, x, s, t)).all()


def test_time_scale_is_a_factor_of_the_times(tiny):
    params, apply = tiny
    x, s, t = inputs()
    scaled = jax.jit(TINY.clone(time_scale=2.0).apply)({"params": params}, x, s, t)
    np.testing.assert_allclose(scaled, apply(x, 2 * s, 2 * t), atol=1e-5)
    assert jnp.abs(scaled - apply(x, s, t)).max() > 1e-3
