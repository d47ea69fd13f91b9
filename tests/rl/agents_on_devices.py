"""Run on eight forced CPU devices: a few updates of each agent on one device, on eight in jit and on eight in pmap."""

import json

import jax
import numpy as np

from jaxdl.data.source import Rounds
from jaxdl.engine.devices import Layout
from jaxdl.engine.experiment import Phase
from jaxdl.engine.program import Program, means, stream
from jaxdl.models.actor_critic import ActorCritic, QNetwork
from jaxdl.optimizers import OptimizerConfig, hyper_parameters, make_optimizer
from jaxdl.rl.cartpole import CartPole
from jaxdl.rl.dqn import DQN, DQNConfig
from jaxdl.rl.ppo import PPO, PPOConfig

SGD = OptimizerConfig(name="sgd", learning_rate=0.02)
STEPS = {"ppo": 1, "dqn": 4}


def tasks():
    """Small agents with 8 environments each, and their hyper-parameters."""
    cartpole = CartPole(time_limit=12)
    optimizer, shared = make_optimizer(SGD, 10), hyper_parameters(SGD)
    ppo = PPOConfig(rollout=16, epochs=2, minibatches=2, entropy=0.01)
    dqn = DQNConfig(rollout=2, updates=2, batch_size=16, capacity=128, warmup=32, n_step=3, target_every=2)
    yield "ppo", PPO(cartpole, ActorCritic(2, (8,)), optimizer, ppo, 8), shared | ppo.hyper()
    yield "dqn", DQN(cartpole, QNetwork(2, (8,)), optimizer, dqn, 8, 20), shared | dqn.hyper()


def numbers(name, task, hyper, layout):
    """Parameters, training metrics and evaluation after a few updates through the engine's programs."""
    program = Program(Phase("train", task, None, 10, hyper), layout, 1)
    state = layout.place(program.init(stream((0,), "init", 0)), program.template)
    keys = stream((0,), "data", 0), stream((0,), "step", 0)
    zero, count = np.zeros(1, np.int32), np.array([STEPS[name]], np.int32)
    state, sums, _ = program.train(state, program.zero_sums(), None, *keys, zero, count)
    metrics = means(program.host_sums(sums), 0)
    if name == "ppo":
        metrics |= {
            f"test {k}": v
            for k, v in means(program.evaluate(state, layout.place_source(Rounds(12, 16)), keys[0]), 0).items()
        }
    net = layout.gather(state).nets["agent"].params
    params = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(net)])
    return {"params": params.tolist(), "metrics": metrics}


def main():
    """All ways for all agents, as one line of JSON."""
    devices = tuple(jax.devices())
    assert len(devices) == 8
    ways = {"one": Layout(devices=devices[:1]), "jit": Layout(devices=devices)}
    ways["pmap"] = Layout(devices=devices, parallel="pmap")
    found = {}
    for name, task, hyper in tasks():
        found[name] = {way: numbers(name, task, hyper, layout) for way, layout in ways.items()}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
