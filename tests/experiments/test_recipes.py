"""Every recipe in a few steps, and the binaries that read what training left behind."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from experiments import classifier_report, cli, evaluate, flags, predict, recipe_files, session, train, verify
from jaxdl.engine.devices import Layout
from jaxdl.engine.digest import digest
from jaxdl.engine.program import Program
from jaxdl.errors import UserError
from jaxdl.nn.activations import PLAIN_ACTIVATIONS

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import laws

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHARED = pathlib.Path(os.environ.get("JAXDL_TEST_DATA", ROOT.parent / "shared" / "data"))
VARIANTS = [f"{name}:{variant}" for name in recipe_files.names() for variant in recipe_files.summary(name).variants]
REAL = {"mnist": SHARED / "mnist", "cifar10": SHARED / "cifar10"}


def command(module, *flags):
    """Runs a binary in this process."""
    return cli.execute(module.main, module.BINARY, ["program", *flags])


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch, compilation_cache):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(SHARED))


@pytest.mark.parametrize("recipe", sorted({*VARIANTS, *laws.SMALL}))
def test_every_variants_step_can_be_traced(recipe):
    """Shapes, settings and data fit each other; that its kind of task trains, the (smaller) recipe itself shows."""
    if why := laws.missing(recipe):
        pytest.skip(why)
    experiment = laws.session(recipe, small=False).experiment
    for phase in experiment.phases:
        assert Program(phase, Layout(devices=tuple(jax.local_devices()[:1])), 1).metric_names


@pytest.mark.parametrize("recipe", ["cartpole_dqn", "cartpole_ppo", "gan_mixture", "tictactoe_alphazero"])
def test_steps_may_grow_where_no_schedule_depends_on_them(recipe):
    """With a constant rate: a recipe says so if, and only if, a longer run has the same training program."""
    found = recipe_files.load(recipe)
    shape = {**flags.leaves(found.config), "optimizer.schedule": "constant", "optimizer.warmup_steps": 0}
    texts, said = set(), set()
    for steps in (100, 200):
        config = flags.config_from_leaves(found.config, {**shape, "train.steps": steps})
        experiment = found.build(config)
        texts.add(Program(experiment.phases[-1], Layout(devices=tuple(jax.local_devices()[:1])), 1).text())
        said.add(experiment.steps_may_grow)
    assert said == {len(texts) == 1}


@pytest.mark.parametrize(
    ("recipe", "setting", "said"),
    [
        ("cartpole_ppo", {"train.accumulate": 2}, "cannot accumulate gradients: leave --train.accumulate out"),
        ("gan_mixture", {"train.accumulate": 2}, "cannot accumulate gradients: leave --train.accumulate out"),
        ("rbm", {"optimizer.ema_decay": 0.9}, "keeps no moving average: leave --optimizer.ema_decay out"),
        ("tictactoe_alphazero", {"train.patience": 3}, "has no validation objective to wait for"),
        ("lenet5", {"train.accumulate": 2, "optimizer.ema_decay": 0.9, "train.patience": 3}, ""),
    ],
)
def test_settings_that_a_recipe_would_ignore_are_refused(recipe, setting, said):
    found = recipe_files.load(recipe)
    config = flags.config_from_leaves(found.config, {**flags.leaves(found.config), **setting})
    if not said:
        session.open_recipe(found, config)
        return
    with pytest.raises(UserError, match=f"^recipe {recipe} {said}"):
        session.open_recipe(found, config)


@pytest.mark.parametrize(
    ("recipe", "names"),
    [
        ("mlp_mnist", ("prelu", "noisy_relu", "maxout")),
        ("lenet5", ("prelu", "noisy_relu")),
        ("vae", ()),
        ("char_gpt", ()),
    ],
)
def test_activations_that_are_offered_can_be_built_and_others_are_refused(recipe, names, capsys):
    found = recipe_files.load(recipe)
    offered = next(leaf.choices for leaf in flags.walk(found.config) if leaf.name == "model.activation")
    assert set(offered) == {*PLAIN_ACTIVATIONS, *names}
    for name in names:
        config = flags.config_from_leaves(
            found.config, {**flags.leaves(found.config), "data.name": "digits", "model.activation": name}
        )
        experiment = found.build(config)
        assert Program(experiment.phases[0], Layout(devices=tuple(jax.local_devices()[:1])), 1).metric_names
    refused = next(name for name in ("maxout", "swish") if name not in offered)
    assert command(train, f"--recipe={recipe}", f"--model.activation={refused}") == 2
    assert "expected one of: identity, " in capsys.readouterr().err


def test_a_run_with_a_setting_that_its_recipe_ignores_can_still_be_opened(tmp_path):
    """It was trained when such settings were taken."""
    assert command(train, "--recipe=gan_mixture", "--smoke", f"--workdir={tmp_path / 'run'}") == 0
    path = tmp_path / "run" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "train.patience": 3}))
    assert session.open_run(str(tmp_path / "run")).config.train.patience == 3


def test_baselines_of_large_data_sets_are_left_out(monkeypatch):
    """A perfect rule on 40 images; with more numbers than _PIXELS only the majority class is left."""
    labels = np.arange(40) % 2
    split = {"image": (255 * labels[:, None, None, None] * np.ones((1, 2, 2, 1))).astype(np.uint8), "label": labels}
    dataset = types.SimpleNamespace(splits={"train": split, "test": split})
    found = classifier_report.baselines(dataset)
    assert [accuracy for _, accuracy, _ in found] == [0.5, 1.0, 1.0]
    monkeypatch.setattr(classifier_report, "_PIXELS", 2 * 40 * 4 - 1)
    assert classifier_report.baselines(dataset) == found[:1]


@pytest.fixture(scope="module")
def digits(tmp_path_factory, compilation_cache):
    """A short run over three seeds on the digits."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    flags = [
        f"--workdir={folder}",
        "--seeds=3",
        "--train.steps=240",
        "--train.eval_every=60",
        "--train.checkpoint_every=120",
        "--optimizer.learning_rate=3e-3",
    ]
    assert command(train, *flags) == 0
    return folder


