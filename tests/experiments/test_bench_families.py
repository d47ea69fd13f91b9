"""The suite `families`: the other libraries train the same networks, as many steps and updates; the README's table."""

import json
import math
import time

import numpy as np
import pytest

from experiments import bench_families, ledger
from experiments.bench_measure import Bar, Result, Skipped, document, seconds_per_step
from experiments.flags import UsageError
from jaxdl.errors import UserError


def test_torch_has_the_same_families(one_thread):
    """As many parameters as ours, layer by layer; nn.LSTM alone has a second bias of each layer, which adds nothing."""
    pytest.importorskip("torch", reason="PyTorch is the other side of this comparison")
    import jax

    theirs = {
        "torch/char_gpt": lambda config: [bench_families.torch_gpt(config)],
        "torch/char_lstm": lambda config: [bench_families.torch_lstm(config)],
        "torch/vae": lambda config: [bench_families.torch_vae(config)],
        "torch/dcgan": bench_families.torch_dcgan,
    }
    for case, networks in theirs.items():
        family = bench_families.FAMILIES[case]
        config = family.config()
        task = family.ours(config).task
        state = jax.eval_shape(task.init, jax.random.key(0), {name: np.float32(0) for name in ("learning_rate",)})
        ours = sorted(math.prod(leaf.shape) for net in state.nets.values() for leaf in jax.tree.leaves(net.params))
        named = [named for network in networks(config) for named in network.named_parameters()]
        assert ours == sorted(p.numel() for name, p in named if ".bias_hh_" not in name), case


def test_a_tiny_family_is_measured(one_thread, monkeypatch):
    import dataclasses

    monkeypatch.setattr(bench_families, "EXAMPLES", 64)
    family = bench_families.FAMILIES["torch/vae"]

    def config():
        found = family.config()
        model = dataclasses.replace(found.model, features=(8,), latents=2)
        return dataclasses.replace(found, model=model, train=dataclasses.replace(found.train, batch_size=16))

    found = bench_families.measured("torch/vae", dataclasses.replace(family, config=config), 1, 0.005)
    assert set(found.measurements) == {"jaxdl", "eager", "fused"}
    assert found.values == [found.measurements[found.facts["theirs"]][0] / found.measurements["jaxdl"][0]]
    assert found.facts["our threads"] >= 1
    jobs = []

    def job(target, arguments, **more):
        jobs.append((target, arguments, more))
        return found.to_json()

    monkeypatch.setattr(bench_families, "job", job)
    monkeypatch.setattr(bench_families.bench_libraries, "missing", lambda package: "")
    assert list(bench_families.run(("torch/vae", "sb3/ppo"), 0, 0.005)) == [found, found]
    assert [(arguments["case"], more["threads"]) for _, arguments, more in jobs] == [
        ("torch/vae", None),
        ("sb3/ppo", 1),
    ]

    def failing(target, arguments, **more):
        raise UserError("killed")

    monkeypatch.setattr(bench_families, "job", failing)
    assert list(bench_families.run(("torch/vae",), 1, 0.005)) == [Skipped("torch/vae", "killed")]
    monkeypatch.setattr(bench_families.bench_libraries, "missing", lambda package: f"no {package}")
    (skipped,) = bench_families.run(("sb3/ppo",), 1, 0.005)
    assert skipped == Skipped("sb3/ppo", "no stable_baselines3")


def test_processor_time_is_what_the_process_used(monkeypatch):
    assert (
        seconds_per_step(lambda steps: time.sleep(0.2), 1, "processor")
        < 0.1
        < seconds_per_step(lambda steps: time.sleep(0.2), 1)
    )
    monkeypatch.setattr(bench_families.backend, "cores", lambda: 2)
    with pytest.raises(UsageError, match="one core"):
        bench_families.run(("sb3/ppo",), 1, 0.1, "processor")


def test_stable_baselines_makes_as_many_steps_and_updates(one_thread):
    """Its own counters against what our settings say."""
    pytest.importorskip("stable_baselines3", reason="it is the other side of this comparison")
    from experiments.bench_libraries import Agent, dqn, ppo

    config = bench_families.FAMILIES["sb3/ppo"].config()
    agent = Agent(ppo(config), 16, 1024, 1)
    agent(1)
    agent(1)
    assert agent.model.num_timesteps == 2048 and agent.model._n_updates == 2 * config.agent.epochs
    assert agent.model.batch_size * config.agent.minibatches == 1024
    config = bench_families.FAMILIES["sb3/dqn"].config()
    agent = Agent(dqn(config), 8, 16, 1)
    agent(70)
    # the memory is full enough after 64 iterations of 16 steps
    assert agent.model.num_timesteps == 70 * 16 and agent.model._n_updates == (70 - 64) * config.agent.updates


def test_scikit_learns_machine_makes_the_same_updates_either_way():
    """Three updates in one `fit` and in three calls of `partial_fit` (in float64), from the same random numbers."""
    from experiments.bench_libraries import Machine

    images = np.random.default_rng(0).integers(0, 256, (24, 4, 4, 1), np.uint8)
    whole, parts = Machine(images, 5, 8, 0.1), Machine(images, 5, 8, 0.1)
    whole.machine.random_state, parts.machine.random_state = (np.random.RandomState(0) for _ in range(2))
    whole.fit(3)
    parts.partial_fit(3)
    np.testing.assert_allclose(whole.machine.components_, parts.machine.components_, rtol=1e-4, atol=1e-6)
    for side in (whole, parts):
        before = side.machine.components_.copy()
        side.partial_fit(1)
        assert not np.array_equal(before, side.machine.components_)


def test_the_readmes_table_of_speed():
    found = Result("a/b", "what", "speed-up", [2.0, 2.5, 3.0], Bar(1.6, goal=2.5), {"ours": [0.1] * 3}, "seconds")
    machine = {"cpu": "Some CPU", "threads": 2, "cores_in_use": 0.1}
    once = Result("e/f", "once", "rate", [1234.5], None, {"ours": [0.1]}, "seconds", bound=1.2345)
    whole = document("cpu", "command", machine, [found, Skipped("c/d", "no torch"), once], 1.5)
    lines = ledger.bench_table(json.loads(json.dumps(whole))).splitlines()
    assert lines[2:4] == ["| what | 2.50 (2.25 – 2.75) | ≥ 1.6 (2.5) |", "| c/d | not measured | – |"]
    assert lines[4] == "| once | 1,234, 95 % bound 1.234 | – |"
    assert lines[5:] == ["", f"Measured on: Some CPU, 2 threads, jax {whole['versions']['jax']}."]
    alone = {**machine, "threads": 1, "clock": "processor", "cores_in_use": 1.5}
    said = "Measured on: Some CPU, 1 thread, jax 0.11.2, processor time, while other programs kept 1.5 cores busy."
    assert ledger.machine_line(alone, {"jax": "0.11.2"}) == said
    assert ledger.BENCH_TABLES["bench"] == "bench-cpu.json" and ledger.marks("bench")[0].startswith("<!-- bench:")
