"""What is set before JAX starts: XLA's flags and the compilation cache."""

import gc
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import backend, cli, recipe_files, train

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json, os, time
from experiments import backend
backend.quiet()
backend.use_compilation_cache()
backend.start_backend(host_devices={devices}, deterministic={deterministic})
import jax, jax.numpy as jnp
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name) if name.endswith("cache_hits") else None)

@jax.jit
def step(x, w):
    def body(c, key):
        c = jnp.sort(jnp.tanh(c @ w) + jax.random.normal(key, c.shape), axis=0)
        return c, jnp.linalg.norm(c)
    return jax.lax.scan(body, x, jax.random.split(jax.random.key(0), 8))

out = step(jnp.ones((16, 32)), jnp.eye(32) * 0.1)
bits = [jax.device_get(leaf).tobytes().hex() for leaf in out]
facts = dict(hits=len(hits), devices=jax.device_count(), flags=os.environ.get("XLA_FLAGS", ""), bits=bits)
print(json.dumps(facts))
"""


def run(cache, devices=1, deterministic=False, **environment):
    env = {k: v for k, v in os.environ.items() if not k.startswith("JAX_") and k != "XLA_FLAGS"}
    env |= {"XDG_CACHE_HOME": str(cache), "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), **environment}
    code = PROGRAM.format(devices=devices, deterministic=deterministic)
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.mark.smoke
def test_compiled_programs_are_kept_quietly_and_bit_equal(tmp_path):
    cold, first = run(tmp_path)
    files = list((tmp_path / "jaxdl" / "xla").rglob("*-cache"))
    warm, second = run(tmp_path)
    assert files
    assert (cold["hits"], warm["hits"] > 0) == (0, True)
    assert first == second == ""
    assert warm["bits"] == cold["bits"]
    for file in files:  # as a killed process leaves them
        file.write_bytes(file.read_bytes()[:1000])
    damaged, third = run(tmp_path)
    assert damaged["bits"] == cold["bits"]
    assert third == ""


def test_the_users_own_cache_folder_is_respected(tmp_path):
    own = tmp_path / "own"
    run(tmp_path, JAX_COMPILATION_CACHE_DIR=str(own))
    assert list(own.glob("*-cache"))
    assert not (tmp_path / "jaxdl").exists()


def test_an_unwritable_cache_is_no_error(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    facts, err = run(blocked)
    assert facts["hits"] == 0
    assert err == ""


@pytest.mark.smoke
def test_flags_are_set_before_the_backend_starts(tmp_path):
    facts, _ = run(tmp_path, devices=3, deterministic=True, XLA_FLAGS="--xla_cpu_enable_fast_math=false")
    assert facts["devices"] == 3
    assert facts["flags"].split() == [
        "--xla_cpu_enable_fast_math=false",
        "--xla_force_host_platform_device_count=3",
        "--xla_gpu_deterministic_ops=true",
    ]
    # the user's own number wins
    facts, _ = run(tmp_path, devices=3, XLA_FLAGS="--xla_force_host_platform_device_count=2")
    assert facts["devices"] == 2


@pytest.mark.parametrize(
    ("flags", "cores", "own", "threads"),
    [
        ("--xla_force_host_platform_device_count=8", 2, None, "16"),
        ("--xla_force_host_platform_device_count=8", 32, None, None),
        ("--xla_force_host_platform_device_count=8", 2, "9", "9"),
        ("--xla_force_host_platform_device_count=1", 1, None, None),
        ("--xla_cpu_enable_fast_math=false", 1, None, None),
    ],
)
def test_devices_that_wait_for_each_other_get_threads_to_spare(flags, cores, own, threads, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", flags)
    monkeypatch.setattr(backend, "cores", lambda: cores)
    monkeypatch.setenv(backend.THREADS, own or "")
    if own is None:
        monkeypatch.delenv(backend.THREADS)  # what start_backend sets goes again after the test
    backend.start_backend()
    assert os.environ.get(backend.THREADS) == threads


def test_programs_of_devices_that_never_wait_are_those_of_a_whole_cpu(monkeypatch):
    """XLA:CPU cuts programs for the threads of its pool: another number of them would be other bits."""
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(backend, "_backend_started", lambda: False)
    monkeypatch.setenv(backend.THREADS, "")
    monkeypatch.delenv(backend.THREADS)
    backend.start_backend(host_devices=2)
    assert backend.THREADS not in os.environ
    own = backend.cache_folder()
    monkeypatch.setenv(backend.THREADS, "1")
    assert backend.cache_folder() != own


def test_a_recipe_says_how_many_threads_its_programs_are_made_for(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(backend, "_backend_started", lambda: False)
    monkeypatch.setenv(backend.THREADS, "")
    monkeypatch.delenv(backend.THREADS)
    threads = recipe_files.load("cartpole_ppo").threads
    backend.start_backend(host_devices=2, threads=threads)
    assert backend.THREADS not in os.environ and recipe_files.load("lenet5:mnist").threads is None
    monkeypatch.setenv("XLA_FLAGS", "")
    backend.start_backend(threads=threads)
    assert os.environ[backend.THREADS] == "1"
    monkeypatch.setenv(backend.THREADS, "3")  # the user's own
    backend.start_backend(threads=threads)
    assert os.environ[backend.THREADS] == "3"
    # devices that wait for each other need what they need
    monkeypatch.delenv(backend.THREADS)
    monkeypatch.setattr(backend, "cores", lambda: 2)
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
    backend.start_backend(threads=threads)
    assert os.environ[backend.THREADS] == "16"


def test_fewer_threads_change_no_bits(tmp_path):
    """The command, which takes as many threads as the recipe says, against one with a thread a core."""
    recipes = [name for name in recipe_files.names() if recipe_files.load(name).threads]
    program = """
