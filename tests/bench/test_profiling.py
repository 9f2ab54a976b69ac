import jax
import jax.numpy as jnp
import pytest
from jax.profiler import ProfileData

from fmdp.bench import kernels, profiling

COMPILED = """
HloModule jit_step, is_scheduled=true

%region_0.3 (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add.1 = f32[] add(%a, %b)
}

%fused_reduce (p.1: bf16[8,64]) -> f32[8] {
  %p.1 = bf16[8,64]{1,0} parameter(0)
  %constant.1 = f32[] constant(0)
  %convert.1 = f32[8,64]{1,0} convert(%p.1)
  ROOT %reduce.1 = f32[8]{0} reduce(%convert.1, %constant.1), dimensions={1}, to_apply=%region_0.3
}

%fused_moves (p.2: f32[8,64]) -> f32[64,8] {
  %p.2 = f32[8,64]{1,0} parameter(0)
  %bitcast.2 = f32[512]{0} bitcast(%p.2)
  %reshape.2 = f32[8,64]{1,0} reshape(%bitcast.2)
  ROOT %transpose.2 = f32[64,8]{1,0} transpose(%reshape.2), dimensions={1,0}
}

%nested (p.3: f32[8,8]) -> f32[8,8] {
  %p.3 = f32[8,8]{1,0} parameter(0)
  ROOT %inner = f32[8,8]{1,0} fusion(%p.3), kind=kOutput, calls=%with_product
}

%with_product (p.4: f32[8,8]) -> f32[8,8] {
  %p.4 = f32[8,8]{1,0:T(8,128)S(1)} parameter(0)
  %negate.4 = f32[8,8]{1,0:T(8,128)} negate(%p.4)
  ROOT %dot.4 = f32[8,8]{1,0:T(8,128)} dot(%p.4, %negate.4), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (x: f32[8,8], y: bf16[8,64]) -> (f32[8,8], f32[8]) {
  %x = f32[8,8]{1,0} parameter(0)
  %while.5 = (s32[], /*index=1*/f32[8,8]{1,0}) while(%tuple.1), condition=%c, body=%b
  %cudnn-conv.5 = (f32[8,8]{1,0}, u8[0]{0}) custom-call(%x), custom_call_target="__cudnn$convForward"
  %custom-call.6 = f32[8,8]{1,0} custom-call(%x), custom_call_target="__cublas$lt$matmul"
  %custom-call.7 = f32[8,8]{1,0} custom-call(%x), custom_call_target="TopK"
  %input_reduce_fusion.8 = f32[8]{0} fusion(%y), kind=kInput, calls=%fused_reduce
  %fusion.9 = f32[64,8]{1,0} fusion(%y), kind=kLoop, calls=%fused_moves
  %fusion.10 = f32[8,8]{1,0} fusion(%x), kind=kCustom, calls=%nested
  %all-reduce.11 = f32[8,8]{1,0} all-reduce(%x), to_apply=%region_0.3
  %exponential.12 = f32[8,8]{1,0} exponential(%x)
  ROOT %tuple.13 = (f32[8,8]{1,0}, f32[8]{0}) tuple(%fusion.10, %input_reduce_fusion.8)
}
"""


def test_an_instruction_has_the_kind_of_what_it_contains():
    found = kernels.instruction_kinds(COMPILED)
    wanted = {
        "while.5": None,
        "cudnn-conv.5": "convolution",
        "custom-call.6": "product",
        "custom-call.7": "other",
        "input_reduce_fusion.8": "reduction",
        "fusion.9": "copy",
        "fusion.10": "product",
        "all-reduce.11": "other",
        "exponential.12": "elementwise",
    }
    assert {name: found[name] for name in wanted} == wanted
    assert found.keys().isdisjoint({"x", "tuple.13", "constant.1", "bitcast.2"})


