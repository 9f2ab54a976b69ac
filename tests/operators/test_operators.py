import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from PIL import Image

from fmdp import operators
from fmdp.errors import InputError
from fmdp.operators.blur import motion_kernel

pytestmark = pytest.mark.device

KEY = jax.random.key(0)
MASK = np.ones((9, 6))
MASK[2:4, 1:3] = 0

LINEAR = [
    ("denoising", (7, 5, 1), {}),
    ("denoising", (4, 6, 3), {}),
    ("box_inpainting", (9, 7, 1), dict(size=4)),
    ("box_inpainting", (8, 6, 3), dict(size=3)),
    ("random_inpainting", (9, 7, 1), dict(ratio=0.7)),
    ("random_inpainting", (8, 6, 3), dict(ratio=0.9)),
    ("brush_inpainting", (11, 13, 1), dict(width=0.2)),
    ("brush_inpainting", (9, 6, 3), dict(mask=MASK)),
    ("gaussian_blur", (9, 7, 1), dict(kernel_size=5, std=1.0)),
    ("gaussian_blur", (8, 10, 2), dict(kernel_size=7, std=1.5)),
    ("gaussian_blur", (9, 8, 1), dict(kernel_size=5, std=2.0, boundary="circular")),
    ("motion_blur", (9, 7, 1), dict(kernel_size=7)),
    ("motion_blur", (8, 10, 2), dict(kernel=np.arange(15.0).reshape(3, 5) / 105)),
    ("motion_blur", (9, 8, 1), dict(kernel_size=5, boundary="circular")),
    ("super_resolution", (9, 15, 1), dict(factor=3)),
    ("super_resolution", (8, 12, 3), dict(factor=4)),
    ("decimation", (9, 15, 1), dict(factor=3)),
    ("decimation", (8, 6, 3), dict(factor=2)),
    ("colorization", (5, 7, 3), {}),
    ("colorization", (6, 4, 3), {}),
]
NONLINEAR = [
    ("phase_retrieval", (9, 7, 1), {}),
    ("phase_retrieval", (8, 6, 2), dict(oversampling=3.0)),
    ("hdr", (5, 7, 1), {}),
    ("hdr", (6, 4, 3), dict(scale=1.5)),
    ("jpeg", (16, 16, 3), dict(quality=10)),
    ("jpeg", (9, 12, 1), dict(quality=10)),
]


def name_of(case):
    return f"{case[0]}-{'x'.join(map(str, case[1]))}"


def matrix(function, shape):
    """The matrix [m, n] of a linear function of images, column by column."""
    basis = jnp.asarray(np.eye(np.prod(shape)).reshape(-1, *shape), float)
    return jax.vmap(lambda x: function(x).ravel(), out_axes=1)(basis)


def picture(shape, seed=1):
    return jnp.asarray(np.tanh(np.random.default_rng(seed).normal(size=shape)), float)