def test_evaluate_finds_the_recorded_metrics_and_the_ensemble(digits, capsys):
    assert command(evaluate, f"--workdir={digits}", "--format=json") == 0
    found = json.loads(capsys.readouterr().out)
    summary = json.loads((digits / "summary.json").read_text())["metrics"]
    for name in ("test/accuracy", "test/loss", "validation/accuracy"):
        assert found["metrics"][name]["values"] == pytest.approx(summary[name]["values"], abs=1e-6)
    single = found["metrics"]["test/accuracy"]["values"]
    assert min(single) - 0.01 <= found["ensemble"]["test/accuracy"] <= 1.0
    assert json.loads((digits / "evaluation.json").read_text())["ensemble"] == found["ensemble"]
    assert found["steps"] == [240] * 3


def test_an_evaluation_of_an_older_checkpoint_does_not_replace_one_of_the_newest(digits, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(digits / "seed0", run)
    assert command(evaluate, f"--workdir={run}", "--format=json") == 0
    whole = (run / "evaluation.json").read_text()
    older, newest = sorted(run.glob("checkpoints/*"), key=lambda path: int(path.name))[-2:]
    shutil.rmtree(newest / "state")
    capsys.readouterr()
    assert command(evaluate, f"--workdir={run}", "--format=json") == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["steps"] == [int(older.name)]
    assert f"is left as it is: it is of step {newest.name}, this is of step {older.name}" in said.err
    assert (run / "evaluation.json").read_text() == whole
    (run / "evaluation.json").unlink()
    assert command(evaluate, f"--workdir={run}") == 0
    assert json.loads((run / "evaluation.json").read_text())["steps"] == [int(older.name)]


def test_a_seed_that_diverged_is_left_out_of_what_is_judged(digits, tmp_path, capsys):
    from PIL import Image

    group = tmp_path / "group"
    shutil.copytree(digits, group)

    def diverge(seed):
        path = group / f"seed{seed}" / "record.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "status": "diverged", "steps": 7, "metrics": {}}))
        shutil.rmtree(group / f"seed{seed}" / "checkpoints")

    diverge(1)
    picture = tmp_path / "picture.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(picture)
    assert command(predict, f"--workdir={group}", f"--input={picture}", "--format=json") == 0
    assert "left out because they diverged: seed 1 at step 7" in capsys.readouterr().err
    assert command(evaluate, f"--workdir={group}", "--format=json") == 0
    found = json.loads(capsys.readouterr().out)
    values = json.loads((digits / "summary.json").read_text())["metrics"]["test/accuracy"]["values"]
    assert found["seeds"] == [0, 2]
    assert found["metrics"]["test/accuracy"]["values"] == pytest.approx([values[0], values[2]], abs=1e-6)
    diverge(0)
    assert command(evaluate, f"--workdir={group}") == 0
    assert "±" not in capsys.readouterr().out  # one seed has no interval
    diverge(2)
    assert command(evaluate, f"--workdir={group}") == 1
    assert "every seed in" in capsys.readouterr().err


def test_one_seed_of_the_group_is_a_run_of_its_own_and_verifies(digits, capsys):
    assert command(verify, f"--workdir={digits / 'seed1'}") == 0
    assert "seed 1: equal" in capsys.readouterr().out


def test_verify_notices_another_result(digits, capsys, tmp_path):
    copy = tmp_path / "changed"
    shutil.copytree(digits / "seed0", copy)
    record = json.loads((copy / "record.json").read_text())
    record["params_digest"] = "0" * 64
    (copy / "record.json").write_text(json.dumps(record))
    assert command(verify, f"--workdir={copy}") == 1
    assert "different in params_digest" in capsys.readouterr().out


def test_predict_reads_a_picture_of_any_size_and_mode(digits, tmp_path, capsys):
    from PIL import Image
    from sklearn.datasets import load_digits

    data = load_digits()
    paths = []
    for number, (mode, size) in enumerate([("L", 8), ("RGB", 61), ("P", 200), ("RGBA", 33)]):
        ink = Image.fromarray((255 - data.images[number] * 255 / 16).astype(np.uint8)).resize(
            (size, size), Image.NEAREST
        )
        paths.append(str(tmp_path / f"{number}.png"))
        ink.convert(mode).save(paths[-1])
    assert command(predict, f"--workdir={digits}", "--format=json", *(f"--input={path}" for path in paths)) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["input"] for row in rows] == paths
    assert [row["label"] for row in rows] == [str(data.target[i]) for i in range(4)]
    for row in rows:
        assert len(row["top"]) == 5 and row["confidence"] == max(each["confidence"] for each in row["top"])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--workdir=nowhere", "--input=x.png"], "no run folder"),
        (["--workdir={digits}"], "--input"),
        (["--workdir={digits}", "--input=missing.png"], "missing.png"),
        (["--workdir={digits}", "--input={digits}/config.json"], "config.json"),
    ],
)
def test_predict_says_in_one_line_what_was_wrong(digits, flags, said, capsys):
    assert command(predict, *(flag.format(digits=digits) for flag in flags)) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and said in error and "\n" not in error


