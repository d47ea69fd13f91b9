"""What every recipe must do, because it runs on the one engine: a new recipe is covered by being there."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import jax
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import laws

from jaxdl.engine.signals import Interrupted
from jaxdl.engine.watcher import Silent

# those on MNIST and CIFAR-10 are the same tasks as the digits' LeNet-5, many times larger
PLAIN = [name for name in laws.recipes(variants=False) if not name.endswith(("mnist", "cifar10"))]
# one of each kind of task
KINDS = (
    "lenet5",
    "linear_regression",
    "perceptron_nand",
    "char_lstm",
    "dates_transformer",
    "spoken_digit",
    "deep_ae:pretrained",
    "rbm",
    "gan_mixture",
    "cartpole_dqn",
    "cartpole_ppo",
    "tictactoe_alphazero",
)
NUMBERS = ("loss", "return", "reward")


class Stop(Silent):
    """Sends this process SIGTERM at the first update at or after a step."""

    def __init__(self, at):
        self.at = at

    def update(self, step, total, metrics, items_per_second):
        if self.at is not None and step >= self.at:
            self.at = None
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """A recipe's programs are compiled once for all the laws."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    folder = tmp_path_factory.mktemp("cache")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    yield folder
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(autouse=True)
def data(monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(laws.SHARED))


@pytest.mark.timeout(400)
@pytest.mark.parametrize("recipe", PLAIN)
def test_repeats_resumes_and_is_the_same_among_seeds(recipe, tmp_path):
    if why := laws.missing(recipe):
        pytest.skip(why)
    made = laws.session(recipe)
    laws.train(made, tmp_path / "once", seed=1)
    once = laws.result(tmp_path / "once")
    assert once[0]["status"] == "done"
    with pytest.raises(Interrupted):
        laws.train(made, tmp_path / "interrupted", Stop(2), seed=1)
    laws.train(made, tmp_path / "interrupted", seed=1)
    assert laws.result(tmp_path / "interrupted") == once
    laws.train(made, tmp_path / "seeds", seed=0, seeds=2, seeds_mode="loop")
    assert laws.result(tmp_path / "seeds" / "seed1") == once
    assert laws.result(tmp_path / "seeds" / "seed0")[0]["params_digest"] != once[0]["params_digest"]


@pytest.fixture(scope="module")
def devices(tmp_path_factory, compilation_cache):
    """Training rows of each recipe on one device and, under jit and pmap, on eight."""
    names = [name for name in KINDS if laws.missing(name) is None]
    found = {}
    for parallel, count in (("one", 1), ("jit", 8), ("pmap", 8)):
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(laws.ROOT),
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
            "TFDS_DATA_DIR": str(laws.SHARED),
        }
        folder = tmp_path_factory.mktemp(parallel)
        mode = "jit" if parallel == "one" else parallel
        command = [sys.executable, laws.__file__, str(folder), mode, *names]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
        found[parallel] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("parallel", ["jit", "pmap"])
@pytest.mark.parametrize("recipe", KINDS)
def test_eight_devices_train_as_one(recipe, parallel, devices):
    if why := laws.missing(recipe):
        pytest.skip(why)
    one, many = devices["one"][recipe], devices[parallel][recipe]
    assert not isinstance(one, str), one
    assert not isinstance(many, str), many
    assert [row["step"] for row in one] == [row["step"] for row in many]
    names = [name for name in one[0] if name.endswith(NUMBERS)] or [
        n for n in one[0] if n not in ("step", "phase", "split")
    ]
    for before, after in zip(one, many, strict=True):
        for name in names:
            assert after[name] == pytest.approx(before[name], rel=1e-5, abs=1e-5), (name, before, after)


@pytest.fixture(scope="module")
def killed(tmp_path_factory, compilation_cache):
    """What became of the recipes that were killed."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(laws.ROOT),
        "TFDS_DATA_DIR": str(laws.SHARED),
        "JAX_COMPILATION_CACHE_DIR": str(compilation_cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, laws.__file__, str(tmp_path_factory.mktemp("killed")), "killed", *KINDS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.timeout(1000)
@pytest.mark.parametrize("recipe", KINDS)
def test_killed_with_9_it_ends_like_an_undisturbed_run(recipe, killed):
    assert killed[recipe]["codes"][0] == killed[recipe]["codes"][-1] == 0, killed[recipe]
    assert -signal.SIGKILL in killed[recipe]["codes"], killed[recipe]
    assert killed[recipe]["equal"]
