"""`bench`: its statistics against NumPy, SciPy and known distributions, its JSON file, its small cases for real."""

import dataclasses
import json
import math
import pathlib
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from experiments import bench, bench_cpu, bench_measure, bench_process, bench_seeds, bench_startup, bench_sweep
from experiments.bench_measure import (
    Bar,
    Result,
    Skipped,
    alternate,
    cores_in_use,
    document,
    joined,
    quartiles,
    ratios,
    steps_for,
    table,
    upper_bound,
    write,
)
from experiments.flags import UsageError
from jaxdl.data.prepared import default_dir
from jaxdl.errors import UserError


def a_result(**changes):
    measurements = {"ours": [0.1, 0.2, 0.1], "theirs": [0.2, 0.5, 0.3]}
    values = ratios(measurements["theirs"], measurements["ours"])
    known = {"unit": "seconds a step", "facts": {"steps": 3}}
    return Result("a/b", "what", "speed-up", values, Bar(1.6, goal=2.5), measurements, **{**known, **changes})


def test_cases_measured_again_join_the_others():
    """The newest measurement of each case, and by which call; what could not be measured replaces nothing."""

    def call(command, *cases):
        whole = document("gpu", command, {"cpu": command}, cases, 1.0)
        return json.loads(json.dumps(whole))

    def named(name, value=1.0):
        return dataclasses.replace(a_result(), case=name, values=[value])

    first = call("first", named("a/1"), named("a/2"), Skipped("a/3", "no time"))
    second = joined(first, call("second", named("a/2", 2.0), Skipped("a/1", "no memory")), ("a/1", "a/2", "a/3"))
    third = joined(second, call("third", named("a/3", 3.0)), ("a/1", "a/2", "a/3"))
    assert [case["case"] for case in third["cases"]] == ["a/1", "a/2", "a/3"]
    assert [case["median"] for case in third["cases"]] == [1.0, 2.0, 3.0]
    assert third["command"] == "third" and "call" not in third["cases"][2]
    assert [case["call"]["command"] for case in third["cases"][:2]] == ["first", "second"]
    assert third["cases"][0]["call"]["hardware"] == {"cpu": "first"}


def test_measurements_of_another_machine_are_neither_joined_nor_lost(tmp_path):
    """Said before anything is measured."""
    machine = {"cpu": "Some CPU", "threads": 2, "clock": "wall"}
    flags = SimpleNamespace(suite="cpu", cases=("torch",))
    path = tmp_path / "bench.json"
    assert bench.others(path, flags, machine) is None
    write(path, document("cpu", "command", machine, [a_result()], 1.0))
    assert bench.others(path, flags, machine)["cases"][0]["case"] == "a/b"
    # a whole suite begins anew
    assert bench.others(path, SimpleNamespace(suite="cpu", cases=()), machine) is None
    for other, said in (
        ({"cpu": "Another"}, "cpu Some CPU, here Another"),
        ({"threads": 4, "clock": "processor"}, "threads 2, here 4; clock wall, here processor"),
    ):
        with pytest.raises(UserError, match=rf"holds measurements of {said}: give another place for these .--output"):
            bench.others(path, flags, machine | other)
    with pytest.raises(UserError, match="holds measurements of suite cpu"):
        bench.others(path, SimpleNamespace(suite="gpu", cases=("gpt2",)), machine)
    for damaged in ("{", "[]", '{"suite": "cpu"}'):
        path.write_text(damaged)
        with pytest.raises(UserError, match="is no results file of `bench`"):
            bench.others(path, flags, machine)
        assert path.read_text() == damaged


def test_quartiles_of_a_known_sample():
    # by hand, positions 0.25 (n - 1), 0.5 (n - 1), 0.75 (n - 1) of the sorted sample 1 2 4 8 16 32
    assert quartiles([32, 1, 16, 2, 8, 4]) == (2.5, 6.0, 14.0)
    assert quartiles([3.0]) == (3.0, 3.0, 3.0)
    sample = np.random.default_rng(0).lognormal(size=31)
    np.testing.assert_allclose(quartiles(list(sample)), np.percentile(sample, [25, 50, 75]))