@pytest.mark.parametrize("case", LINEAR, ids=name_of)
def test_adjoint_and_norm_of_linear_operators(case):
    name, shape, parameters = case
    H = operators.make(name, shape, KEY, **parameters)
    x, y = picture(shape), picture(H.output_shape, 2)

    @jax.jit
    def apply(H, x, y):
        return matrix(H, shape), H(x), operators.adjoint(H, y), operators.norm(H, KEY, 300)

    A, forward, back, size = map(np.asarray, apply(H, x, y))
    np.testing.assert_allclose(forward.ravel(), A @ x.ravel(), atol=1e-5)
    np.testing.assert_allclose(back.ravel(), A.T @ y.ravel(), atol=1e-5)
    np.testing.assert_allclose(np.vdot(forward, y), np.vdot(x, back), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(size, np.linalg.svd(A, compute_uv=False)[0], rtol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("case", NONLINEAR, ids=name_of)
def test_adjoint_and_norm_of_nonlinear_operators_at_a_point(case):
    name, shape, parameters = case
    H = operators.make(name, shape, KEY, **parameters)
    at, y = 0.4 * picture(shape), picture(H.output_shape, 2)

    @jax.jit
    def apply(H, at, y):
        jacobian = matrix(lambda v: jax.jvp(H.surrogate, (at,), (v,))[1], shape)
        return jacobian, operators.adjoint(H, y, at), operators.norm(H, KEY, 300, at)

    jacobian, back, size = map(np.asarray, apply(H, at, y))
    np.testing.assert_allclose(back.ravel(), jacobian.T @ y.ravel(), atol=2e-5)
    np.testing.assert_allclose(size, np.linalg.svd(jacobian, compute_uv=False)[0], rtol=2e-3)
    with pytest.raises(InputError, match="not linear: pass the image `at`"):
        operators.adjoint(H, y)


@pytest.mark.slow
@pytest.mark.parametrize("case", [*LINEAR[2::4], *NONLINEAR], ids=name_of)
def test_gradients_also_at_zero_and_dark_pixels(x64, case):
    name, shape, parameters = case
    H = operators.make(name, shape, KEY, **parameters)
    x = 0.4 * picture(shape)
    mixed = jnp.where(picture(shape, 3) > 0, x, -1.0).at[0].set(0.0)
    points = [mixed, -jnp.ones(shape)]
    if name == "phase_retrieval":  # the modulus has a cusp where nothing arrives: any finite slope is right
        assert jnp.isfinite(operators.adjoint(H, jnp.ones(H.output_shape), jnp.zeros(shape))).all()
        points = points[:1]
    else:
        points.append(jnp.zeros(shape))
    for point in points:
        check_grads(jax.jit(H.surrogate), (point,), order=1, modes=["rev"], eps=1e-5)


def test_masks():
    x = np.ones((16, 16, 3))
    box = operators.make("box_inpainting", x.shape, size=5).mask * x
    assert (box[5:10, 5:10] == 0).all()
    assert box.sum() == 3 * (256 - 25)
    scattered = operators.make("random_inpainting", x.shape, KEY, ratio=0.7).mask * x
    assert scattered[..., 0].sum() == 256 - round(0.7 * 256)
    assert (scattered[..., :1] == scattered).all()
    brush = operators.make("brush_inpainting", (64, 48, 3), KEY).mask
    assert 0.5 < brush.mean() < 0.99
    assert set(np.unique(brush)) == {0.0, 1.0}
    given = operators.make("brush_inpainting", (9, 6, 1), mask=MASK)
    np.testing.assert_array_equal(given(jnp.ones((9, 6, 1)))[..., 0], MASK)
    assert given.hidden_share == pytest.approx(4 / 54)
    for mask in (MASK > 0, 255 * MASK, (255 * MASK).astype(np.uint8), jnp.asarray(MASK, int), (255 * MASK).tolist()):
        same = operators.make("brush_inpainting", (9, 6, 1), mask=mask)
        np.testing.assert_array_equal(same.mask, given.mask)
    batch = jnp.stack([MASK, 1 - MASK])
    masks = jax.vmap(lambda mask: operators.make("brush_inpainting", (9, 6, 1), mask=mask).mask)(batch)
    np.testing.assert_array_equal(masks[..., 0], batch)


def test_random_parts_come_from_the_key():
    for name in ("random_inpainting", "brush_inpainting", "motion_blur"):
        parameters = dict(random_inpainting=dict(ratio=0.5), motion_blur=dict(kernel_size=9)).get(name, {})
        one, same, other = (
            jax.tree.leaves(operators.make(name, (16, 16, 3), jax.random.key(seed), **parameters))[0]
            for seed in (0, 0, 1)
        )
        assert (one == same).all()
        assert (one != other).any()


@pytest.mark.parametrize("size", [1, 3, 9, 61])
def test_motion_kernels_sum_to_one_at_any_size(size):
    kernels = jax.jit(jax.vmap(lambda key: motion_kernel(key, size)))(jax.random.split(KEY, 50))
    assert (kernels >= 0).all()
    np.testing.assert_allclose(kernels.sum((1, 2)), 1, atol=1e-5)


def test_a_straight_motion_is_a_straight_line():
    kernel = motion_kernel(KEY, 21, 0.0)
    rows, columns = np.nonzero(np.asarray(kernel) > 0)
    spread = np.linalg.svd(np.stack([rows - 10, columns - 10]), compute_uv=False)
    assert spread[1] < 0.15 * spread[0]


def test_blurs_against_scipy():
    from scipy.ndimage import correlate

    x = picture((9, 8, 2))
    kernel = np.array(motion_kernel(KEY, 5))
    for boundary, mode in dict(reflect="mirror", circular="wrap").items():
        blurred = operators.make("motion_blur", x.shape, kernel=kernel, boundary=boundary)(x)
        np.testing.assert_allclose(blurred, correlate(x, kernel[..., None], mode=mode), atol=1e-6)
        H = operators.make("gaussian_blur", x.shape, kernel_size=5, std=1.2, boundary=boundary)
        point = operators.make("gaussian_blur", (9, 9, 1), kernel_size=5, std=1.2)(jnp.zeros((9, 9, 1)).at[4, 4].set(1))
        np.testing.assert_allclose(point.sum(), 1, rtol=1e-6)
        np.testing.assert_allclose(H(x), correlate(x, point[2:7, 2:7], mode=mode), atol=1e-6)


def test_flat_images_stay_flat_and_downscaling_is_jax_resize_inside():
    flat = jnp.full((24, 36, 3), 0.3)
    for name, parameters in dict(super_resolution=dict(factor=3), gaussian_blur=dict(kernel_size=7, std=2.0)).items():
        np.testing.assert_allclose(operators.make(name, flat.shape, **parameters)(flat), 0.3, rtol=1e-5)
    x = picture(flat.shape)
    small = operators.make("super_resolution", x.shape, factor=3)(x)
    np.testing.assert_allclose(small[2:-2, 2:-2], jax.image.resize(x, small.shape, "cubic")[2:-2, 2:-2], atol=1e-5)


def test_jpeg_surrogate_is_close_to_jpeg_and_quality_counts():
    x = jnp.asarray(np.kron(picture((4, 4, 3)), np.ones((8, 8, 1))) + 0.1 * picture((32, 32, 3)), float)

    @jax.jit
    def compare(H, x):
        hard, soft = H(x), H.surrogate(x)
        slopes = (jnp.abs(jax.grad(lambda x, f=f: jnp.sum(jnp.square(f(x))))(x)).max() for f in (H, H.surrogate))
        return jnp.sqrt(jnp.mean((hard - x) ** 2)), jnp.sqrt(jnp.mean((soft - hard) ** 2)), *slopes

    by_quality = [compare(operators.make("jpeg", x.shape, quality=quality), x) for quality in (10, 50, 100)]
    error, gap, hard_slope, soft_slope = np.array(by_quality).T
    assert error[0] > error[1] > error[2] > 0
    assert (gap < 0.7 * error[0]).all()
    assert (hard_slope == 0).all()
    assert (soft_slope > 0).all()


@pytest.mark.parametrize(("shape", "worst"), [((28, 28, 1), 1), ((30, 21, 3), 3)])
def test_jpeg_of_any_size_is_that_of_a_library(shape, worst):
    """To the levels by which its integer arithmetic differs; in gray, as a library smooths chroma between pixels."""
    rng = np.random.default_rng(0)
    pixels = np.kron(rng.integers(60, 190, (5, 4, 1)), np.ones((6, 7, 1)))[: shape[0], : shape[1]]
    pixels = (pixels + rng.integers(-9, 9, pixels.shape)).astype(np.uint8)
    pixels = pixels.repeat(shape[-1], -1)
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, "JPEG", quality=20)
    theirs = np.asarray(Image.open(file), float).reshape(shape)
    ours = operators.make("jpeg", shape, quality=20)(jnp.asarray(pixels / 127.5 - 1, jnp.float32))
    ours = np.clip(np.round((ours + 1) * 127.5), 0, 255)
    assert np.abs(ours - theirs).max() <= worst
    assert np.abs(pixels - theirs).max() > 10


def test_operators_are_pytrees_and_batches_of_them_are_vmapped():
    keys, x = jax.random.split(KEY, 3), picture((3, 8, 8, 1))

    def make(key):
        return operators.make("motion_blur", (8, 8, 1), key, kernel_size=5)

    many = jax.jit(jax.vmap(make))(keys)
    traces = []

    @jax.jit
    def apply(H, x):
        traces.append(0)
        return jax.vmap(lambda H, x: H(x))(H, x)

    each = np.stack([make(key)(image) for key, image in zip(keys, x, strict=True)])
    np.testing.assert_allclose(apply(many, x), each, atol=1e-6)
    apply(jax.tree.map(lambda kernels: kernels[::-1], many), x)
    assert len(traces) == 1


def test_any_function_is_an_operator():
    shape = (4, 5, 1)
    weights = jnp.arange(20.0).reshape(shape)
    H = operators.from_function(jax.tree_util.Partial(lambda w, x: jnp.sum(w * x, 0), weights), shape, linear=True)
    assert H.output_shape == (5, 1)
    assert jax.tree.leaves(H)[0] is weights
    y = jnp.ones((5, 1))
    np.testing.assert_allclose(operators.adjoint(H, y), weights)
    square = operators.from_function(jnp.square, shape)
    np.testing.assert_allclose(operators.adjoint(square, jnp.ones(shape), weights), 2 * weights)
    with pytest.raises(InputError, match="is not linear"):
        operators.from_function(lambda x: x + 1, shape, linear=True)
    with pytest.raises(InputError, match="has no transpose"):
        operators.from_function(jnp.tanh, shape, linear=True)
    with pytest.raises(InputError, match=r"'mine' fails on images of shape \(4, 5, 1\)"):
        operators.from_function(lambda x: x @ jnp.ones((3, 3)), shape, name="mine")
    for function, kind in ((lambda x: jnp.fft.fft2(x[..., 0]), "complex64"), (lambda x: x > 0, "bool")):
        with pytest.raises(InputError, match=f"operator 'custom' returns {kind}: return real floating-point numbers"):
            operators.from_function(function, shape, linear=True)


BAD = [
    ("gausian_blur", (8, 8, 3), {}, "unknown operator 'gausian_blur', did you mean 'gaussian_blur'"),
    (
        "gaussian_blur",
        (8, 8, 3),
        dict(kernel_sise=5, std=1.0),
        "unknown parameter 'kernel_sise', did you mean 'kernel_size'",
    ),
    ("gaussian_blur", (8, 8, 3), dict(kernel_size=5), "missing parameter 'std'"),
    (
        "gaussian_blur",
        (8, 8, 3),
        dict(kernel_size=4, std=1.0),
        "gaussian_blur: kernel size 4: pass an odd number from 1 to 15",
    ),
    (
        "gaussian_blur",
        (8, 8, 3),
        dict(kernel_size=17, std=1.0),
        "kernel size 17: pass an odd number from 1 to 15",
    ),
    ("gaussian_blur", (8, 8, 3), dict(kernel_size=5, std=0.0), "std=0.0: pass a number from 0.001 to 1000"),
    (
        "gaussian_blur",
        (8, 8, 3),
        dict(kernel_size=5, std=1.0, boundary="zero"),
        "boundary='zero': pass one of reflect, circular",
    ),
    ("motion_blur", (8, 8, 3), dict(kernel=np.zeros((3, 3))), "kernel is all zero"),
    ("brush_inpainting", (8, 8, 3), dict(mask="1"), "mask='1': pass an array of finite numbers"),
    ("motion_blur", (8, 8, 3), dict(kernel=np.ones((4, 3))), "kernel size 4: pass an odd number"),
    ("motion_blur", (8, 8, 3), dict(kernel=np.ones((3, 3, 3))), r"kernel has shape \(3, 3, 3\): pass one matrix"),
    ("motion_blur", (8, 8, 3), dict(kernel_size=5, intensity=2.0), "intensity=2.0: pass a number from 0 to 1"),
    ("motion_blur", (8, 8, 3), dict(kernel_size=5, key=None), "drawn at random: pass key="),
    ("super_resolution", (10, 9, 3), dict(factor=4), "10x9 is not a multiple of 4: pad to 12x12"),
    ("decimation", (9, 8, 3), dict(factor=2), "pad to 10x8"),
    ("jpeg", (16, 16, 2), {}, "or 1 .gray., the images have 2"),
    ("jpeg", (16, 16, 3), dict(quality=0), "quality=0: pass a number from 1"),
    ("colorization", (8, 8, 1), {}, "needs 3 channels"),
    ("box_inpainting", (8, 6, 3), dict(size=7), "size=7 does not fit into 8x6"),
    ("random_inpainting", (8, 8, 3), dict(ratio=1.0), "ratio=1.0: pass a number that is at least 0 and below 1"),
    ("brush_inpainting", (8, 8, 3), dict(mask=np.eye(8, 7)), r"mask has shape \(8, 7\): pass \(8, 8\)"),
    (
        "brush_inpainting",
        (8, 8, 3),
        dict(mask=3 * np.eye(8)),
        r"pass 1 \(or 255\) for observed .* hidden ones, not 0, 3",
    ),
    ("brush_inpainting", (8, 8, 3), dict(mask=np.eye(8) - 1), "not -1, 0"),
    ("brush_inpainting", (8, 8, 3), dict(mask=np.arange(64).reshape(8, 8)), r"not 0, 1, 2, \.\.\."),
    ("brush_inpainting", (8, 8, 3), dict(mask=0.5 * np.eye(8)), "not 0, 0.5"),
    ("brush_inpainting", (8, 8, 3), dict(mask=np.zeros((8, 8))), "and not others: it hides 100 %"),
    ("brush_inpainting", (8, 8, 3), dict(mask=np.ones((8, 8), bool)), "and not others: it hides 0 %"),
    ("hdr", (8, 8, 3), dict(scale=0.0), "scale=0.0: pass a number above 0"),
    ("phase_retrieval", (8, 8, 3), dict(oversampling=-1.0), "oversampling=-1.0: pass a number from 0 to 64"),
    ("decimation", (8, 8, 3), dict(factor=2.0), "decimation: factor=2.0: pass a whole number"),
    ("decimation", (8, 8, 3), dict(factor=True), "decimation: factor=True: pass a whole number"),
    ("random_inpainting", (8, 8, 3), dict(ratio="x"), "ratio='x': pass a finite number"),
    ("hdr", (8, 8, 3), dict(scale=np.inf), "scale=inf: pass a finite number"),
    ("gaussian_blur", (8, 8, 3), dict(kernel_size=5, std=1e9), "std=1000000000.0: pass a number from 0.001 to 1000"),
    ("gaussian_blur", (8, 8, 3), dict(kernel_size=5, std=1.0, boundary=3), "boundary=3: pass one of reflect, circular"),
    ("motion_blur", (8, 8, 3), dict(kernel_size=10**9 + 1), "kernel size 1000000001: pass an odd number from 1 to 15"),
    ("motion_blur", (8, 8, 3), dict(kernel=[[1, "a"]]), "pass an array of finite numbers"),
    ("brush_inpainting", (8, 8, 3), dict(strokes=10**9), "strokes=1000000000: pass a number from 1 to 256"),
    ("phase_retrieval", (8, 8, 3), dict(oversampling=1e9), "oversampling=1000000000.0: pass a number from 0 to 64"),
    ("denoising", (8, 8), {}, "must be .height, width, channels."),
]


@pytest.mark.parametrize(("name", "shape", "parameters", "message"), BAD)
def test_bad_input_is_one_clear_line(name, shape, parameters, message):
    key = parameters.pop("key", KEY) if "key" in parameters else KEY
    with pytest.raises(ValueError, match=message) as error:
        operators.make(name, shape, key, **parameters)
    assert "\n" not in str(error.value)


def test_image_of_another_shape():
    with pytest.raises(InputError, match=r"denoising takes images of shape \(8, 8, 3\), got \(2, 8, 8\)"):
        operators.make("denoising", (8, 8, 3))(jnp.zeros((2, 8, 8)))


def test_reference_operators(reference):
    arrays = np.load(reference / "operators.npz")
    kernel = arrays["motion_kernel_61_0.5"]
    cases = {
        "gaussian_blur_31_3.0_128": ("gaussian_blur", 128, dict(kernel_size=31, std=3.0)),
        "motion_blur_128": ("motion_blur", 128, dict(kernel=kernel)),
        "super_resolution_2_128": ("super_resolution", 128, dict(factor=2)),
        "decolorize_128": ("colorization", 128, {}),
        "phase_retrieval_64": ("phase_retrieval", 64, {}),
        "jpeg_10_128": ("jpeg", 128, dict(quality=10)),
    }
    for stored, (name, side, parameters) in cases.items():
        H = operators.make(name, (side, side, 3), **parameters)
        np.testing.assert_allclose(H(jnp.asarray(arrays[f"x_{side}"])), arrays[stored], atol=1e-4, err_msg=stored)
    back = operators.adjoint(operators.make("colorization", (128, 128, 3)), jnp.asarray(arrays["decolorize_128"]))
    np.testing.assert_allclose(back, arrays["decolorize_T_128"], atol=1e-4)


def test_reference_surrogate_differs_by_its_chroma_and_clipping_only(reference):
    """Theirs averages the chroma, interpolates it and clips softly; their JPEG and so our surrogate do none of it."""
    arrays = np.load(reference / "operators.npz")
    x, theirs = jnp.asarray(arrays["x_64"]), arrays["diff_jpeg_10_64"]
    ours = operators.make("jpeg", x.shape, quality=10).surrogate(x)
    luma = np.array([0.299, 0.587, 0.114])
    inside = np.abs(theirs).max(-1) < 0.95
    assert np.sqrt(np.mean((ours - theirs) ** 2)) < 0.06
    assert np.sqrt(np.mean(((ours - theirs)[inside] @ luma) ** 2)) < 0.01


PSF = np.array([[0.05, 0.1, 0.3], [0.0, 0.4, 0.0], [0.1, 0.05, 0.0]])  # of no symmetry


def test_a_psf_convolves_as_scipy_does():
    from scipy.ndimage import convolve
    from scipy.signal import convolve2d

    x = picture((9, 8, 1))
    plane = np.asarray(x)[..., 0]
    blurred = operators.make("motion_blur", x.shape, psf=PSF, boundary="circular")(x)[..., 0]
    np.testing.assert_allclose(blurred, convolve2d(plane, PSF, "same", "wrap"), atol=1e-6)
    mirrored = operators.make("motion_blur", x.shape, psf=PSF)(x)[..., 0]
    np.testing.assert_allclose(mirrored, convolve2d(np.pad(plane, 1, "reflect"), PSF, "valid"), atol=1e-6)
    np.testing.assert_allclose(mirrored, convolve(plane, PSF, mode="mirror"), atol=1e-6)
    point = jnp.zeros((9, 8, 1)).at[4, 4, 0].set(1)
    image = operators.make("motion_blur", x.shape, psf=PSF.tolist())(point)[3:6, 3:6, 0]
    np.testing.assert_allclose(image, PSF, atol=1e-6)  # the image of a point
    turned = operators.make("motion_blur", x.shape, kernel=PSF[::-1, ::-1])(x)[..., 0]
    np.testing.assert_allclose(turned, mirrored, atol=1e-6)
    assert np.abs(operators.make("motion_blur", x.shape, kernel=PSF)(x)[..., 0] - mirrored).max() > 0.1


def test_kernels_are_normalized_on_request():
    x = picture((9, 8, 1))
    for name in ("psf", "kernel"):
        expected = operators.make("motion_blur", x.shape, **{name: PSF})(x)
        scaled = operators.make("motion_blur", x.shape, **{name: 7 * PSF}, normalize=True)(x)
        np.testing.assert_allclose(scaled, expected, atol=1e-6)
    np.testing.assert_allclose(operators.make("motion_blur", x.shape, kernel=7 * PSF).kernel, 7 * PSF, rtol=1e-6)
    traced = jax.jit(lambda psf: operators.make("motion_blur", x.shape, psf=psf, normalize=True)(x))(3 * PSF)
    np.testing.assert_allclose(traced, operators.make("motion_blur", x.shape, psf=PSF)(x), atol=1e-6)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (dict(psf=2.5 * PSF), r"psf sums to 2.5, not to 1: pass normalize=True to divide by it, or kernel=psf\[::-1"),
        (dict(psf=PSF - PSF.T, normalize=True), "the psf sums to .*, which cannot be made 1: leave normalize out"),
        (dict(psf=PSF, kernel=PSF), "kernel and psf are given, of which one is the other turned by 180 degrees: keep"),
        (dict(psf=np.zeros((3, 3))), "the psf is all zero"),
        (dict(psf=np.ones((2, 2)) / 4), "kernel size 2: pass an odd number"),
        (dict(psf=np.ones(3) / 3), r"the psf has shape \(3,\): pass one matrix"),
        (dict(psf=PSF, normalize="yes"), "normalize='yes': pass True or False"),
    ],
)
def test_what_is_no_psf_is_one_line(parameters, message):
    with pytest.raises(InputError, match=message) as error:
        operators.make("motion_blur", (8, 8, 1), **parameters)
    assert "\n" not in str(error.value)
