"""`bench --suite=gpu`: what a GPU must reach, in one command of at most ten minutes.

Each case runs in a process of its own (`experiments.bench_job`), because each may fill the memory, and is stopped at its
limit. XLA tries fewer kernels than by default (`backend.QUICK_TUNING`): ResNet-50 alone takes 100 s to compile even so. With
`tiny` every case runs at toy size on any device, which shows that it works and measures nothing.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.bench_airbench import airbench
from experiments.bench_measure import Bar, Result, Skipped, alternate, ratios, seconds_per_step, steps_for
from experiments.bench_process import job
from jaxdl.errors import UserError

REPEATS = 5
# a case that would have less time than this is not begun
LEAST = 15.0
ENDLESS = 1 << 30
# scores of GPT-2 with those that no token has, as in nanoGPT: a multiple of 64
PADDED = 50304


@dataclass(frozen=True)
class Case:
    """One case.

    Attributes:
      measure: (tiny, repeats, seconds, folder of a trace or "") -> what it found; runs in a process of its own.
      limit: seconds after which it is stopped.
    """

    measure: Callable[[bool, int, float, str], Result]
    limit: float


def run(
    cases: tuple[str, ...], repeats: int, seconds: float, budget: float, tiny: bool = False, traces: str = ""
) -> Iterator[Result | Skipped]:
    """Measures the cases, in the order of CASES, as long as there is time.

    Args:
      cases: names out of CASES.
      repeats: measurements of each; 0: REPEATS.
      seconds: about how long one takes.
      budget: seconds for all together; no case begins, and none goes on, after that.
      tiny: toy sizes.
      traces: folder for profiles; "": none.
    """
    end = time.monotonic() + budget
    for case in cases:
        left = end - time.monotonic()
        if left < min(LEAST, budget / 2):
            yield Skipped(case, f"no time left of the budget of {budget:.0f} s (--budget)")
            continue
        arguments = {"case": case, "tiny": tiny, "repeats": repeats or REPEATS, "seconds": seconds, "traces": traces}
        try:
            found = job("bench_gpu:measured", arguments, timeout=min(left, MEASURES[case].limit))
            yield Result.from_json(found)
        except UserError as error:
            yield Skipped(case, str(error))


def measured(case: str, tiny: bool, repeats: int, seconds: float, traces: str = "") -> dict[str, Any]:
    """One case, measured in this process, as plain values."""
    found = MEASURES[case].measure(tiny, repeats, seconds, traces)
    # toys reach or miss nothing
    return (dataclasses.replace(found, bar=None, what=f"toy of: {found.what}") if tiny else found).to_json()


# --- training of one network --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Training:
    """Training of one network at one batch size.

    Attributes:
      phase: what is trained.
      items: of one step.
      flops: of one step, of the model.
    """

    phase: Any
    items: int
    flops: float


def _resnet50(tiny: bool, batch: int) -> Training:
    from experiments.mfu import network_flops
    from jaxdl.data.augment import Transform
    from jaxdl.data.source import Resident
    from jaxdl.models.resnet import ImageNetResNet
    from jaxdl.optimizers import OptimizerConfig
    from jaxdl.tasks.classification import classification

    size, classes, examples = (8, 10, 16) if tiny else (224, 1000, 2048)
    model = ImageNetResNet(50, classes, 4, (1,)) if tiny else ImageNetResNet(50, classes)
    generator = np.random.default_rng(0)
    arrays = {
        "image": generator.integers(0, 256, (examples, size, size, 3), np.uint8),
        "label": generator.integers(0, classes, examples, np.int32),
    }
    source = Resident.of(arrays, batch, shuffle=True, transform=Transform((0.45,), (0.25,)))
    config = OptimizerConfig(name="momentum", learning_rate=0.1, momentum=0.9, l2=1e-4)
    shape = (size, size, 3)
    phase = _phase(classification, model, config, source, {"label_smoothing": 0.1}, example=shape)
    return Training(phase, batch, batch * network_flops(model, shape))


def _gpt2(fused: bool, padded: bool, tiny: bool, batch: int) -> Training:
    from experiments.mfu import transformer_flops
    from jaxdl.data.text_source import Windows
    from jaxdl.models.gpt2 import CONTEXT, VOCABULARY, gpt2
    from jaxdl.models.transformer import Shape, TransformerLM
    from jaxdl.optimizers import OptimizerConfig
    from jaxdl.tasks.language_modelling import language_modelling

    model = (
        TransformerLM(64, 16, Shape(8, 2, fused=fused), 1)
        if tiny
        else gpt2("124M", fused=fused, vocabulary=PADDED if padded else VOCABULARY)
    )
    length, vocabulary, tokens = (16, 64, 2000) if tiny else (CONTEXT, VOCABULARY, 2_000_000)
    text = np.random.default_rng(0).integers(0, vocabulary, tokens, np.uint16)
    config = OptimizerConfig(name="adamw", learning_rate=6e-4, beta2=0.95, weight_decay=0.1, clip_norm=1.0)
    source = Windows.of(text, batch, length)
    phase = _phase(language_modelling, model, config, source, {}, batch_size=batch, length=length)
    # rows that are there for the matrices' size alone do not count
    idle = 0 if tiny else model.vocabulary - VOCABULARY
    weights = _parameters(phase) - (length + idle) * model.shape.features
    flops = transformer_flops(weights, model.layers, model.shape.features, length)
    return Training(phase, batch * length, batch * length * flops)


def _phase(kind: Callable[..., Any], model: Any, config: Any, source: Any, hyper: Mapping, **about: Any) -> Any:
    """An endless phase that computes in bfloat16."""
    import jax.numpy as jnp

    from jaxdl.engine.experiment import Phase
    from jaxdl.optimizers import hyper_parameters, make_optimizer

    task = kind(model, make_optimizer(config, 1), **about, dtype=jnp.bfloat16)
    return Phase("train", task, source, steps=ENDLESS, hyper={**hyper_parameters(config), **hyper})


def _parameters(phase: Any) -> int:
    import jax

    state = jax.eval_shape(phase.task.init, jax.random.key(0), dict(phase.hyper))
    return sum(leaf.size for net in state.nets.values() for leaf in jax.tree.leaves(net.params))


def largest(forms: Mapping[str, Callable[[int], Training]], batches: tuple[int, ...]) -> tuple[str, int, Training, Any]:
    """The first form at the largest batch that the device can train: its name, the batch, the training, its engine.

    Raises:
      UserError: none can be trained; the last reason.
    """
    from experiments.bench_loops import Engine

    reason = ""
    for name, make in forms.items():
        for batch in batches:
            try:
                training = make(batch)
                engine = Engine(training.phase)
                engine(1)
                return name, batch, training, engine
            except Exception as error:  # of JAX's own types: no memory, no such kernel
                reason = " ".join(str(error).split())[:200]
                if "RESOURCE_EXHAUSTED" not in reason:
                    break  # a smaller batch will not help
    raise UserError(f"cannot be trained here: {reason}")


def network(
    case: str,
    what: str,
    kind: str,
    bar: Bar,
    items: str,
    forms: Mapping[str, Callable[[bool, int], Training]],
    batches: tuple[int, ...],
    tiny: bool,
    repeats: int,
    seconds: float,
    traces: str,
) -> Result:
    """Training throughput of one network: items a second, MFU, memory."""
    import jax

    from experiments.bench_profile import trace
    from experiments.mfu import mfu, peak

    made = {name: functools.partial(make, tiny) for name, make in forms.items()}
    form, batch, training, engine = largest(made, (4,) if tiny else batches)
    device = jax.local_devices()[0]
    steps = steps_for(engine, seconds, 1000)
    took = [seconds_per_step(engine, steps) for _ in range(repeats)]
    if traces:
        trace(engine, traces, case)
    found = peak(device, seconds=0.1)
    shares = [mfu(training.flops, each, found) for each in took]
    rates = [training.items / each for each in took]
    if kind == "mfu" and found is None:
        raise UserError(f"no peak is known of {device.device_kind}: add it to experiments/mfu.py")
    facts: dict[str, Any] = {
        "form": form,
        "batch": batch,
        f"{items} a second": float(np.median(rates)),
        "FLOPs a step": training.flops,
        "seconds to compile, or to read compiled programs": engine.program.compile_seconds,
        "parameters": _parameters(training.phase),
        **memory_facts(device),
    }
    if found:
        facts |= {"MFU": float(np.median(np.asarray(shares, float))), "peak FLOP/s": found.flops, "peak": found.source}
    values: Any = shares if kind == "mfu" else rates
    return Result(case, what, kind, values, bar, {"jaxdl": took}, "seconds a step", facts=facts)


def memory_facts(device: Any) -> dict[str, float]:
    """What the device says of its memory; nothing on a CPU."""
    stats = device.memory_stats() or {}
    return {"peak memory GiB": round(stats["peak_bytes_in_use"] / 2**30, 2)} if "peak_bytes_in_use" in stats else {}


def resnet50(tiny: bool, repeats: int, seconds: float, traces: str) -> Result:
    """ResNet-50 on synthetic images."""
    return network(
        "resnet50/bfloat16",
        "ResNet-50 (v1.5) on synthetic images of 224x224, bfloat16, SGD with momentum: images a second",
        "rate",
        Bar(4000.0),
        "images",
        {"plain": _resnet50},
        (256, 128, 64),
        tiny,
        repeats,
        seconds,
        traces,
    )


def gpt2_124m(tiny: bool, repeats: int, seconds: float, traces: str) -> Result:
    """GPT-2 124M on random tokens."""
    return network(
        "gpt2/bfloat16",
        "GPT-2 124M on rows of 1,024 tokens, bfloat16, AdamW: MFU",
        "mfu",
        Bar(0.45),
        "tokens",
        {
            "fused attention, 50,304 scores": functools.partial(_gpt2, True, True),
            "plain attention, 50,257 scores": functools.partial(_gpt2, False, False),
        },
        (64, 32, 16, 8, 4),
        tiny,
        repeats,
        seconds,
        traces,
    )


# --- many seeds ---------------------------------------------------------------------------------------------------------


def ppo_seeds(tiny: bool, repeats: int, seconds: float, traces: str) -> Result:
    """PPO on CartPole, 1024 seeds in one program, trained to the end."""
    del repeats, seconds
    from experiments.agents import ppo_experiment
    from experiments.bench_loops import Engine, trained
    from experiments.recipes.cartpole_ppo import Config

    config, seeds = Config(), 2 if tiny else 1024
    if tiny:
        small = dataclasses.replace(config.train, steps=2, batch_size=2, eval_batch_size=2)
        agent = dataclasses.replace(config.agent, rollout=2, epochs=1, minibatches=1)
        config = dataclasses.replace(config, train=small, agent=agent)
    phase = ppo_experiment(config).phases[0]
    engine = Engine(phase, seeds, "vmap")
    took = trained(engine, config.train.steps, "ppo/seeds", traces)
    items = seeds * phase.task.items_per_step * config.train.steps
    facts = {"seeds": seeds, "updates": config.train.steps, "seconds to the end": took}
    facts["seconds to compile, or to read compiled programs"] = engine.program.compile_seconds
    if not tiny:
        returns = engine.evaluate(phase.evaluations["validation"])["return"]
        facts |= {"mean return": float(returns.mean()), "seeds at 475 or more": int((returns >= 475).sum())}
    what = f"PPO on CartPole (cartpole_ppo), {seeds:,} seeds in one program, to the end: environment steps a second"
    return Result("ppo/seeds", what, "rate", [items / took], None, {"jaxdl": [took]}, "seconds", facts=facts)


def seeds_of(name: str, tiny: bool, repeats: int, seconds: float, traces: str) -> Result:
    """A step of 32 seeds in one program against a step of one."""
    from experiments.bench_cpu import WORKLOADS, phase_of
    from experiments.bench_loops import Engine
    from experiments.bench_profile import trace

    case = f"seeds/{'mlp' if name.startswith('mlp') else name}"
    seeds, workload = 2 if tiny else 32, WORKLOADS[name]
    if tiny:
        workload = dataclasses.replace(workload, examples=64, batch=8, image=(8, 8, 1))
    phase = phase_of(workload)
    runs = {"seeds": Engine(phase, seeds, "vmap"), "one": Engine(phase)}
    steps = {side: steps_for(engine, seconds, 4000) for side, engine in runs.items()}
    sides = {side: functools.partial(seconds_per_step, engine, steps[side]) for side, engine in runs.items()}
    found = alternate(sides, repeats)
    if traces:
        trace(runs["seeds"], traces, case)
    return Result(
        case,
        f"{workload.title}: time of a step of {seeds} seeds in one program over that of one seed",
        "share",
        ratios(found["seeds"], found["one"]),
        Bar(4.0, at_least=False),
        found,
        "seconds a step",
        facts={"seeds": seeds, "steps": steps},
    )


def _lenet5_seeds(*arguments: Any) -> Result:
    return seeds_of("lenet5", *arguments)


def _mlp_seeds(*arguments: Any) -> Result:
    return seeds_of("mlp_512", *arguments)


MEASURES = {
    "resnet50/bfloat16": Case(resnet50, 200.0),
    "gpt2/bfloat16": Case(gpt2_124m, 150.0),
    "airbench/cifar10": Case(airbench, 120.0),
    "ppo/seeds": Case(ppo_seeds, 120.0),
    "seeds/lenet5": Case(_lenet5_seeds, 90.0),
    "seeds/mlp": Case(_mlp_seeds, 90.0),
}
CASES = tuple(MEASURES)
