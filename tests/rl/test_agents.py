"""The algorithms: PPO's objective and gradient, DQN's update, Q-learning's optimum, one device and many."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import recipe_files
from jaxdl.models.actor_critic import ActorCritic, QNetwork
from jaxdl.optimizers import OptimizerConfig, hyper_parameters, make_optimizer
from jaxdl.rl.cartpole import CartPole
from jaxdl.rl.dqn import DQN, DQNConfig
from jaxdl.rl.environment import row_keys
from jaxdl.rl.gridworld import GridWorld
from jaxdl.rl.ppo import PPO, PPOConfig, clipped_objective, log_probability_of
from jaxdl.rl.q_learning import QLearning, QLearningConfig
from jaxdl.rl.returns import generalized_advantages

KEY = jax.random.key(0)
SGD = OptimizerConfig(name="sgd", learning_rate=0.1)


def ppo(**changes):
    """A small agent and the hyper-parameters that its phase would have."""
    config = PPOConfig(rollout=16, epochs=1, minibatches=2, entropy=0.01)
    config = dataclasses.replace(config, **changes)
    task = PPO(CartPole(time_limit=10), ActorCritic(2, (8,)), make_optimizer(SGD, 10), config, environments=8)
    return task, {name: jnp.float32(v) for name, v in {**hyper_parameters(SGD), **config.hyper()}.items()}


def dqn(**changes):
    """As `ppo`."""
    config = DQNConfig(rollout=2, updates=2, batch_size=16, capacity=128, warmup=32, n_step=3, target_every=4)
    config = dataclasses.replace(config, **changes)
    task = DQN(CartPole(time_limit=20), QNetwork(2, (8,)), make_optimizer(SGD, 10), config, 8, total_steps=20)
    return task, {name: jnp.float32(v) for name, v in {**hyper_parameters(SGD), **config.hyper()}.items()}


# --- PPO -------------------------------------------------------------------------------------------------------------


def test_the_clipped_objective_is_the_papers():
    draw = np.random.default_rng(0)
    log_ratio, advantage = draw.normal(size=(2, 300)).astype(np.float32)
    ours = np.asarray(clipped_objective(jnp.asarray(log_ratio), jnp.asarray(advantage), 0.2))
    for value, log_r, a in zip(ours, log_ratio, advantage, strict=True):
        ratio = np.exp(log_r)
        assert value == pytest.approx(min(ratio * a, min(max(ratio, 0.8), 1.2) * a), rel=1e-5, abs=1e-6)


def test_ppos_gradient_vanishes_where_the_ratio_is_clipped():
    slope = jax.grad(lambda x, a: clipped_objective(x, a, 0.2))
    log = jnp.log
    for ratio, advantage, moves in ((1.3, 1.0, False), (1.3, -1.0, True), (0.7, -1.0, False), (0.7, 1.0, True)):
        assert bool(slope(log(ratio), advantage) != 0) is moves


def test_ppos_loss_is_the_sum_of_its_written_out_parts():
    task, hyper = ppo()
    state = task.init(KEY, hyper)
    acting, other = state.nets["agent"].params, task.init(jax.random.key(9), hyper).nets["agent"].params

    @jax.jit
    def run(acting, other, local):
        states, experience = task._act(acting, local, KEY, row_keys(jax.random.key(1), local["row"]))
        data = task._prepare(acting, experience, states.observation, hyper)
        part = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), data)
        return experience, part, task._loss(other, part, hyper)

    experience, part, (loss, found) = run(acting, other, state.local)
    logits, values = (np.asarray(x, np.float64) for x in task._apply(other, part.observation))
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    advantage = np.asarray(part.advantage, np.float64)
    advantage = (advantage - advantage.mean()) / advantage.std()
    ratio = np.exp(log_p[np.arange(128), np.asarray(part.action)] - np.asarray(part.log_probability))
    policy = -np.minimum(ratio * advantage, np.clip(ratio, 0.8, 1.2) * advantage).mean()
    value = 0.5 * np.square(values - np.asarray(part.target)).mean()
    entropy = -(np.exp(log_p) * log_p).sum(axis=1).mean()
    assert float(loss) == pytest.approx(policy + 0.5 * value - 0.01 * entropy, rel=1e-4)
    assert float(found["entropy"]) == pytest.approx(entropy, rel=1e-5)
    # what is stored of the rollout is what the acting network says
    logits, _ = task._apply(acting, part.observation)
    np.testing.assert_allclose(part.log_probability, log_probability_of(logits, part.action), atol=1e-6)
    assert np.asarray(experience.found.truncated).any()


@pytest.mark.parametrize(("time_limit", "most"), [(500, 0), (10, 1), (4, 4)])
def test_advantages_bootstrap_from_what_each_action_led_to(time_limit, most):
    """The critic asked about every terminal observation, however often time limits cut episodes in a rollout."""
    task, hyper = ppo()
    task = dataclasses.replace(task, environment=CartPole(time_limit=time_limit))
    state = task.init(KEY, hyper)
    params, local = state.nets["agent"].params, state.local

    @jax.jit
    def run(params, local):
        states, experience = task._act(params, local, KEY, row_keys(jax.random.key(1), local["row"]))
        return experience, task._prepare(params, experience, states.observation, hyper)

    experience, data = run(params, local)
    found = experience.found
    cuts = np.asarray(found.truncated & ~found.terminated).sum(axis=0)
    assert cuts.max() == most and np.asarray(found.done).any()
    values, after = (
        task._apply(params, x.reshape(-1, 4))[1].reshape(16, 8)
        for x in (data.observation.swapaxes(0, 1), found.observation)
    )
    expected = generalized_advantages(found, values, after, hyper["discount"], hyper["trace"])
    np.testing.assert_allclose(data.advantage.T, expected, atol=2e-5)
    np.testing.assert_allclose(data.target.T, expected + values, atol=2e-5)


def test_actions_are_drawn_from_the_policy():
    task, hyper = ppo(rollout=2000, minibatches=1)
    task = dataclasses.replace(task, network=Biased())
    state = task.init(KEY, hyper)
    _, experience = task._act(state.nets["agent"].params, state.local, KEY, row_keys(KEY, state.local["row"]))
    assert float(experience.action.mean()) == pytest.approx(0.8, abs=0.01)


class Biased(ActorCritic):
    """A policy that takes action 1 with probability 0.8 everywhere."""

    num_actions: int = 2

    @nn.compact
    def __call__(self, x, train=False):
        self.param("unused", lambda key: jnp.zeros(()))
        return jnp.tile(jnp.log(jnp.array([0.2, 0.8])), (x.shape[0], 1)), jnp.zeros(x.shape[0])


# --- DQN -------------------------------------------------------------------------------------------------------------


def test_dqn_waits_then_learns_and_copies_its_target_in_time():
    task, hyper = dqn()
    state = task.init(KEY, hyper)
    step = jax.jit(task.step)
    first = state.nets["agent"].params
    assert task.items_per_step == 16 and task.ring_size == 16
    for number in range(9):
        before, old_target = state.nets["agent"].params, state.extra["target"]
        state, metrics = step(state, None, jax.random.fold_in(KEY, number))
        state = state.replace(step=state.step + 1)
        moved = not jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), before, state.nets["agent"].params))
        # 40 steps are what a window of 3 steps and a rollout of 2 need in each of 8 environments
        assert moved is ((number + 1) * 16 >= 40) is bool(metrics["loss"].count)
        wanted = state.nets["agent"].params if (number + 1) % 4 == 0 else old_target
        assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), wanted, state.extra["target"]))
        epsilon = max(0.05, 1 - 0.95 * number / 4)
        assert float(metrics["epsilon"].total) == pytest.approx(epsilon, abs=1e-6)
    assert first is not state.nets["agent"].params


def test_dqns_gradient_is_of_the_error_against_a_fixed_target():
    task, hyper = dqn(loss="mse")
    params, target = (task.init(jax.random.key(s), hyper).nets["agent"].params for s in (1, 2))
    draw = np.random.default_rng(0)
    seen, after = draw.normal(size=(2, 30, 4)).astype(np.float32)
    action, total = draw.integers(0, 2, 30), draw.normal(size=30).astype(np.float32)
    future = np.where(draw.random(30) < 0.3, 0.0, 0.9).astype(np.float32)
    grads, found = jax.grad(task._loss, has_aux=True)(
        params, target, *map(jnp.asarray, (seen, action, total, future, after))
    )
    chosen = np.asarray(task._values(params, after)).argmax(axis=1)
    wanted = total + future * np.asarray(task._values(target, after))[np.arange(30), chosen]

    def plain(params):
        q = task._values(params, jnp.asarray(seen))[jnp.arange(30), action]
        return 0.5 * jnp.square(q - wanted).mean()

    for ours, theirs in zip(jax.tree.leaves(grads), jax.tree.leaves(jax.grad(plain)(params)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert float(found["loss"]) == pytest.approx(float(plain(params)), rel=1e-5)


@pytest.mark.parametrize("changes", [{"batch_size": 12}, {"capacity": 16}])
def test_a_memory_that_cannot_be_shared_out_is_refused(changes):
    with pytest.raises(ValueError, match="batch_size=12|capacity=16"):
        dqn(**changes)


# --- Q-learning ------------------------------------------------------------------------------------------------------


def learn(task, hyper, steps):
    """The table after `steps` iterations, and what `evaluate` says of it."""
    state = task.init(KEY, {name: jnp.float32(value) for name, value in hyper.items()})

    def body(state, number):
        state, _ = task.step(state.replace(step=number), None, jax.random.fold_in(KEY, number))
        return state, None

    state = jax.jit(lambda state: jax.lax.scan(body, state, jnp.arange(steps))[0])(state)
    batch = {"row": jnp.arange(4), "mask": jnp.ones(4)}
    metrics = jax.jit(task.evaluate)(state, batch, KEY)[1]
    return np.asarray(state.nets["agent"].params["values"]), {k: float(m.total / m.count) for k, m in metrics.items()}


def test_tabular_q_is_value_iteration_where_nothing_is_random():
    grid = GridWorld(slip=0.0)
    config = QLearningConfig(rollout=4, discount=0.9, epsilon=1.0)
    task = QLearning(grid, dataclasses.replace(grid, random_start=True), config, environments=64)
    values, metrics = learn(task, {"epsilon": 1.0, "horizon": 1e9}, 400)  # a step size of one
    floor = ~grid.ends & (grid.letters != "#")
    np.testing.assert_allclose(values[floor], task.optimal_values[floor], atol=2e-5)
    assert metrics["regret"] == pytest.approx(0.0, abs=1e-5) and metrics["value_error"] < 2e-5
    # the shortest way, 14 steps, of which the last gives 1
    assert metrics["length"] == 14 and metrics["return"] == pytest.approx(1 - 13 * 0.01, abs=1e-5)


def test_tabular_q_nears_value_iteration_on_a_slippery_floor():
    grid = GridWorld(GridWorld.__dataclass_fields__["rows"].default, slip=0.2)
    config = QLearningConfig(rollout=8, discount=0.9)
    task = QLearning(grid, dataclasses.replace(grid, random_start=True), config, environments=64)
    values, metrics = learn(task, {"epsilon": 1.0, "horizon": 10.0}, 1500)
    floor = ~grid.ends & (grid.letters != "#")
    assert np.abs(values - task.optimal_values)[floor].max() < 0.12
    assert np.abs(values - task.optimal_values)[floor].mean() < 0.02 and metrics["regret"] < 0.01
    assert metrics["value_error"] == pytest.approx(np.abs(values - task.optimal_values)[floor].max(), abs=1e-4)


def test_regret_is_the_value_that_a_policy_loses():
    """The exact value of a bad policy against many of its episodes."""
    grid = GridWorld(("S..G", "...X"), slip=0.3, time_limit=1000)
    task = QLearning(grid, grid, QLearningConfig(discount=0.95), environments=8)
    policy = jnp.array([2, 1, 1, 0, 1, 0, 0, 0])
    values = np.asarray(task._policy_values(policy))
    probability, rewards = grid.transitions()
    states = np.arange(8)
    moves = np.where(grid.ends[:, None], 0.0, probability[states, policy])
    exact = np.linalg.solve(np.eye(8) - 0.95 * moves, rewards[states, policy])
    np.testing.assert_allclose(values, exact, atol=1e-5)


# --- all of them -----------------------------------------------------------------------------------------------------


def test_seeds_differ_and_repeat():
    task, hyper = dqn()
    step = jax.jit(task.step)
    ends = []
    for seed in (0, 0, 1):
        state = task.init(jax.random.key(seed), hyper)
        for number in range(4):
            state, _ = step(
                state.replace(step=jnp.int32(number)), None, jax.random.fold_in(jax.random.key(seed), number)
            )
        ends.append([np.asarray(leaf) for leaf in jax.tree.leaves((state.nets, state.local["replay"]))])
    assert all((a == b).all() for a, b in zip(ends[0], ends[1], strict=True))
    assert any((a != b).any() for a, b in zip(ends[0], ends[2], strict=True))


def test_validation_and_test_episodes_begin_differently():
    task, hyper = ppo()
    state = task.init(KEY, hyper)
    experiment = recipe_files.load("cartpole_ppo")
    experiment = experiment.build(experiment.config)
    sources = [experiment.phases[0].evaluations["validation"], experiment.final["test"]]
    batches = [source.batch(0, KEY) for source in sources]
    assert not set(np.asarray(batches[0]["row"])) & set(np.asarray(batches[1]["row"]))
    assert [float(batch["mask"].sum()) for batch in batches] == [100, 100]
    lengths = [np.asarray(task.predict(state, batch)["length"]) for batch in batches]
    assert (lengths[0] != lengths[1]).any()


@pytest.fixture(scope="module")
def many():
    """What agents_on_devices.py says: one update on one device, on 8 in jit, on 8 in pmap."""
    here = pathlib.Path(__file__).parent
    environment = {
        **os.environ,
        "PYTHONPATH": str(here.parents[1]),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    }
    command = [sys.executable, str(here / "agents_on_devices.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("way", ["jit", "pmap"])
def test_eight_devices_make_ppos_update_of_one(way, many):
    one, other = many["one"], many[way]
    assert len(one["params"]) > 10 and np.abs(one["params"]).max() > 0.01
    np.testing.assert_allclose(one["params"], other["params"], atol=1e-5)
    assert set(one["metrics"]) == set(other["metrics"]) >= {"loss", "entropy", "return", "test return"}
    for metric, value in one["metrics"].items():
        assert other["metrics"][metric] == pytest.approx(value, rel=1e-4, abs=1e-5), metric
