import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmdp import operators
from fmdp.exact import Gaussian
from fmdp.flow import tiling
from fmdp.flow.average_field import denoise
from fmdp.operators import adjoint
from fmdp.restoration import cropped_operator
from tests.support.generated import cases

pytestmark = pytest.mark.device

KEY = jax.random.key(0)
sizes = st.integers(1, 40)


@cases(200)
@given(sizes, sizes, st.integers(1, 16), st.integers(1, 16))
def test_tiles_cover_the_canvas_and_the_canvas_holds_the_image(height, width, a, b):
    shape = tiling.canvas_shape((height, width, 3), (a, b, 3))
    assert shape[0] >= max(height, a)
    assert shape[1] >= max(width, b)
    assert shape[0] < max(height, a) + max(a // 2, 1)
    covered = np.zeros(shape[:2], int)
    for top, left in tiling.corners(shape, (a, b, 3)):
        assert top + a <= shape[0]
        assert left + b <= shape[1]
        covered[top : top + a, left : left + b] += 1
    assert covered.min() >= 1


def test_the_middle_of_a_padded_image_is_the_image():
    x = jnp.arange(5 * 2 * 3.0).reshape(5, 2, 3)
    padded = tiling.pad(x, (8, 9, 3))
    np.testing.assert_array_equal(tiling.crop(padded, x.shape), x)
    np.testing.assert_array_equal(padded[0, 3:5], x[0])  # mirrored


@pytest.mark.slow
def test_a_field_of_independent_pixels_is_the_same_on_tiles():
    """Where a pixel does not depend on its neighbours, neither does the blend of tiles."""
    tile, shape = (6, 4, 1), (12, 10, 1)
    small, large = (Gaussian(jnp.full(s, 0.3), 0.25) for s in (tile, shape))
    field = tiling.tiled(small.average_field, shape, tile)
    x = jax.random.normal(KEY, (2, 3, *shape))
    s, t = jnp.full((2, 3), 0.4), jnp.linspace(0.4, 1.0, 6).reshape(2, 3)
    np.testing.assert_allclose(field(x, s, t), large.average_field(x, s, t), rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(field(x[0, 0], 0.4, 0.9), large.average_field(x[0, 0], 0.4, 0.9), rtol=2e-5, atol=2e-6)


def test_no_seam_shows_where_tiles_disagree():
    """Each tile answers with its own mean: the blend passes smoothly from one to the next."""
    tile, shape = (8, 8, 1), (8, 24, 1)
    ramp = jnp.broadcast_to(jnp.floor(jnp.arange(24.0) / 4)[None, :, None], shape)  # 0.5, 1.5, ... are the means

    def field(x, s, t):
        return jnp.broadcast_to(x.mean((-3, -2, -1), keepdims=True), x.shape)

    v = tiling.tiled(field, shape, tile)(ramp, 0.5, 0.5)
    assert 0 < float(jnp.abs(jnp.diff(v, axis=1)).max()) < 0.4
    assert v[0, 0, 0] == pytest.approx(0.5)
    assert v[0, -1, 0] == pytest.approx(4.5)


@pytest.mark.slow
def test_an_operator_on_a_canvas_measures_its_middle():
    inner = operators.make("gaussian_blur", (5, 7, 1), kernel_size=3, std=1.0)
    wide = cropped_operator.on_canvas(inner, (8, 8, 1))
    x = jax.random.normal(KEY, (8, 8, 1))
    np.testing.assert_array_equal(wide(x), inner(tiling.crop(x, (5, 7, 1))))
    y = jax.random.normal(jax.random.key(1), wide.output_shape)
    assert jnp.vdot(wide(x), y) == pytest.approx(float(jnp.vdot(x, adjoint(wide, y))), rel=1e-5)
    assert float(jnp.abs(adjoint(wide, y)[0]).max()) == 0  # what lies around is not measured
    assert cropped_operator.on_canvas(inner, (5, 7, 1)) is inner
    jpeg = cropped_operator.on_canvas(operators.make("jpeg", (8, 8, 1)), (16, 16, 1))
    assert float(jnp.abs(jax.grad(lambda x: jnp.sum(jpeg.surrogate(x) ** 2))(jnp.full((16, 16, 1), 0.3))).max()) > 0


lengths = st.tuples(
    st.integers(1, 12).flatmap(lambda m: st.tuples(st.just(m), st.integers(4 * m, 60))), st.integers(0, 99)
)


@cases(200)
@given(lengths)
def test_the_weights_of_tiles_with_margins_sum_to_one_and_vanish_in_the_outer_half_of_a_margin(drawn):
    (margin, side), more = drawn
    length = side + more
    begins, weights = tiling.starts(length, side, margin), tiling.weights(length, side, margin)
    total = np.zeros(length)
    for start, weight in zip(begins, weights, strict=True):
        assert 0 <= start <= length - side
        total[start : start + side] += weight
        assert start == 0 or not weight[: margin // 2].any()
        assert start == length - side or not weight[side - margin // 2 :].any()
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert (np.diff(begins) <= side - 2 * margin).all()
    assert len(begins) == 1 + -(-more // (side - 2 * margin))


def test_tiles_without_a_margin_abut():
    np.testing.assert_array_equal(tiling.weights(12, 4, 0), np.ones((3, 4)))
    np.testing.assert_array_equal(tiling.weights(6, 4, 0), [[1, 1, 1, 0], [0, 1, 1, 1]])


def convolution(key, channels=3, taps=3, layers=3):
    """A field of `layers` convolutions of `taps` taps with random weights: it reaches layers (taps - 1) / 2 pixels."""
    kernels = jax.random.normal(key, (layers, taps, taps, channels, channels)) / taps

    def field(x, s, t):
        h = x.reshape(-1, *x.shape[-3:])
        for kernel in kernels:
            h = jnp.tanh(
                jax.lax.conv_general_dilated(h, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            )
        return h.reshape(x.shape) + jnp.asarray(t - s)[..., None, None, None]

    return field


@pytest.mark.parametrize("canvas", [(46, 39, 3), (16, 61, 3)])
def test_a_convolution_that_reaches_no_further_than_half_a_margin_is_the_same_on_tiles(canvas):
    """At the edges of the picture as well, since a tile ends there as the picture does."""
    field, tile, margin = convolution(KEY), (24, 24, 3), 6
    canvas = tiling.canvas_shape(canvas, tile, margin)
    whole = tiling.tiled(field, canvas, tile, margin, at_once=2)
    x = jax.random.normal(KEY, (2, *canvas))
    s, t = jnp.array([0.3, 0.4]), jnp.array([0.5, 0.9])
    np.testing.assert_allclose(whole(x, s, t), field(x, s, t), atol=1e-5)
    np.testing.assert_allclose(whole(x[0], 0.3, 0.5), field(x, s, t)[0], atol=1e-5)
    assert float(jnp.abs(tiling.tiled(field, canvas, tile, 1)(x, s, t) - field(x, s, t)).max()) > 1e-3  # a seam


def test_one_tile_is_the_field_itself():
    field = Gaussian(jnp.zeros((4, 4, 1)), 0.25).average_field
    assert tiling.tiled(field, (4, 4, 1), (4, 4, 1)) is field
    assert tiling.tiled(field, (4, 4, 1), (4, 4, 1), 1) is field
    x = jax.random.normal(KEY, (4, 4, 1))
    assert denoise(field, x, 0.5, 0.5).shape == x.shape
