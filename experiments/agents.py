"""Reinforcement learning as an experiment: environments by name, greedy episodes as validation and test, the report."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.nearest import did_you_mean
from jaxdl.data.source import Rounds
from jaxdl.engine.experiment import Experiment, Phase
from jaxdl.errors import UserError
from jaxdl.nn.activations import PLAIN_ACTIVATIONS
from jaxdl.optimizers import depends_on_total_steps, describe, hyper_parameters, make_optimizer
from jaxdl.rl.environment import Environment
from jaxdl.settings import setting

OBJECTIVE = ("validation/return", "max")
EPISODES = 100
# rows far apart, so that validation, test and samples begin differently
_FIRST_TEST_ROW, _FIRST_SAMPLE_ROW = 1 << 20, 1 << 21
MOST_FRAMES, FRAMES_A_SECOND = 200, 20
OWN = ("cartpole", "gridworld")
PREFIX = "gymnax:"


@dataclass(frozen=True)
class EnvironmentConfig:
    """What the agent acts in."""

    name: str = setting(
        "cartpole", "cartpole, gridworld, breakout, asterix, freeway, seaquest, space_invaders or gymnax:NAME"
    )


@dataclass(frozen=True)
class NetworkConfig:
    """The agent's network."""

    features: tuple[int, ...] = setting((64, 64), "units of the dense layers", minimum=1)
    maps: int = setting(0, "channels of a 3x3 convolution before them; 0: none", minimum=0)
    activation: str = setting("tanh", "hidden activation", choices=PLAIN_ACTIVATIONS)


def make_environment(name: str) -> Environment:
    """The environment called `name`.

    Raises:
      UserError: there is none, or the extra that it needs is missing.
    """
    from jaxdl.rl.gymnax_adapter import MINATAR, Gymnax

    if name == "cartpole":
        from jaxdl.rl.cartpole import CartPole

        return CartPole()
    if name == "gridworld":
        from jaxdl.rl.gridworld import GridWorld

        return GridWorld()
    if name in MINATAR:
        return Gymnax(MINATAR[name])
    if name.startswith(PREFIX):
        return Gymnax(name.removeprefix(PREFIX))
    known = [*OWN, *MINATAR]
    raise UserError(
        f"unknown environment {name!r}{did_you_mean(name, known)} (there are {', '.join(known)}, and {PREFIX}NAME)"
    )


def evaluations(batch_size: int) -> tuple[dict[str, Rounds], dict[str, Rounds]]:
    """Validation and final test: 100 greedy episodes each, which begin differently."""
    validation = Rounds(EPISODES, batch_size)
    return {"validation": validation}, {"test": validation.replace(start=np.int32(_FIRST_TEST_ROW))}  # type: ignore[attr-defined]


def agent_experiment(config: Any, task: Any, objective: tuple[str, str] = OBJECTIVE, **changes: Any) -> Experiment:
    """One phase in which `task` learns to act, judged by the return of greedy episodes.

    Args:
      config: a recipe's, with `environment`, `agent`, `train` and, where there is one, `optimizer`.
      task: PPO, DQN, ...
      objective: what the best parameters are chosen by.
      **changes: fields of Experiment that differ.
    """
    train, optimizer = config.train, getattr(config, "optimizer", None)
    validation, test = evaluations(train.eval_batch_size)
    phase = Phase(
        name="train",
        task=task,
        source=None,
        steps=train.steps,
        hyper={**(hyper_parameters(optimizer) if optimizer else {}), **config.agent.hyper()},
        evaluations=validation,
        objective=objective,
        patience=train.patience,
    )
    name = config.environment.name
    total = train.steps * task.items_per_step
    experiment = Experiment(
        name="",
        phases=(phase,),
        train=train,
        final=test,
        data={"name": name, "version": environment_version(task.environment), "fingerprint": None},
        items="environment steps",
        report=report,
        sample=sample,
        facts={"environment": f"{name}, {total:,} steps, {task.items_per_step:,} an update"}
        | ({"optimiser": describe(optimizer)} if optimizer else {}),
        steps_may_grow=optimizer is None or not depends_on_total_steps(optimizer),
    )
    return dataclasses.replace(experiment, **changes)


def ppo_experiment(config: Any) -> Experiment:
    """PPO in `config.environment`; `train.batch_size` is the number of environments."""
    from jaxdl.models.actor_critic import ActorCritic
    from jaxdl.rl.ppo import PPO

    environment = make_environment(config.environment.name)
    agent, model, train = config.agent, config.model, config.train
    network = ActorCritic(environment.num_actions, model.features, model.maps, model.activation)
    optimizer = make_optimizer(config.optimizer, max(1, train.steps) * agent.epochs * agent.minibatches)
    return agent_experiment(config, PPO(environment, network, optimizer, agent, train.batch_size))


def dqn_experiment(config: Any) -> Experiment:
    """DQN in `config.environment`; `train.batch_size` is the number of environments."""
    from jaxdl.models.actor_critic import QNetwork
    from jaxdl.rl.dqn import DQN

    environment = make_environment(config.environment.name)
    agent, model, train = config.agent, config.model, config.train
    network = QNetwork(environment.num_actions, model.features, model.maps, model.activation, agent.dueling)
    optimizer = make_optimizer(config.optimizer, max(1, train.steps) * agent.updates)
    task = DQN(environment, network, optimizer, agent, train.batch_size, train.steps)
    return agent_experiment(config, task, steps_may_grow=False)  # exploration falls over a share of all steps


