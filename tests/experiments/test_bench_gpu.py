"""The suite `gpu`: its arithmetic by hand, its budget, its jobs, and every case at toy size."""

import json
import math
import pathlib
import sys
import time
from types import SimpleNamespace

import jax
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import laws

from experiments import backend, bench, bench_gpu, bench_job, bench_process, bench_profile, cli, ledger
from experiments.bench_measure import Bar, Result, Skipped
from experiments.bench_process import job
from experiments.mfu import Peak, known_peak, mfu, network_flops, peak, transformer_flops
from jaxdl.errors import UserError


@pytest.fixture
def in_this_process(monkeypatch):
    """Jobs run here, with what they get and give as JSON."""
    calls = []

    def run(target, arguments, **options):
        calls.append((target, options))
        return json.loads(json.dumps(bench_job.called(target, json.loads(json.dumps(arguments)))))

    monkeypatch.setattr(bench_gpu, "job", run)
    monkeypatch.setattr("experiments.bench_process.job", run)
    return calls


def test_mfu_by_hand():
    assert mfu(2e12, 0.5, Peak(8e12, "")) == 0.5 and mfu(2e12, 0.5, None) is None
    # GPT-2 124M: 6 (124,439,808 - 1024 · 768) + 12 · 12 · 768 · 1024
    assert transformer_flops(123_653_376, 12, 768, 1024) == 741_920_256 + 113_246_208
    # by the published peaks
    assert known_peak("NVIDIA H100 80GB HBM3").flops == known_peak("NVIDIA H200").flops == 989e12
    assert known_peak("NVIDIA H100 PCIe").flops == 756e12 and known_peak("NVIDIA A100-SXM4-40GB").flops == 312e12
    assert known_peak("TPU v5 lite").flops == 197e12
    assert known_peak("NVIDIA L40") is None and known_peak("cpu") is None
    assert 1e6 < peak(jax.local_devices()[0], seconds=0.01).flops < 1e14


def test_resnet_50s_operations_by_hand():
    """He et al. 2016, table 1: 3.8e9 multiply-adds of version 1; with the stride in the 3x3 convolutions 4.09e9."""
    from jaxdl.models.resnet import ImageNetResNet

    total, maps, side = 7 * 7 * 3 * 64 * 112 * 112, 64, 56
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 << stage
        for block in range(blocks):
            first = block == 0
            wide, side = side, side // 2 if first and stage else side
            total += maps * width * wide**2 + 9 * width * width * side**2 + width * 4 * width * side**2
            total += maps * 4 * width * side**2 if first else 0
            maps = 4 * width
    total += 2048 * 1000
    assert total == pytest.approx(4.09e9, rel=1e-3)
    assert network_flops(ImageNetResNet(50), (224, 224, 3)) == 3 * 2 * total


# gpt2 is measured below, by the whole command
@pytest.mark.parametrize("case", [case for case in bench_gpu.CASES if not case.startswith("gpt2")])
def test_every_case_runs_at_toy_size(case, monkeypatch):
    if case.startswith("airbench"):
        if not (laws.SHARED / "cifar10").exists():
            pytest.skip(f"cifar10 is not in {laws.SHARED}")
        monkeypatch.setenv("TFDS_DATA_DIR", str(laws.SHARED))
    found = Result.from_json(json.loads(json.dumps(bench_gpu.measured(case, True, 2, 0.002))))
    assert found.case == case and found.what.startswith("toy of: ")
    assert all(math.isfinite(value) and value > 0 for value in found.values)
    # toys neither reach nor miss a bar
    assert found.bar is None and found.passed is None
    if "MFU" in found.facts:
        took = found.measurements["jaxdl"]
        shares = [mfu(found.facts["FLOPs a step"], each, Peak(found.facts["peak FLOP/s"], "")) for each in took]
        assert found.facts["MFU"] == pytest.approx(sum(shares) / 2)


def test_the_budget_ends_the_suite(monkeypatch):
    now, limits = [0.0], []
    monkeypatch.setattr(bench_gpu.time, "monotonic", lambda: now[0])

    def slow(target, arguments, timeout):
        limits.append(timeout)
        now[0] += min(timeout, 100.0)
        if timeout < 100.0:
            raise UserError(f"stopped after {timeout:.0f} s, its limit")
        return Result(arguments["case"], "what", "rate", [1.0], None, {}, "").to_json()

    monkeypatch.setattr(bench_gpu, "job", slow)
    found = list(bench_gpu.run(bench_gpu.CASES, 0, 0.5, 250.0))
    assert [type(each) for each in found] == [Result, Result, *[Skipped] * (len(bench_gpu.CASES) - 2)]
    # each has its own limit, and none may use more than what is left
    assert limits == [200.0, 150.0, 50.0]
    assert found[2].reason == "stopped after 50 s, its limit"
    assert all("no time left of the budget of 250 s" in each.reason for each in found[3:])