def test_a_finished_run_does_nothing_and_other_settings_are_refused(digits, capsys):
    before = {path: path.read_bytes() for path in digits.rglob("*.json*")}
    flags = [
        f"--workdir={digits}",
        "--seeds=3",
        "--train.steps=240",
        "--train.eval_every=60",
        "--train.checkpoint_every=120",
    ]
    assert command(train, *flags, "--optimizer.learning_rate=3e-3") == 0
    assert "nothing to do" in capsys.readouterr().out
    assert command(train, *flags, "--optimizer.learning_rate=1e-3") == 1
    assert "optimizer.learning_rate: 0.003 there, 0.001 here" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in digits.rglob("*.json*")} == before


def test_fine_tuning_starts_from_the_other_run(digits, capsys):
    flags = ["--workdir=tuned", f"--init_from={digits / 'seed0'}", "--train.steps=10", "--train.log_every=5"]
    assert command(train, *flags, "--optimizer.learning_rate=1e-5") == 0
    tuned = json.loads(pathlib.Path("tuned/record.json").read_text())["metrics"]
    first = json.loads((digits / "seed0" / "record.json").read_text())["metrics"]
    assert tuned["test/accuracy"] == pytest.approx(first["test/accuracy"], abs=0.02)
    capsys.readouterr()


@pytest.mark.parametrize("given", ["nowhere", "picture.png"])
def test_what_is_no_run_to_start_from_is_left_as_it_is(given, capsys):
    pathlib.Path("picture.png").write_bytes(b"no run")
    assert command(train, f"--init_from={given}", "--workdir=tuned", "--smoke") == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith(f"error: {given} has no checkpoint to start from") and "\n" not in said
    assert not pathlib.Path("nowhere").exists() and pathlib.Path("picture.png").read_bytes() == b"no run"


def test_check_runs_the_sanity_steps(capsys):
    assert command(train, "--workdir=checked", "--check", "--smoke") == 0
    said = capsys.readouterr().out
    for line in (
        "loss at the start",
        "gradients: finite",
        "one batch can be learnt",
        "majority class",
        "logistic regression",
    ):
        assert line in said