import sys
from experiments import cli, train
for recipe in sys.argv[2:]:
    words = ["train", f"--recipe={recipe}", "--smoke", f"--workdir={sys.argv[1]}/{recipe}"]
    assert cli.execute(train.main, train.BINARY, words) == 0
"""
    for threads in ("of the recipe", "2"):
        around = {name: value for name, value in os.environ.items() if name != backend.THREADS}
        around |= {backend.THREADS: threads} if threads.isdigit() else {}
        command = [sys.executable, "-c", program, str(tmp_path / threads), *recipes]
        subprocess.run(command, env=around, check=True, capture_output=True)
    for recipe in recipes:
        found = [json.loads((tmp_path / way / recipe / "record.json").read_text()) for way in ("of the recipe", "2")]
        assert found[0]["params_digest"] == found[1]["params_digest"]
        assert [record["program"]["threads"] for record in found] == [recipe_files.load(recipe).threads, 2]
    assert recipes


def test_flags_that_come_too_late_are_an_error(monkeypatch):
    import jax

    jax.devices()
    monkeypatch.setenv("XLA_FLAGS", "")
    with pytest.raises(RuntimeError, match="too late"):
        backend.start_backend(host_devices=7)
    backend.start_backend()  # nothing wanted, nothing wrong


@pytest.mark.parametrize(("seeds", "cores", "devices"), [(8, 2, 2), (5, 2, 1), (6, 4, 3), (3, 8, 3), (1, 8, 1)])
def test_seeds_divide_over_the_forced_devices(seeds, cores, devices):
    assert backend.host_devices(seeds, cores) == devices


def test_cache_folders_differ_by_machine(monkeypatch):
    monkeypatch.delenv(backend.THREADS, raising=False)
    monkeypatch.setattr(backend, "cores", lambda: 2)
    two = backend.cache_folder()
    monkeypatch.setattr(backend, "cores", lambda: 3)
    assert backend.cache_folder() != two
    monkeypatch.setattr(backend, "cores", lambda: 2)
    assert backend.cache_folder() == two
    monkeypatch.setattr(backend, "_cpu", lambda: "another")
    assert backend.cache_folder() != two


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is one of glibc's")
def test_memory_that_is_freed_is_not_mapped_anew():
    """The system's own count of mapped pages, for 64 MB that are written and freed ten times by two threads."""
    program = """
import resource, sys, threading
from experiments import backend
if sys.argv[1] == "keep": assert backend.keep_memory()
def work():
    for _ in range(5): bytearray(64 << 20)
def both():
    work()
    thread = threading.Thread(target=work); thread.start(); thread.join()
both()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
both()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    found = {}
    for mode in ("keep", "plain"):
        env = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")} | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", program, mode], env=env, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        found[mode] = int(done.stdout)
    # ten times 16,384 pages of 4 KB, or ten times 32 of 2 MB
    assert found["plain"] >= 320 and found["keep"] < 0.1 * found["plain"]


def test_a_users_own_settings_of_memory_win(monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")
    assert not backend.keep_memory()


def test_flags_are_preferred_only_where_the_user_has_none(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1 --xla_b=2")
    backend.prefer_flags(("--xla_b=3", "--xla_c=4"))
    assert os.environ["XLA_FLAGS"] == "--xla_a=1 --xla_b=2 --xla_c=4"
    monkeypatch.delenv("XLA_FLAGS")
    backend.prefer_flags(())
    assert "XLA_FLAGS" not in os.environ
    backend.prefer_flags(backend.QUICK_TUNING)
    assert os.environ["XLA_FLAGS"].split() == list(backend.QUICK_TUNING)


def test_a_smoke_run_asks_for_few_trials_of_kernels_where_a_gpu_may_be(tmp_path, monkeypatch):
    from types import SimpleNamespace

    from experiments import cli

    for folder in ("jax_cuda13_plugin", "elsewhere"):
        (tmp_path / folder).mkdir()
    (tmp_path / "jax_cuda13_plugin" / "__init__.py").touch()
    monkeypatch.setattr(backend, "start_backend", lambda **how: None)

    def flags(platforms, path, smoke, started=False):
        monkeypatch.setattr(backend, "_backend_started", lambda: started)
        monkeypatch.setenv("JAX_PLATFORMS", platforms)
        monkeypatch.setenv("XLA_FLAGS", "")
        monkeypatch.setattr(sys, "path", [str(path)])
        cli._start_backend(SimpleNamespace(flags=SimpleNamespace(smoke=smoke), recipe=None))
        return os.environ["XLA_FLAGS"].split()

    assert flags("", tmp_path, smoke=True) == flags("cuda", tmp_path, smoke=True) == list(backend.QUICK_TUNING)
    assert not flags("", tmp_path, smoke=False) and not flags("cpu", tmp_path, smoke=True)
    assert not flags("", tmp_path / "elsewhere", smoke=True)
    assert not flags("", tmp_path, smoke=True, started=True)


def test_a_start_compiles_few_programs_and_collects_garbage_seldom(tmp_path, monkeypatch):
    """18 for a smoke run of LeNet-5; each small one is a dozen milliseconds, and there were 61 once."""
    import jax

    monkeypatch.chdir(tmp_path)
    before, compiled = gc.get_threshold(), []

    def count(name, _, **more):
        compiled.append(name) if name.endswith("backend_compile_duration") else None

    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        gc.set_threshold(700, 10, 10)
        assert cli.execute(train.main, train.BINARY, ["train", "--recipe=lenet5", "--smoke"]) == 0
        assert gc.get_threshold() == (10_000, 10, 10)
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
        gc.set_threshold(*before)
    assert 3 < len(compiled) <= 24