def test_the_largest_batch_that_fits_is_taken(monkeypatch):
    """Less memory, smaller batches; another reason, another form."""
    from experiments import bench_loops

    made = []

    class Engine:
        def __init__(self, phase):
            made.append(phase)
            if phase[0] == "fused":
                raise ValueError("no such kernel")
            if phase[1] > 8:
                raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory")

        def __call__(self, steps):
            pass

    monkeypatch.setattr(bench_loops, "Engine", Engine)
    forms = {name: lambda n, name=name: bench_gpu.Training((name, n), n, 1.0) for name in ("fused", "plain")}
    name, batch, training, _ = bench_gpu.largest(forms, (32, 16, 8, 4))
    assert (name, batch, training.items) == ("plain", 8, 8)
    assert made == [("fused", 32), ("plain", 32), ("plain", 16), ("plain", 8)]
    with pytest.raises(UserError, match="cannot be trained here: no such kernel"):
        bench_gpu.largest({"fused": forms["fused"]}, (32, 16))


@pytest.mark.parametrize(("own", "kept"), [(True, None), (False, "/elsewhere")])
def test_a_job_with_other_threads_has_its_own_compiled_programs(own, kept, monkeypatch):
    monkeypatch.delenv(backend.THREADS, raising=False)
    seen = []

    def run(command, env, **more):
        seen.append(env)
        return SimpleNamespace(returncode=0, stdout=f"{bench_process.FOUND}1\n", stderr="")

    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(backend.cache_folder()) if own else "/elsewhere")
    monkeypatch.setattr(bench_process.subprocess, "run", run)
    assert job("bench_measure:quartiles", {}, threads=1) == 1
    assert seen[0].get("JAX_COMPILATION_CACHE_DIR") == kept and seen[0][backend.THREADS] == "1"


def test_jobs_are_processes_with_a_limit_and_one_line_of_errors(tmp_path):
    assert job("bench_measure:quartiles", {"values": [3.0, 1.0, 2.0]}, cache=tmp_path) == [1.5, 2.0, 2.5]
    with pytest.raises(UserError, match=r"^[^\n]*unexpected keyword argument 'nothing'[^\n]*$"):
        job("bench_measure:quartiles", {"nothing": 1})
    began = time.perf_counter()
    with pytest.raises(UserError, match=r"stopped after 0 s, its limit"):
        job("bench_measure:cores_in_use", {"seconds": 600.0}, timeout=0.4)
    assert time.perf_counter() - began < 60
    with pytest.raises(ValueError, match=r"a job is a function of experiments/bench_"):
        bench_job.called("flags:walk", {})


def test_without_a_gpu_there_is_one_line(monkeypatch, capsys):
    monkeypatch.setenv("XLA_FLAGS", "")
    facts = {"cpu": "Some CPU", "platform": "cpu", "threads": 2, "cores_in_use": 0.0}
    monkeypatch.setattr("experiments.bench_process.job", lambda *_: facts)
    assert cli.execute(bench.main, bench.BINARY, ["bench", "--suite=gpu"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "error: --suite=gpu needs a GPU, and JAX sees only: cpu (pip install -c constraints.txt -e '.[gpu]' on a machine "
        "that has one); --tiny runs every case at toy size without one"
    ]
    for words, said in (
        (["--suite=gpu", "--cases=resnet5"], "did you mean"),
        (["--suite=seeds", "--profile"], "--profile belongs to"),
        (["--suite=cpu", "--tiny"], "--tiny belongs to --suite=gpu"),
        (["--suite=recipes", "--cases=lenet6"], "unknown recipe 'lenet6'; did you mean lenet5?"),
    ):
        assert cli.execute(bench.main, bench.BINARY, ["bench", *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line


def test_the_whole_command_at_toy_size(in_this_process, tmp_path, monkeypatch, capsys):
    """Table, JSON as the ledger reads it, and a trace."""
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.chdir(tmp_path)
    words = ["bench", "--suite=gpu", "--tiny", "--cases=gpt2", "--repeats=2", "--seconds=0.002", "--profile"]
    assert cli.execute(bench.main, bench.BINARY, words) == 0
    found = json.loads((tmp_path / "runs" / "bench-gpu-tiny.json").read_text())
    assert found["suite"] == "gpu" and found["hardware"]["tiny"] is True
    (case,) = found["cases"]
    assert case["case"] == "gpt2/bfloat16" and case["kind"] == "mfu" and len(case["values"]) == 2
    assert case["facts"]["form"] == "fused attention, 50,304 scores" and case["facts"]["tokens a second"] > 0
    assert "| toy of: GPT-2 124M" in ledger.bench_table(found)
    said = capsys.readouterr().out
    assert "gpt2/bfloat16" in said and "written: runs/bench-gpu-tiny.json" in said
    assert "traces: runs/bench-profile/gpu (gpt2-bfloat16)" in said and "ui.perfetto.dev" in said
    assert list((tmp_path / "runs/bench-profile/gpu/gpt2-bfloat16").glob("**/*.xplane.pb"))
    assert bench_profile.how_to_open(tmp_path / "nothing").startswith("no case left a trace")


def test_results_survive_json():
    whole = Result(
        "a/b", "what", "rate", [2.0, 4.0], Bar(3.0), {"jaxdl": [0.5, 0.25]}, "seconds a step", facts={"x": 1}
    )
    for result in (whole, bench_gpu.dataclasses.replace(whole, bar=None)):
        assert Result.from_json(json.loads(json.dumps(result.to_json()))) == result
    assert SimpleNamespace(**whole.to_json()).passed is True