@pytest.mark.smoke
def test_the_first_command_trains_lenet_to_a_report(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "experiments.train"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "runs/lenet5/record.json").read_text())["metrics"]["test/accuracy"] >= 0.97
    assert "runs/lenet5/report.html" in done.stdout


def test_fit_from_python_is_the_command(digits, tmp_path):
    from jaxdl import fit

    overrides = {"train.steps": 240, "train.eval_every": 60, "optimizer.learning_rate": 3e-3}
    run = fit("lenet5", workdir=str(tmp_path / "notebook"), seed=1, **overrides)
    recorded = json.loads((digits / "seed1" / "record.json").read_text())
    assert run.record["state_digest"] == recorded["state_digest"]
    assert run.metrics == run.record["metrics"] == recorded["metrics"]
    networks = {name: jax.tree.map(lambda leaf: leaf[0], net.params) for name, net in run.state.nets.items()}
    assert digest(networks) == recorded["params_digest"]
    group = fit("lenet5", workdir=str(digits), seeds=3, **overrides)
    assert not group.fresh
    assert group.metrics["test/accuracy"]["values"][1] == recorded["metrics"]["test/accuracy"]
    assert digest(jax.tree.map(lambda leaf: leaf[1], group.state.nets["model"].params)) == digest(networks["model"])


def test_the_shops_profit_is_found_again(tmp_path):
    """50 for a visitor, 20 for a click, less 300 (inventory A14): by least squares, and by gradient descent the same."""
    from experiments.recipes.linear_regression import TRUE, DataConfig, coefficients, days, least_squares
    from jaxdl import fit

    config = DataConfig()
    made = days(config, config.days, 0)
    exact = least_squares(made)
    design = np.c_[10.0 * made["input"] + [15.0, 25.0], np.ones(config.days)]  # visitors, clicks, constant
    errors = config.noise * np.sqrt(np.diag(np.linalg.inv(design.T @ design)))
    assert (np.abs(exact - TRUE) < 3 * errors).all() and (errors < [0.1, 0.1, 2.0]).all()
    run = fit("linear_regression", workdir=str(tmp_path / "shop"))
    layer = run.state.nets["model"].params["Dense_0"]
    found = coefficients(np.asarray(layer["kernel"])[0], np.asarray(layer["bias"])[0])
    np.testing.assert_allclose(found, exact, rtol=1e-4)
    assert found[0] > found[1] > 0 > found[2]


def test_a_users_folder_of_pictures_is_trained_on_evaluated_and_never_mixed_up_with_another(tmp_path, capsys):
    from PIL import Image

    draw = np.random.default_rng(0)
    for folder, shift in (("pictures", 0), ("others", 40)):
        for name, level in (("dark", 40), ("light", 160)):
            (tmp_path / folder / name).mkdir(parents=True)
            for number in range(30):
                pixels = draw.integers(level + shift, level + shift + 50, (12, 15, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / folder / name / f"{number}.png")
    place = f"--data.dir={tmp_path / 'pictures'}"
    flags = [
        "--workdir=mine",
        "--data.name=folder",
        "--train.steps=40",
        "--train.eval_every=20",
        "--data.image_size=12",
    ]
    assert command(train, *flags, place) == 0, capsys.readouterr().err
    recorded = json.loads(pathlib.Path("mine/record.json").read_text())["metrics"]
    assert command(evaluate, "--workdir=mine", "--format=json", place) == 0, capsys.readouterr().err
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["metrics"]
    assert found["test/accuracy"] == pytest.approx(recorded["test/accuracy"]) == 1.0
    assert command(predict, "--workdir=mine", place, f"--input={tmp_path / 'pictures' / 'light' / '3.png'}") == 0
    assert "light, confidence" in capsys.readouterr().out
    other = f"--data.dir={tmp_path / 'others'}"
    assert command(evaluate, "--workdir=mine", other) == 1
    assert "was trained on other data" in capsys.readouterr().err
    assert command(train, *flags, other) == 1
    assert "data.fingerprint" in capsys.readouterr().err


def test_verify_refuses_a_fine_tuned_run(digits, capsys):
    flags = ["--workdir=tuned", f"--init_from={digits / 'seed0'}", "--train.steps=4", "--train.log_every=2"]
    assert command(train, *flags) == 0
    assert command(verify, "--workdir=tuned") == 1
    assert "not verifiable" in capsys.readouterr().err