@pytest.mark.parametrize(
    ("name", "kind"),
    {
        "sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize128x128x64": "convolution",
        "void cutlass__5x_cudnn::Kernel<cutlass_tensorop_s1688wgrad_optimized_tf32_128x128>": "convolution",
        "void cudnn::ops::nchwToNhwcKernel<float, float, float, false, true>": "copy",
        "nvjet_hsh_128x256_64x4_2x1_v_bz_coopA_NNT_gemm": "product",
        "void cutlass::Kernel2<cutlass_80_tensorop_s1688gemm_128x128_16x5_nn_align4>": "product",
        "void cublasLt::splitKreduce_kernel<32, 16, int, float>": "product",
        "gemm_fusion_dot_31": "product",
        "input_reduce_fusion_12": "reduction",
        "loop_convert_fusion_3": "elementwise",
        "loop_multiply_fusion": "elementwise",
        "input_transpose_fusion_2": "copy",
        "loop_dynamic_update_slice_fusion": "copy",
        "input_concatenate_fusion": "copy",
        "MemcpyD2D": "copy",
        "ncclDevKernel_AllReduce_Sum_f32_RING_LL": "other",
    }.items(),
)
def test_a_kernel_without_an_instruction_is_known_by_its_name(name, kind):
    assert kernels.kernel_kind(name) == kind


def trace(plane, line, events, operation=True):
    """A recorded trace: (name, nanoseconds, hlo_op) of each event."""
    names = sorted({name for name, _, _ in events})
    metadata = "".join(
        f'event_metadata {{ key: {i} value {{ id: {i} name: "{name}" }} }} ' for i, name in enumerate(names, 1)
    )
    recorded = ""
    for name, taken, instruction in events:
        stats = f'stats {{ metadata_id: 1 str_value: "{instruction}" }}' if instruction else ""
        recorded += f"events {{ metadata_id: {names.index(name) + 1} duration_ps: {taken * 1000} {stats} }} "
    kinds = 'stat_metadata { key: 1 value { id: 1 name: "hlo_op" } }'
    text = f'planes {{ name: "{plane}" {metadata} {kinds} lines {{ name: "{line}" {recorded} }} }}'
    return ProfileData(ProfileData.text_proto_to_serialized_xspace(text))


def seconds(found):
    return {kind: round(found[kind]["seconds"] * profiling.RUNS * 1e9) for kind in kernels.KINDS if kind in found}


def test_the_time_of_a_gpu_is_read_from_its_streams():
    events = [
        ("sm90_xmma_fprop", 30, "cudnn-conv.5"),
        ("fusion_10", 20, None),  # in a graph of kernels only the symbol is known
        ("input_reduce_fusion_8", 10, "input_reduce_fusion.8"),
        ("MemcpyD2D", 4, None),
        ("loop_add_fusion_77", 6, "while.5"),  # the instruction is the loop around the kernel
    ]
    found = profiling.time_by_kind(
        profiling.read_kernels(trace("/device:GPU:0", "Stream #13(Compute)", events)), COMPILED
    )
    assert seconds(found) == {"convolution": 30, "product": 20, "reduction": 10, "elementwise": 6, "copy": 4}
    assert sum(found[kind]["share"] for kind in kernels.KINDS if kind in found) == pytest.approx(1)
    assert next(iter(found["largest"])) == "cudnn-conv.5 (convolution)"
    assert not list(profiling.read_kernels(trace("/device:GPU:0", "Source code", events)))


def test_the_time_of_a_tpu_is_that_of_its_instructions_and_of_a_cpu_that_of_its_threads():
    events = [("%while.5 = (s32[]) while(%tuple.1), body=%b", 50, None), ("%fusion.9 = f32[64,8] fusion(%y)", 7, None)]
    found = profiling.time_by_kind(profiling.read_kernels(trace("/device:TPU:0", "XLA Ops", events)), COMPILED)
    assert seconds(found) == {"copy": 7}
    events = [("while.5", 50, "while.5"), ("fusion.10", 8, "fusion.10"), ("ThreadpoolListener", 3, None)]
    found = profiling.time_by_kind(profiling.read_kernels(trace("/host:CPU", "tf_XLAEigen/1", events)), COMPILED)
    assert seconds(found) == {"product": 8}


def test_a_live_trace_shows_a_convolution_and_a_reduction():
    @jax.jit
    def network(x, kernel):
        x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.sum(jnp.abs(x), (0, 1, 2))

    given = jnp.ones((4, 32, 32, 16)), jnp.ones((3, 3, 16, 16))
    compiled = network.lower(*given).compile()
    found = profiling.time_by_kind(profiling.traced(lambda: compiled(*given)), compiled.as_text())
    assert found["convolution"]["kernels"] == 1
    assert found["convolution"]["seconds"] > 0
    assert found["reduction"]["kernels"] >= 1
    assert "product" not in found


def test_a_trace_without_kernels_says_so():
    assert "holds no kernels" in profiling.time_by_kind([], COMPILED)["not_measured"]