def test_upper_bound_is_scipys_percentile_bootstrap():
    sample = np.random.default_rng(1).normal(1.0, 0.1, 30)
    other = stats.bootstrap(
        (sample,),
        np.median,
        confidence_level=0.95,
        alternative="less",
        method="percentile",
        n_resamples=10_000,
        rng=np.random.default_rng(2),
    )
    # both draw at random: they agree to the width of what 10,000 draws leave open
    assert upper_bound(sample) == pytest.approx(other.confidence_interval.high, abs=0.006)
    assert upper_bound([1.03] * 30) == 1.03


def test_upper_bound_covers_the_median_about_as_often_as_it_says(monkeypatch):
    monkeypatch.setattr(bench_measure, "BOOTSTRAP_SAMPLES", 1000)
    generator = np.random.default_rng(3)
    covered = [upper_bound(generator.exponential(1.0, 30)) >= math.log(2.0) for _ in range(150)]
    # 95 % of 150 draws is 142.5 with a deviation of 2.7; a bound at the 50 % point would give 75
    assert 132 <= sum(covered) <= 150
    lower = [upper_bound(generator.exponential(1.0, 30), confidence=0.5) >= math.log(2.0) for _ in range(150)]
    assert 50 <= sum(lower) <= 105


def test_the_sides_take_turns_and_the_order_changes():
    calls = []
    clock = {"a": iter([1.0, 2.0, 3.0]), "b": iter([4.0, 5.0, 6.0])}

    def side(name):
        return lambda: (calls.append(name), next(clock[name]))[1]

    found = alternate({"a": side("a"), "b": side("b")}, 3)
    assert found == {"a": [1.0, 2.0, 3.0], "b": [4.0, 5.0, 6.0]}
    assert "".join(calls) == "abbaab"
    assert ratios(found["b"], found["a"]) == [4.0, 2.5, 2.0]


