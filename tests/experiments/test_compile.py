"""Reading compiled programs: written-out HLO, XLA's own count of programs without loops, and the roofline's arithmetic."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from experiments import cli, compile, gpu_targets, hlo
from experiments.gpu_targets import TARGETS
from experiments.mfu import known_peak
from experiments.roofline import CHIPS, Chip, roofline, sent_bytes
from experiments.roofline import SOURCE as roofline_source

ROOT = pathlib.Path(__file__).parents[2]
LOOP = """\
HloModule jit_train, is_scheduled=true

%fused (p0: f32[64,128], p1: s32[]) -> f32[1,128] {
  %p0 = f32[64,128]{1,0:T(8,128)} parameter(0)
  %p1 = s32[]{:T(128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  ROOT %row = f32[1,128]{1,0:T(1,128)} dynamic-slice(%p0, %p1, %zero), dynamic_slice_sizes={1,128}
}

%body (arg: (s32[], f32[8,16], f32[64,128])) -> (s32[], f32[8,16], f32[64,128]) {
  %arg = (s32[]{:T(128)}, f32[8,16]{1,0}, /*index=2*/f32[64,128]{1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%arg), index=0
  %x = f32[8,16]{1,0} get-tuple-element(%arg), index=1
  %table = f32[64,128]{1,0:T(8,128)} get-tuple-element(%arg), index=2
  %row = f32[1,128]{1,0} fusion(%table, %i), kind=kLoop, calls=%fused
  %square = f32[16,16]{1,0:T(8,128)S(1)} all-gather(%x), channel_id=1, replica_groups=[1,4]<=[4], dimensions={0}
  %y = f32[8,16]{1,0} dot(%x, %square), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %sum = (f32[8,16]{1,0}, f32[]) all-reduce(%y, %half), channel_id=2, to_apply=%add
  ROOT %out = (s32[]{:T(128)}, f32[8,16]{1,0}, f32[64,128]{1,0}) tuple(%i, %y, %table)
}

%condition (arg.1: (s32[], f32[8,16], f32[64,128])) -> pred[] {
  %arg.1 = (s32[]{:T(128)}, f32[8,16]{1,0}, f32[64,128]{1,0}) parameter(0)
  %five = s32[]{:T(128)} constant(5)
  %n = s32[]{:T(128)} get-tuple-element(%arg.1), index=0
  ROOT %less = pred[]{:T(512)} compare(%n, %five), direction=LT
}

ENTRY %main (a: f32[8,16], b: f32[64,128]) -> f32[8,16] {
  %a = f32[8,16]{1,0} parameter(0)
  %b = f32[64,128]{1,0} parameter(1)
  %start = s32[]{:T(128)} constant(0)
  %tuple = (s32[]{:T(128)}, f32[8,16]{1,0}, f32[64,128]{1,0}) tuple(%start, %a, %b)
  %loop = (s32[]{:T(128)}, f32[8,16]{1,0}, f32[64,128]{1,0}) while(%tuple), condition=%condition, body=%body
  ROOT %end = f32[8,16]{1,0} get-tuple-element(%loop), index=1
}
"""


def test_a_loop_counts_as_often_as_it_runs():
    found = hlo.totals(LOOP)
    assert found.flops == 5 * 2 * 8 * 16 * 16
    # the scalar of the all-reduce's result is counted, though its operand is not in this text
    assert found.collectives == {"all-gather": (5, 5 * 16 * 16 * 4.0), "all-reduce": (5, 5 * (8 * 16 * 4 + 4.0))}
    assert found.groups == {"all-gather": {4: 5 * 16 * 16 * 4.0}, "all-reduce": {0: 5 * (8 * 16 * 4 + 4.0)}}
    mesh = "mesh['a'=2,'b'=4]"
    for written, devices in (
        ("[4,2]<=[2,2,2]T(1,0,2)", 2),
        ("{{0,2},{1,3}}", 2),
        (mesh + " {'b'}", 4),
        (mesh + ", device_ids=([2,4]T(1,0)) {'a','b'}", 8),
        (mesh + " {'b':(1)2}", 2),
    ):
        other = hlo.totals(LOOP.replace("[1,4]<=[4]", written))
        assert other.groups["all-gather"] == {devices: 5 * 16 * 16 * 4.0}
        assert other.collectives == found.collectives
    assert found.unknown_loops == 0
    row = 128 * 4 + 128 * 4 + 4  # of the table only the row, written once, and the index
    gather, dot = 8 * 16 * 4, 2 * 8 * 16 * 4  # what is in the chip's own memory, S(1), does not count
    reduce = 8 * 16 * 4 + 8 * 16 * 4 + 4
    assert found.bytes == 5 * (row + gather + dot + reduce)


def test_loops_whose_length_is_told_or_unknown():
    told = LOOP.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"7"}}')
    assert hlo.totals(told).flops == 7 * 2 * 8 * 16 * 16
    unknown = LOOP.replace("s32[]{:T(128)} constant(5)", "s32[]{:T(128)} get-tuple-element(%arg.1), index=0")
    assert hlo.totals(unknown).flops == 2 * 8 * 16 * 16
    assert hlo.totals(unknown).unknown_loops == 1
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.totals("HloModule nothing")


def test_an_update_in_place_costs_what_it_updates():
    text = LOOP.replace(
        "ROOT %row = f32[1,128]{1,0:T(1,128)} dynamic-slice(%p0, %p1, %zero), dynamic_slice_sizes={1,128}",
        "%one = f32[1,128]{1,0} broadcast(%p1), dimensions={}\n"
        "  ROOT %row = f32[64,128]{1,0} dynamic-update-slice(%p0, %one, %p1, %zero)",
    ).replace("%row = f32[1,128]{1,0} fusion", "%row = f32[64,128]{1,0} fusion")
    row = 128 * 4 + 4  # written, and the index read
    assert hlo.totals(text).bytes == hlo.totals(LOOP).bytes - 5 * (2 * 128 * 4 + 4) + 5 * row


def test_a_part_that_is_fetched_ahead_costs_its_own_size():
    fetched = "  %part = (f32[64,128]{1,0}, f32[2,128]{1,0:S(1)}, u32[]) slice-start(%b), slice={[0:2], [0:128]}\n"
    text = LOOP.replace("  %start =", fetched + "  %start =")
    assert hlo.totals(text).bytes == hlo.totals(LOOP).bytes + 2 * 128 * 4


def convolution(stride=1, padding="SAME", spread=(1, 1), dilation=(1, 1), groups=1):
    """A convolution of 9x9 maps with four channels."""

    def apply(x, kernel):
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            padding,
            lhs_dilation=spread,
            rhs_dilation=dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    return apply


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"stride": 2},
        {"padding": "VALID", "dilation": (2, 2)},
        {"spread": (2, 2), "padding": [(2, 2), (1, 3)]},
        {"groups": 2},
    ],
)
def test_convolutions_are_counted_as_xla_counts_them(settings):
    x, kernel = jnp.ones((2, 9, 9, 4)), jnp.ones((3, 3, 4 // settings.get("groups", 1), 6))
    program = jax.jit(convolution(**settings)).lower(x, kernel).compile({"xla_backend_optimization_level": 0})
    assert " convolution(" in program.as_text()
    assert hlo.totals(program.as_text()).flops == program.cost_analysis()["flops"]


def test_a_scan_of_products_is_counted_in_full():
    def products(x, ws):
        return lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, ws)[0]

    program = jax.jit(products).lower(jnp.ones((64, 64)), jnp.ones((6, 64, 64))).compile()
    assert hlo.totals(program.as_text()).flops == 6 * 2 * 64**3
    assert hlo.totals(program.as_text()).unknown_loops == 0


def test_the_roofline_is_the_slowest_part():
    chip = Chip(flops=100.0, memory_rate=10.0, memory=1.0, link_rate=4.0)
    totals = hlo.Totals(flops=300.0, bytes=20.0, groups={"all-reduce": {0: 8.0}, "all-gather": {0: 4.0}})
    least = roofline(totals, chip, 4)
    assert (least.compute, least.memory) == (3.0, 2.0)
    # an all-reduce sends 2 (n-1)/n of its bytes, an all-gather (n-1)/n, in one direction of the links
    assert least.links == (2 * 8 * 3 / 4 + 4 * 3 / 4) / 2.0
    assert (least.seconds, least.bound) == (7.5, "links")
    pairs = roofline(hlo.Totals(groups={"all-reduce": {2: 8.0}}), chip, 4)
    assert pairs.links == 2 * 8 * 1 / 2 / 2.0  # each chip of two sends its half twice
    assert roofline(hlo.Totals(flops=300.0), chip, 4).bound == "compute"
    assert sent_bytes("collective-permute", 8.0, 4) == 8.0
    assert CHIPS["TPU v5 lite"].flops == 197e12 and CHIPS["TPU v5 lite"].memory_rate == 819e9


WINDOW = "window={size=3x3 stride=2x2 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f"
CONTRACTED = '"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}'
CALLS = f"""\
HloModule jit_train, is_scheduled=true

ENTRY %main (a: f32[2,8,8,4], b: f32[16,3,3,4], c: f32[2,4,4,16]) -> f32[6,10] {{
  %x = f32[2,8,8,4]{{3,2,1,0}} parameter(0)
  %k = f32[16,3,3,4]{{3,2,1,0}} parameter(1)
  %g = f32[2,4,4,16]{{3,2,1,0}} parameter(2)
  %p = bf16[6,7]{{1,0}} parameter(3)
  %q = bf16[7,10]{{1,0}} parameter(4)
  %y = (f32[2,4,4,16]{{3,2,1,0}}, u8[0]{{0}}) custom-call(%x, %k), {WINDOW}, custom_call_target="__cudnn$convForward"
  %d = (f32[16,3,3,4]{{3,2,1,0}}, u8[0]{{0}}) custom-call(%x, %g), {WINDOW}, custom_call_target="__cudnn$convBackwardFilter"
  %e = (f32[2,8,8,4]{{3,2,1,0}}, u8[0]{{0}}) custom-call(%g, %k), {WINDOW}, custom_call_target="__cudnn$convBackwardInput"
  %other = f32[2,8,8,4]{{3,2,1,0}} custom-call(%x), custom_call_target="__something$else"
  ROOT %z = (bf16[6,10]{{1,0}}, s8[99]{{0}}) custom-call(%p, %q), custom_call_target="__cublas$lt$matmul", config={{{CONTRACTED}}}
}}
"""


def test_products_and_convolutions_that_a_library_computes_are_counted():
    """A convolution and its two gradients by hand: 11 of the 12 taps of an axis meet the image, in each direction."""
    convolution = 2 * 2 * 16 * 4 * 11 * 11
    assert hlo.totals(CALLS).flops == 3 * convolution + 2 * 6 * 10 * 7
    # the room to work in, 99 bytes here, is neither read nor written
    arrays = 4 * (2 * 8 * 8 * 4 * 5 + 16 * 3 * 3 * 4 * 3 + 2 * 4 * 4 * 16 * 3) + 2 * (6 * 7 + 7 * 10 + 6 * 10)
    assert hlo.totals(CALLS).bytes == arrays
    without = "\n".join(line for line in CALLS.splitlines() if "__cudnn" not in line)
    assert hlo.totals(without).flops == 2 * 6 * 10 * 7


def test_a_gpu_is_described_by_its_numbers():
    text = TARGETS["a100"].described()
    assert "core_count: 108\n" in text and "cuda_compute_capability { major: 8 minor: 0 }" in text
    assert "shared_memory_per_core: 167936\n  shared_memory_per_block_optin: 166912\n" in text
    # the same peaks as for model FLOPs utilisation
    assert all(known_peak(target.kind).flops == target.chip.flops for target in TARGETS.values())
    for target in TARGETS.values():
        assert compile.peaks(target.kind) == (target.chip, gpu_targets.SOURCE)
    assert compile.peaks("TPU v5 lite") == (CHIPS["TPU v5 lite"], roofline_source) and compile.peaks("TPU v1") == (
        None,
        "",
    )


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--recipe=lenet5", "--topology=v5"], 2, "expected a TPU generation and its chips, as v5e:2x2"),
        (["--recipe=lenet5", "--topology=h300"], 2, "or a GPU (a100, h100, h200; h200:8 for eight)"),
        (["--recipe=lenet5", "--topology=h200:2x2"], 2, "expected a number of GPUs, as h200:8"),
        (["--recipe=lenet5", "--topology=h200"], 1, "pip install -c constraints.txt -e '.[gpu]'"),
        (["--recipe=lenett"], 2, "did you mean lenet5"),
        (["--recipe=lenet5"], 1, "pip install -c constraints.txt -e '.[tpu]'"),
        ([], 2, "--recipe=NAME is necessary"),
    ],
)
def test_it_says_in_one_line_what_was_wrong(flags, code, said, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", no_libtpu(importlib.util.find_spec))
    assert cli.execute(compile.main, compile.BINARY, ["compile", *flags]) == code
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and said in error and "\n" not in error


def no_libtpu(find_spec):
    """find_spec of a machine without libtpu and without CUDA's plugin."""
    missing = ("libtpu", "jax_cuda12_plugin", "jax_cuda13_plugin")
    return lambda name, *rest: None if name in missing else find_spec(name, *rest)


def elsewhere(*flags):
    """The binary in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "experiments.compile", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment)


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed ([tpu] extra)")
def test_a_recipe_compiles_for_four_chips_that_are_not_there(tmp_path):
    done = elsewhere("--recipe=linear_regression", "--topology=v5e:2x2", f"--output={tmp_path / 'found.json'}")
    assert done.returncode == 0, done.stderr
    assert "4 x TPU v5 lite" in done.stdout and "197 TFLOP/s" in done.stdout
    (row,) = json.loads((tmp_path / "found.json").read_text())["phases"]
    assert row["collectives"]["all-reduce"]["bytes"] > 0 and row["donated"] > 0
    assert row["loops_of_unknown_length"] == 1
    wrong = elsewhere("--recipe=linear_regression", "--topology=v99:2x2")
    assert wrong.returncode == 2 and "knows no such topology" in wrong.stderr


@pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda13_plugin") is None, reason="JAX's CUDA plugin is not installed ([gpu] extra)"
)
@pytest.mark.parametrize("count", [1, 2])
def test_a_recipe_compiles_for_gpus_that_are_not_there(count, tmp_path):
    path = tmp_path / "found.json"
    done = elsewhere("--recipe=mlp_mnist", f"--topology=h200:{count}", "--data.name=digits", f"--output={path}")
    assert done.returncode == 0, done.stderr
    assert f"{count} x NVIDIA H200" in done.stdout and "989 TFLOP/s" in done.stdout
    (row,) = json.loads(path.read_text())["phases"]
    # 64-512-512-10: the gradient by the pixels is not needed
    products = 128 * 2 * (3 * (512 * 512 + 512 * 10) + 2 * 64 * 512)
    assert row["flops"] == pytest.approx(products, rel=0.01)
    assert ("all-reduce" in row["collectives"]) == (count > 1)
