"""The suites `scaling` and `recipes`: their lines and numbers by hand, their files, and small pieces for real."""

import json

import jax
import numpy as np
import pytest

from experiments import bench, bench_recipes, bench_scaling
from experiments.bench_measure import Result, Skipped, document
from experiments.bench_process import job
from jaxdl.errors import UserError


def a_curve(case="batch", **seconds):
    times = {label: {str(8 << i): [t, 2 * t, 3 * t] for i, t in enumerate(row)} for label, row in seconds.items()}
    return bench_scaling.from_points(case, bench_scaling.CURVES[case], times)


def test_the_ideal_line_is_the_best_rate_of_the_curve():
    """Work grows by 2 with each size: medians 2, 3, 8 are 2, 1.5, 2 a unit of work, so 1.5 is the best."""
    found = a_curve(ours=[1.0, 1.5, 4.0], other=[5.0, 5.0, 5.0])
    assert found.sizes == (8, 16, 32)
    np.testing.assert_allclose(found.ideal, [1.5, 3.0, 6.0])
    whole = json.loads(json.dumps(document("scaling", "command", {"cpu": "Some CPU"}, [found, Skipped("x", "y")], 1.0)))
    first, second = whole["cases"]
    assert first["series"]["ours"][1] == {
        "size": 16,
        "values": [1.5, 3.0, 4.5],
        "median": 3.0,
        "quartiles": [2.25, 3.75],
    }
    assert first["unit"] == "seconds a step" and first["ideal"]["values"] == found.ideal
    assert second == {"case": "x", "skipped": "y"}
    lines = bench_scaling.table([found, Skipped("x", "y")]).splitlines()
    assert "2e+03 ms (1.5e+03 to 2.5e+03)  1.33×" in lines[2] and "x: y" in lines


def test_work_by_hand():
    curves = bench_scaling.CURVES
    assert curves["width"].work(64) == 128 * (784 * 64 + 64 * 64 + 64 * 10)
    assert curves["batch"].work(16) * 2 == curves["batch"].work(32)
    # 6 N + 12 L D T a character, of 4 rows
    weights = 4 * 12 * 128**2 + 65 * 128
    assert curves["length"].work(64) == 4 * 64 * (6 * weights + 12 * 4 * 128 * 64)
    task = bench_scaling._gpt_phase(16).task
    state = jax.eval_shape(task.init, jax.random.key(0), {"learning_rate": np.float32(0)})
    counted = sum(leaf.size for leaf in jax.tree.leaves(state.nets["model"].params))
    # besides: positions, and the scales of nine layer norms
    assert counted == weights + 16 * 128 + 9 * 128


def test_figures_lie_beside_the_file(tmp_path):
    from PIL import Image

    found = [a_curve(ours=[1e-3, 1.5e-3, 4e-3]), Skipped("seeds", "why"), a_curve("seeds", map=[1.0], vmap=[2.0])]
    written = bench_scaling.draw(found, tmp_path / "bench-scaling.json")
    assert [path.name for path in written] == ["bench-scaling-batch.png", "bench-scaling-seeds.png"]
    for path in written:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"), int)
        # Okabe and Ito's blue
        assert (np.abs(pixels - [0x00, 0x72, 0xB2]).sum(-1) < 12).sum() > 200


def test_a_figure_says_what_it_shows():
    from jaxdl.reports.scaling import draw_scaling

    seconds = {"one": np.array([[1e-3, 2e-3, 3e-3], [4e-3, 4e-3, 4e-3]])}
    axes = draw_scaling("title", "batch (examples)", (8, 16), seconds, [1e-3, 2e-3], "ideal: x").axes[0]
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("batch (examples)", "milliseconds a step")
    lines = [line.get_ydata() for line in axes.lines if len(line.get_ydata()) == 2]
    assert any(np.allclose(line, [2.0, 4.0]) for line in lines) and any(np.allclose(line, [1.0, 2.0]) for line in lines)
    assert {text.get_text() for text in axes.get_legend().get_texts()} == {"one", "ideal: x"}
    # a slope is not made of noise
    low, high = draw_scaling("t", "x", (1, 2), {"a": np.full((2, 3), 1e-3)}, [1e-3, 1e-3], "i").axes[0].get_ylim()
    assert high / low > 7