def test_a_measurement_has_the_asked_length(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    called = []

    def run(steps):  # compiles for 10 s, then 2 ms a step
        now[0] += (10.0 if not called else 0.0) + 0.002 * steps
        called.append(steps)

    assert steps_for(run, 0.5, most=4096) == pytest.approx(250, abs=1)
    assert steps_for(run, 0.0001, most=4096) == 1
    assert steps_for(run, 100.0, most=64) == 64


def test_bars():
    assert Bar(1.6).reached(1.6) and not Bar(1.6).reached(1.59) and not Bar(1.6).reached(math.nan)
    limit = Bar(1.05, at_least=False)
    assert limit.reached(1.05) and not limit.reached(1.051) and not limit.reached(math.nan)
    assert a_result().passed and a_result().judged == 2.5  # median of 2, 2.5, 3
    assert a_result(bound=1.5).judged == 1.5 and not a_result(bound=1.5).passed


def test_the_file_holds_every_measurement(tmp_path):
    machine = {"cpu": "Some CPU", "threads": 2}
    whole = document("cpu", "python -m experiments.bench", machine, [a_result(), Skipped("c/d", "no torch")], 1.5)
    write(tmp_path / "new" / "bench.json", whole)
    found = json.loads((tmp_path / "new" / "bench.json").read_text())
    assert set(found) == {"format", "suite", "command", "hardware", "versions", "git", "wall_time_s", "cases"}
    assert found["hardware"] == machine and {"jax", "numpy", "python"} <= set(found["versions"])
    first, second = found["cases"]
    assert first["measurements"] == {"ours": [0.1, 0.2, 0.1], "theirs": [0.2, 0.5, 0.3]}
    assert first["values"] == pytest.approx([2.0, 2.5, 3.0])
    assert first["median"] == pytest.approx(2.5) and first["quartiles"] == pytest.approx([2.25, 2.75])
    assert first["bar"] == {"value": 1.6, "at_least": True, "goal": 2.5} and first["passed"] is True
    assert second == {"case": "c/d", "skipped": "no torch"}


def test_the_table_is_aligned_and_says_what_was_missed():
    lines = table([a_result(), a_result(bound=1.04), Skipped("c/d", "no torch here")]).splitlines()
    assert lines[0].split()[:3] == ["case", "ours", "theirs"]
    assert (
        "100 ms" in lines[1] and "300 ms" in lines[1] and "≥ 1.6× (2.5×)" in lines[1] and lines[1].endswith("reached")
    )
    assert lines[2].endswith("MISSED") and "1.04×" in lines[2]
    assert len({line.index("≥") for line in lines[1:3]}) == 1
    assert lines[-1] == "c/d: no torch here"


def test_cases_are_chosen_by_name_or_group():
    assert bench.chosen("cpu", ("overhead", "torch/mlp_64")) == (
        "torch/mlp_64",
        "overhead/mlp_512",
        "overhead/mlp_64",
        "overhead/lenet5",
    )
    assert bench.chosen("seeds", ()) == bench_seeds.CASES
    with pytest.raises(UsageError, match=r"no case 'torch/resnet'; did you mean torch/resnet20\?"):
        bench.chosen("cpu", ("torch/resnet",))


def test_work_of_other_processes_is_seen(monkeypatch):
    if cores_in_use(0.01) is None:
        pytest.skip("/proc/stat tells how busy a Linux machine is; there is none here")
    lines = iter(["cpu  100 20 30 9000 5 6 7 1 0 0\ncpu0 1", "cpu  150 40 60 9500 5 16 17 9 0 0\ncpu0 1"])
    monkeypatch.setattr(bench_measure.pathlib.Path, "read_text", lambda *_, **__: next(lines))
    monkeypatch.setattr(bench_measure.os, "sysconf", lambda name: 100)
    # 50 user + 20 nice + 30 system + 10 + 10 for interrupts: 1.2 s of work in 0.5 s; idle, waiting and stolen are not
    assert cores_in_use(0.5) == 2.4


@pytest.fixture
def tiny(monkeypatch):
    """The tiny MLP with few examples."""
    import dataclasses

    workload = dataclasses.replace(bench_cpu.WORKLOADS["mlp_64"], examples=128)
    monkeypatch.setitem(bench_cpu.WORKLOADS, "mlp_64", workload)
    return workload


def test_one_pair_of_a_tiny_case(tiny, tmp_path, capsys):
    path = tmp_path / "bench.json"
    flags = SimpleNamespace(
        suite="cpu",
        cases=("overhead/mlp_64", "dispatches"),
        repeats=1,
        seconds=0.005,
        clock="wall",
        singles=1,
        tiny=False,
        profile=False,
        output=str(path),
    )
    assert bench.main(SimpleNamespace(flags=flags, command="python -m experiments.bench ...")) == 0
    found = {case["case"]: case for case in json.loads(path.read_text())["cases"]}
    overhead = found["overhead/mlp_64"]
    assert {side: len(values) for side, values in overhead["measurements"].items()} == {"engine": 1, "scan": 1}
    assert overhead["values"] == [overhead["measurements"]["engine"][0] / overhead["measurements"]["scan"][0]]
    # 210,000 multiplications and additions, three times
    assert all(1e-6 < values[0] < 60.0 for values in overhead["measurements"].values())
    assert set(found["dispatches/mlp_64"]["values"]) == {1.0}
    assert "overhead/mlp_64" in capsys.readouterr().out


def test_what_is_compared_is_the_same_training(tiny):
    """The engine, the scan and the single steps differ by where their keys come from; with equal ones by nothing."""
    import jax

    from experiments.bench_loops import Engine, OneByOne, Scan

    engine = Engine(bench_cpu.phase_of(tiny))
    runs = [Scan(bench_cpu.phase_of(tiny)), OneByOne(bench_cpu.phase_of(tiny))]
    for run in runs:
        run.state = jax.tree.map(lambda leaf: leaf[0], jax.tree.map(jax.numpy.array, engine.state))
        run.keys = (jax.random.wrap_key_data(engine.data_keys[0]), jax.random.wrap_key_data(engine.step_keys[0]))
        run(7)
    engine(3)
    engine(4)
    for run in runs:
        theirs = jax.tree.leaves(run.state)
        for ours, other in zip(jax.tree.leaves(engine.state), theirs, strict=True):
            np.testing.assert_allclose(np.asarray(ours)[0], np.asarray(other), rtol=2e-5, atol=2e-6)
        assert int(run.state.step) == 7
    last = jax.tree.map(np.asarray, engine.state)
    engine.restart()
    engine(7)
    jax.tree.map(np.testing.assert_array_equal, last, jax.tree.map(np.asarray, engine.state))


def test_executions_are_counted():
    import jax

    from experiments.bench_loops import executions

    program = jax.jit(lambda x: x * 2.0).lower(1.0).compile()
    argument = jax.numpy.float32(1.0)

    def five():
        for _ in range(5):
            program(argument).block_until_ready()

    assert executions(five) == 5


def test_torch_has_the_same_networks(one_thread):
    """As many parameters, layer by layer, as the flax modules; and Adam makes the loss fall."""
    torch = pytest.importorskip("torch", reason="PyTorch is the other side of this comparison")
    import jax

    from experiments.bench_torch import Trainer, mlp

    for workload in bench_cpu.WORKLOADS.values():
        shape = jax.ShapeDtypeStruct((2, *workload.image), np.float32)
        ours = jax.eval_shape(workload.ours().init, jax.random.key(0), shape)["params"]
        theirs = [p for p in workload.theirs().parameters() if p.requires_grad]
        sizes = sorted(math.prod(leaf.shape) for leaf in jax.tree.leaves(ours))
        assert sizes == sorted(p.numel() for p in theirs), workload.title
        out = workload.theirs()(torch.zeros(2, workload.image[2], *workload.image[:2]))
        assert tuple(out.shape) == (2, 10)
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 10, 96)
    images = (20 * labels[:, None, None, None] + generator.integers(0, 9, (96, 4, 4, 1))).astype(np.uint8)
    for variant in ("eager", "channels_last_fused"):
        trainer = Trainer(lambda: mlp(16, 32, 10), images, labels, 32, variant)
        with torch.no_grad():
            first = float(trainer.loss(trainer.module(trainer.images.reshape(96, -1)), trainer.labels))
        trainer(120)
        with torch.no_grad():
            last = float(trainer.loss(trainer.module(trainer.images.reshape(96, -1)), trainer.labels))
        assert last < 0.7 * first


