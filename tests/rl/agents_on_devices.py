"""Run on eight forced CPU devices: an update of PPO by SGD on one device, on eight in jit and on eight in pmap."""

import json

import jax
import numpy as np

from experiments import backend
from jaxdl.data.source import Rounds
from jaxdl.engine.devices import Layout
from jaxdl.engine.experiment import Phase
from jaxdl.engine.program import Program, means, stream
from jaxdl.models.actor_critic import ActorCritic
from jaxdl.optimizers import OptimizerConfig, hyper_parameters, make_optimizer
from jaxdl.rl.cartpole import CartPole
from jaxdl.rl.ppo import PPO, PPOConfig

SGD = OptimizerConfig(name="sgd", learning_rate=0.02)


def numbers(layout):
    """Parameters, training metrics and evaluation after one iteration through the engine's programs."""
    config = PPOConfig(rollout=16, epochs=2, minibatches=2, entropy=0.01)
    task = PPO(CartPole(time_limit=12), ActorCritic(2, (8,)), make_optimizer(SGD, 10), config, 8)
    program = Program(Phase("train", task, None, 10, hyper_parameters(SGD) | config.hyper()), layout, 1)
    state = layout.place(program.init(stream((0,), "init", 0)), program.template)
    keys = stream((0,), "data", 0), stream((0,), "step", 0)
    zero, one = np.zeros(1, np.int32), np.ones(1, np.int32)
    state, sums, _ = program.train(state, program.zero_sums(), None, *keys, zero, one)
    metrics = means(program.host_sums(sums), 0)
    judged = program.evaluate(state, layout.place_source(Rounds(12, 16)), keys[0])
    metrics |= {f"test {name}": value for name, value in means(judged, 0).items()}
    params = layout.gather(state).nets["agent"].params
    return {"params": np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)]).tolist(), "metrics": metrics}


def main():
    """All three ways, as one line of JSON."""
    backend.start_backend()  # eight devices that wait for each other need more than eight threads
    devices = tuple(jax.devices())
    assert len(devices) == 8
    ways = {"one": Layout(devices=devices[:1]), "jit": Layout(devices=devices)}
    ways["pmap"] = Layout(devices=devices, parallel="pmap")
    print(json.dumps({way: numbers(layout) for way, layout in ways.items()}))


if __name__ == "__main__":
    main()