def test_devices_are_measured_as_far_as_there_are_some(monkeypatch):
    asked = []

    def few(target, arguments, devices):
        asked.append((arguments["sizes"], devices))
        if devices > 2:
            raise UserError("there are only 2 devices")
        return {"jit": {str(devices): [0.1]}}

    monkeypatch.setattr(bench_scaling, "job", few)
    (found,) = bench_scaling.run(("devices",), 1, 0.1, "gpu")
    assert asked == [([1], 1), ([2], 2), ([4], 4)] and found.sizes == (1, 2)
    np.testing.assert_allclose(found.ideal, [0.1, 0.05])
    (on_cpu,) = bench_scaling.run(("devices",), 1, 0.1, "cpu")
    np.testing.assert_allclose(on_cpu.ideal, [0.1, 0.1])
    monkeypatch.setattr(bench_scaling, "job", lambda *a, **k: (_ for _ in ()).throw(UserError("no")))
    assert list(bench_scaling.run(("devices", "batch"), 1, 0.1)) == [Skipped("devices", "no"), Skipped("batch", "no")]


def test_two_devices_in_a_process_of_their_own(monkeypatch):
    found = job("bench_scaling:points", {"case": "devices", "sizes": [2], "repeats": 1, "seconds": 0.01}, devices=2)
    assert list(found) == ["jit"] and list(found["jit"]) == ["2"] and found["jit"]["2"][0] > 0


def test_points_are_measured_in_turns(monkeypatch):
    order = []
    ready = bench_scaling.seconds_per_step
    monkeypatch.setattr(bench_scaling, "seconds_per_step", lambda run, steps: order.append(run) or ready(run, steps))
    found = bench_scaling.points("batch", [8, 16], 2, 0.002)
    assert list(found) == ["one seed"] and list(found["one seed"]) == ["8", "16"]
    assert all(len(values) == 2 and min(values) > 0 for values in found["one seed"].values())
    assert [run.phase.source.batch_size for run in order] == [8, 16, 16, 8]


# --- recipes ------------------------------------------------------------------------------------------------------------


def test_a_recipe_is_measured(tmp_path):
    """Linear regression on the whole batch: 2 n d operations forward, as many backward."""
    from experiments import recipe_files

    found = Result.from_json(json.loads(json.dumps(bench_recipes.measured("linear_regression", 2, 0.002))))
    recipe = recipe_files.load("linear_regression")
    (features,) = [a for a in recipe.build(recipe.config).phases[-1].source.arrays.values() if a.ndim == 2][:1]
    rows, width = features.shape
    facts = found.facts
    assert facts["FLOPs a step"] == 4 * rows * width
    step = np.median(found.measurements["jaxdl"])
    assert facts["items a second"] == pytest.approx(rows / step) and facts["step seconds"] == step
    assert facts["MFU"] == pytest.approx(facts["FLOPs a step"] / step / facts["peak FLOP/s"])
    assert facts["peak"].startswith("measured in the same run")
    assert facts["memory bytes"] > rows * width * 4 and facts["compile seconds"] > 0
    assert found.bar is None


def test_the_start_is_timed_cold_and_warm(monkeypatch):
    caches = []

    def to_line(command, cache, pattern):
        caches.append(cache)
        assert "--recipe=lenet5" in command and "--train.log_every=1" in command
        return 20.0 if len(caches) == 1 else 5.0

    monkeypatch.setattr(bench_recipes, "time_to_line", to_line)
    found = bench_recipes.first_step("lenet5")
    assert found == {"first step cold seconds": 20.0, "first step warm seconds": 5.0}
    assert caches[0] == caches[1]


def test_the_table_of_recipes(monkeypatch):
    facts = {"items a second": 6400.0, "step seconds": 0.01, "FLOPs a step": 9.8e7, "memory bytes": 4.5e6}
    made = Result("lenet5", "what", "rate", [6400.0], None, {"jaxdl": [0.01]}, "seconds a step", facts=facts)
    caches = []

    def measured(target, arguments, cache):
        caches.append((cache, list(cache.iterdir())))
        return made.to_json()

    monkeypatch.setattr(bench_recipes, "job", measured)
    monkeypatch.setattr(bench_recipes, "first_step", lambda recipe: {"first step cold seconds": 20.0})
    found = list(bench_recipes.run(("images/lenet5", "lenet5"), 1, 0.1))
    assert [each.case for each in found] == ["lenet5", "lenet5"]
    # compiled anew each time
    assert len({cache for cache, _ in caches}) == 2 and all(content == [] for _, content in caches)
    lines = bench_recipes.table([*found, Skipped("mlp_mnist", "mnist is not prepared")]).splitlines()
    assert lines[1].split() == ["lenet5", "6,400", "10", "ms", "–", "20", "s", "–", "9.8e+07", "–", "4.5", "MB"]
    assert "mlp_mnist: mnist is not prepared" in lines


def test_every_family_has_a_recipe_that_is_there():
    from experiments import recipe_files

    assert set(bench_recipes.FAMILIES.values()) <= set(recipe_files.names())
    assert bench.chosen("recipes", ("text", "resnet20_cifar10:epochs2")) == (
        "text/char_gpt",
        "resnet20_cifar10:epochs2",
    )
    assert bench.chosen("scaling", ("width",)) == ("width",)