def test_commands_are_timed_and_their_failures_are_one_line(tmp_path):
    script = [
        sys.executable,
        "-c",
        "import time; print('one', flush=True); print('step 1/9', flush=True); time.sleep(600)",
    ]
    began = time.perf_counter()
    took = bench_process.time_to_line(script, tmp_path, r"\bstep 1/")
    assert 0 < took <= time.perf_counter() - began < 60  # it has not waited for the end
    failing = [sys.executable, "-c", "import sys; print('a traceback', file=sys.stderr); sys.exit('error: no data')"]
    for call in (bench_process.wall_time, lambda *a: bench_process.time_to_line(*a, "never")):
        with pytest.raises(UserError, match=r"failed: no data$"):
            call(failing, tmp_path)
    quick = bench_process.wall_time([sys.executable, "-c", "import time; time.sleep(0.3)"], tmp_path)
    assert quick >= 0.3


def test_a_child_has_its_caches_where_it_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    prepared = default_dir()
    found = bench_process.environment(tmp_path)
    assert found["XDG_CACHE_HOME"] == str(tmp_path) and "JAX_COMPILATION_CACHE_DIR" not in found
    # where `prepare` put them: not in the child's empty cache
    assert found["TFDS_DATA_DIR"] == str(prepared) and tmp_path not in prepared.parents
    monkeypatch.setenv("TFDS_DATA_DIR", "own")
    assert bench_process.environment(tmp_path)["TFDS_DATA_DIR"] == "own"