def environment_version(environment: Any) -> str:
    """The version of what defines the environment."""
    from jaxdl.rl.gymnax_adapter import Gymnax

    if isinstance(environment, Gymnax):
        import importlib.metadata

        return f"gymnax {importlib.metadata.version('gymnax')}"
    return "1"


def report(view: Any) -> list:
    """Sections: return against environment steps, seeds, episodes, the policy of a grid world, the agent at work."""
    from jaxdl.reports.agents import episodes_section, policy_section, return_section
    from jaxdl.reports.comparison import seeds_section
    from jaxdl.rl.gridworld import GridWorld

    task = view.experiment.phases[-1].task
    judged_best = view.records[0]["reported"] == "best"
    best = [record["best"]["step"] if judged_best and record["best"] else None for record in view.records]
    sections = [return_section(view.rows, task.items_per_step, best)]
    if not view.done:
        return sections
    first = view.records[view.done[0]]
    if len(view.done) > 1:
        names = [name for name in first["metrics"] if name.startswith(("validation/", "test/"))]
        seeds = [view.records[i]["seed"] for i in view.done]
        sections.append(seeds_section(seeds, {name: view.values(name) for name in names}))
    if isinstance(task.environment, GridWorld) and hasattr(task, "optimal_values"):
        learned = np.asarray(view.state(view.done[0]).nets["agent"].params["values"])[0]
        sections.append(policy_section(task.environment.rows, learned, task.optimal_values))
    sections += replay_sections(view, task)
    outputs = [view.outputs(i, "test") for i in view.done]
    lengths = [each["length"] for each in outputs]
    sections.append(episodes_section([each["return"] for each in outputs], lengths, task.environment.time_limit))
    return sections


def replay_sections(view: Any, task: Any) -> list:
    """A section with one greedy episode as moving pictures, where the environment can be drawn."""
    from jaxdl.reports.page import Animation, Section

    found = episodes(view, view.done[0], 1, _FIRST_TEST_ROW)
    frames = draw_episode(task.environment, found, 0)
    if frames is None:
        return []
    total, length = float(found["reward"][0].sum()), int(found["length"][0])
    caption = f"One greedy episode of the reported agent: {length} steps, return {total:.4g}."
    return [Section("The agent at work", [Animation("agent", caption, lambda: frames, 1 / FRAMES_A_SECOND)])]


@dataclass(frozen=True)
class _Replayed:
    """A task whose predictions are whole episodes."""

    task: Any
    steps: int

    def for_evaluation(self, state: Any) -> Any:
        return self.task.for_evaluation(state)

    def predict(self, state: Any, batch: Any) -> dict:
        return self.task.replay(state, batch, self.steps)


def episodes(view: Any, i: int, count: int, start: int, steps: int | None = None) -> dict[str, np.ndarray]:
    """`count` greedy episodes of seed number `i`'s agent, which begin as row number `start` says; see `record`."""
    from jaxdl.engine.compiled import collect

    task = view.experiment.phases[-1].task
    limit = task.environment.time_limit
    replayed = _Replayed(task, min(steps or limit, limit))
    return collect(replayed, view.state(i), Rounds(count, count, np.int32(start)))


def draw_episode(environment: Any, found: dict[str, np.ndarray], k: int) -> np.ndarray | None:
    """Frames uint8 [N, H, W, 3] of episode `k`, at most MOST_FRAMES of them; None where nobody can draw it."""
    from jaxdl.reports import agents as drawings
    from jaxdl.rl.cartpole import CartPole
    from jaxdl.rl.gridworld import GridWorld

    observations = found["observation"][k, : found["length"][k] + 1]
    every = -(-len(observations) // MOST_FRAMES)
    if isinstance(environment, CartPole):
        return drawings.cartpole_frames(observations, every)
    if isinstance(environment, GridWorld):
        return drawings.gridworld_frames(environment.rows, observations[::every])
    # the beginning of a game at its own speed is worth more than all of it at ten times that
    image = len(environment.observation_shape) == 3
    return drawings.channel_frames(observations[:MOST_FRAMES]) if image else None


def sample(view: Any, request: Any) -> None:
    """Writes `request.count` greedy episodes as episode<k>.gif and their numbers as episodes.json."""
    import json

    from experiments.sample import MOST_SAMPLES
    from jaxdl.reports.page import encode_gif

    task = view.experiment.phases[-1].task
    start = _FIRST_SAMPLE_ROW + MOST_SAMPLES * request.seed % (2**31 - 2 * _FIRST_SAMPLE_ROW)
    found = episodes(view, view.first, request.count, start, request.length)
    rows = []
    for k in range(request.count):
        frames = draw_episode(task.environment, found, k)
        if frames is not None:
            (request.folder / f"episode{k}.gif").write_bytes(encode_gif(frames, 1 / FRAMES_A_SECOND))
        rows.append({"return": float(found["reward"][k].sum()), "length": int(found["length"][k])})
        request.emit(f"episode {k}: return {rows[-1]['return']:.4g} in {rows[-1]['length']} steps\n")
    (request.folder / "episodes.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
