from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from configs import cifar10
from fmdp import operators, solvers
from fmdp.bench import flops, lowering
from fmdp.bench.workload import Workload
from fmdp.operators.noise import GaussianNoise, observe


def xla_flops(function, *args):
    """XLA's own count. It includes elementwise operations and sums, and the body of a loop once."""
    return jax.jit(function).lower(*args).cost_analysis()["flops"]


def shaped(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


FOUR = AbstractMesh((4,), ("data",))  # devices, which need not exist to be counted
CONVOLUTIONS = {
    "same": {},
    "valid": dict(padding="VALID"),
    "stride": dict(window_strides=(2, 3)),
    "uneven padding": dict(padding=((5, 0), (-2, 1))),
    "dilated window": dict(rhs_dilation=(2, 1)),
    "dilated input": dict(lhs_dilation=(2, 3), padding=((2, 1), (0, 4))),
    "all at once": dict(window_strides=(2, 1), lhs_dilation=(3, 2), rhs_dilation=(2, 2), padding=((3, 2), (1, 0))),
    "groups of features": dict(feature_group_count=2),
    "groups of images": dict(batch_group_count=2),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_counts_as_in_xla_and_so_do_its_gradients(name):
    options = dict(window_strides=(1, 1), padding="SAME") | CONVOLUTIONS[name]
    x, kernel = shaped(4, 7, 9, 6), shaped(3, 2, 6 // options.get("feature_group_count", 1), 8)
    convolve = partial(jax.lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options)

    def gradients(x, kernel):
        out, back = jax.vjp(convolve, x, kernel)
        return back(out)

    assert flops.product_flops(convolve, x, kernel) == xla_flops(convolve, x, kernel) > 0
    assert flops.product_flops(gradients, x, kernel) == xla_flops(gradients, x, kernel)


def test_a_product_counts_two_operations_for_each_pair_of_numbers():
    left, right = shaped(2, 3, 5, 7), shaped(3, 7, 2, 11)
    assert flops.product_flops(partial(jnp.einsum, "abij,bjak->baik"), left, right) == 2 * 2 * 3 * 5 * 7 * 11
    assert flops.product_flops(partial(jnp.einsum, "abij,bjak->baik"), left, right) == xla_flops(
        partial(jnp.einsum, "abij,bjak->baik"), left, right
    )
    assert flops.product_flops(jnp.vdot, shaped(13), shaped(13)) == 26


def test_loops_branches_and_devices_count_as_often_as_they_run():
    x, once = shaped(8, 8), 2 * 8**3

    def square(x):
        return x @ x

    def thrice(x):
        return jax.lax.scan(lambda x, _: (square(x), None), x, None, 3)[0]

    def either(x):
        return jax.lax.cond(x[0, 0] > 0, square, thrice, x)

    def until(x):
        return jax.lax.while_loop(lambda x: x[0, 0] > 0, square, x)

    on_devices = jax.shard_map(square, mesh=FOUR, in_specs=P(), out_specs=P())
    assert flops.product_flops(thrice, x) == 3 * once
    assert flops.product_flops(lambda x: jax.lax.map(lambda _: thrice(x), jnp.arange(4)), x) == 12 * once
    assert flops.product_flops(either, x) == 3 * once
    assert len(flops.product_equations(either, x)) == 3
    assert flops.product_flops(until, x) == once
    assert flops.product_flops(on_devices, x) == 4 * once
    assert flops.product_flops(jax.pmap(square), shaped(1, 8, 8)) == once
    assert flops.product_flops(jax.checkpoint(square), x) == once
    # the gradient of a recomputed product: forward, once more, and two products back
    assert flops.product_flops(jax.grad(lambda x: jnp.sum(jax.checkpoint(thrice)(x))), x) == 4 * 3 * once


def test_products_inside_functions_with_their_own_derivative_count():
    @jax.custom_jvp
    def square(x):
        return x @ x

    @square.defjvp
    def _(primals, tangents):
        (x,), (dx,) = primals, tangents
        return square(x), x @ dx

    @jax.custom_vjp
    def cube(x):
        return x @ x @ x

    cube.defvjp(lambda x: (cube(x), x), lambda x, g: (x @ g,))
    x, once = shaped(8, 8), 2 * 8**3
    assert flops.product_flops(square, x) == once
    assert flops.product_flops(lambda x: jax.jvp(square, (x,), (x,)), x) == 2 * once
    assert flops.product_flops(cube, x) == 2 * once
    assert flops.product_flops(jax.grad(lambda x: jnp.sum(cube(x))), x) == 3 * once


def test_dividing_the_images_among_devices_changes_nothing():
    x, kernel = shaped(4, 8, 8, 3), shaped(3, 3, 3, 16)
    convolve = partial(
        jax.lax.conv_general_dilated,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    rows = jax.shard_map(convolve, mesh=FOUR, in_specs=(P("data"), P()), out_specs=P("data"))
    assert flops.product_flops(rows, x, kernel) == flops.product_flops(convolve, x, kernel)


@pytest.fixture(scope="module")
def wide():
    """So wide, and with so many images, that what XLA counts beside products is less than a hundredth of them."""
    config = cifar10.get_config("small")
    config.network.update(channels=256, multipliers=(1,), blocks=1, attention=(8,), resolution=8)
    config.parallel.mode = "jit"
    return Workload(config, (8, 8, 3), 16, 1)


@pytest.mark.slow
def test_programs_count_within_two_per_cent_of_xla(wide):
    """Never more than XLA, which adds elementwise operations and sums."""
    network, inputs = lowering.forward(wide)
    step, arguments = lowering.training_step(wide, jax.devices()[:1])
    for function, given in ((network, inputs), (step, arguments)):
        wanted = function.lower(*given).cost_analysis()["flops"]
        found = flops.product_flops(function, *given)
    assert 0.98 * wanted < found < wanted


@pytest.mark.slow
def test_a_solve_counts_within_two_per_cent_of_xla(wide):
    """With one step, because XLA counts the body of a loop once."""
    network, (variables, *_) = lowering.forward(wide)
    operator = operators.make("random_inpainting", wide.shape, jax.random.key(1), ratio=0.5)
    observed = observe(operator, GaussianNoise(sigma=0.05), jnp.zeros(wide.shape), jax.random.key(2))

    def solve(steps, variables, key):
        return solvers.make("pnp", steps=steps)(jax.tree_util.Partial(network, variables), observed, key)

    given = variables, jax.eval_shape(lambda: jax.random.key(3))
    found, wanted = flops.product_flops(partial(solve, 1), *given), xla_flops(partial(solve, 1), *given)
    assert 0.98 * wanted < found < wanted
    several, more = (flops.product_flops(partial(solve, steps), *given) for steps in (2, 5))
    assert more - several == pytest.approx(3 * (several - found), rel=1e-6)