def test_seeds_against_single_commands(monkeypatch):
    """16 single commands of 10 s each against one of 40 s; with fewer of them the estimate is called one."""
    called = []

    def took(command, cache):
        called.append([word for word in command if word.startswith("--seed")])
        return 40.0 if any(word.startswith("--seeds=") for word in command) else 10.0

    monkeypatch.setattr(bench_seeds, "wall_time", took)
    (whole,) = bench_seeds.run(("commands/mlp_mnist",), 2, 16)
    assert whole.values == [4.0, 4.0] and "estimate" not in whole.facts
    assert [words[0] for words in called[1:18]] == ["--seeds=16", *(f"--seed={k}" for k in range(16))]
    (part,) = bench_seeds.run(("commands/mlp_mnist",), 1, 4)
    assert part.values == [4.0] and part.facts["estimate"].startswith("4 of 16")
    assert len(part.facts["single commands, seconds"]) == 4


def test_a_sweep_against_single_commands(monkeypatch):
    """32 commands of 10 s each against a sweep of 40 s, with 4 rates and 8 seeds; those that fill the caches not counted."""
    called = []

    def took(command, cache):
        called.append(command)
        return 40.0 if "experiments.sweep" in command else 10.0

    monkeypatch.setattr(bench_sweep, "wall_time", took)
    (found,) = bench_sweep.run(("commands/mlp_mnist",), 2)
    assert found.values == [8.0, 8.0] and found.passed
    assert len(called) == 2 + 2 * 33
    settings = {tuple(word for word in words if word.startswith(("--seed=", "--optimizer"))) for words in called}
    assert len(settings - {()}) == 32


@pytest.mark.parametrize(
    ("first", "second", "once"),
    [
        ("cell 1 of 3: a=1\nseed 0\n", "2 cells together: a=2; a=3\n", True),
        ("cell 1 of 3: a=1\ncell 2 of 3: a=2\n", "2 cells together: a=2; a=3\n", False),
        ("cell 1 of 3: a=1\n", "cell 2 of 3: a=2\n", False),
    ],
)
def test_what_two_workers_say_tells_how_often_each_cell_was_trained(first, second, once):
    cells = [{"status": "done"}] * 3
    assert bench_sweep.trained_once([first, second], cells) is once
    assert not bench_sweep.trained_once([first, second], [*cells[:2], {"status": "running"}])


def test_startup_alternates_and_does_not_count_its_first_round(monkeypatch):
    seconds = {"cold": iter([99.0, 20.0, 10.0]), "warm": iter([99.0, 5.0, 4.0])}
    seen = set()

    def to_line(command, cache, pattern):
        side = "warm" if cache in seen else "cold"
        seen.add(cache)
        return next(seconds[side])

    def wall(command, cache):
        raise UserError("no data set")

    monkeypatch.setattr(bench_startup, "time_to_line", to_line)
    monkeypatch.setattr(bench_startup, "wall_time", wall)
    first, second, third, _ = bench_startup.run(bench_startup.CASES, 2)
    assert first.measurements == {"warm": [5.0, 4.0], "cold": [20.0, 10.0]} and first.values == [0.25, 0.4]
    assert first.passed and isinstance(second, Skipped) and third.reason == "no data set"


def test_the_first_game_is_timed_and_says_what_it_lost(monkeypatch):
    seconds, lost = iter([99.0, 19.0, 18.0]), iter([0.0, 0.0, 0.25])

    def wall(command, cache):
        folder = pathlib.Path(command[-1].removeprefix("--workdir="))
        folder.mkdir()
        metrics = {"test/losses_random": 0.0, "test/losses_perfect": next(lost)}
        (folder / "record.json").write_text(json.dumps({"metrics": metrics}))
        return next(seconds)

    monkeypatch.setattr(bench_startup, "wall_time", wall)
    (found,) = bench_startup.run(("first_command/tictactoe",), 2)
    assert found.values == [19.0, 18.0] and found.passed and set(found.measurements) == {"seconds"}
    assert found.facts == {"largest share of test games lost": 0.25}
