"""The engine's hot path without files, and what it is measured against: the same update compiled by hand.

This file compiles updates itself, which otherwise only the engine does: it is what the engine is compared with.
"""

import functools
import glob
import re
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax

from jaxdl.engine.devices import Layout
from jaxdl.engine.experiment import Phase
from jaxdl.engine.program import Program, stream
from jaxdl.engine.staging import Stager

# how the profiler calls the execution of one program on one CPU device
_EXECUTION = re.compile(r"Executable::ExecuteHelper(OnSingleDevice)?$")


class Engine:
    """Chunks of a phase as the engine's loop dispatches them: stage, `Program.train`, wait. Keeps its State.

    Args:
      phase: what is trained.
      seeds: S, how many seeds train in the one program, from 0 on.
      mode: how: "map", "vmap" or "shard".
      devices: that share each batch; (): one.
    """

    def __init__(self, phase: Phase, seeds: int = 1, mode: str = "map", devices: tuple = ()):
        layout = Layout(seeds_mode=mode, devices=devices or tuple(jax.local_devices()[:1]))
        self.phase, self.program, self.stager = phase, Program(phase, layout, seeds), Stager(layout)
        self.layout, self.start = layout, self._counts(0)
        self.restart()

    def restart(self, first: int = 0) -> None:
        """The State of step 0 of the seeds from `first` on, without compiling anything."""
        self.numbers = tuple(range(first, first + self.program.seeds))
        self.data_keys, self.step_keys = stream(self.numbers, "data", 0), stream(self.numbers, "step", 0)
        self.state = self.layout.place(self.program.init(stream(self.numbers, "init", 0)), self.program.template)
        self.steps = 0

    def __call__(self, steps: int) -> None:
        """One chunk of `steps` updates."""
        source = self.stager.stage(self.phase.source, self.steps, steps, 1 << 30, self.data_keys)
        self.state, _, bad = self.program.train(
            self.state,
            self.program.zero_sums(),
            source,
            self.data_keys,
            self.step_keys,
            self.start,
            self._counts(steps),
        )
        self.steps += steps
        self.program.host_bad(bad)

    def evaluate(self, source: Any) -> dict[str, np.ndarray]:
        """Means [S] of the task's metrics over all of `source`."""
        placed = self.stager.evaluation(source)
        sums = self.program.evaluate(self.state, placed, stream(self.numbers, "evaluation", 0))
        return {name: np.asarray(mean.total) / np.asarray(mean.count) for name, mean in sums.items()}

    def _counts(self, value: int) -> np.ndarray:
        return np.full((self.program.seeds,), value, np.int32)


def trained(engine: Engine, steps: int, case: str, traces: str, seed: int = 0) -> float:
    """Seconds in which a fresh engine trains from its beginning in one chunk, its program compiled before.

    Args:
      engine: of one phase.
      steps: of the chunk.
      case, traces: see `bench_profile.trace`; "": no trace.
      seed: the first of the engine's.
    """
    from experiments.bench_profile import trace

    engine(1)
    if traces:
        trace(engine, traces, case)
    engine.restart(seed)
    began = time.perf_counter()
    engine(steps)
    return time.perf_counter() - began


def products_per_second(size: int = 2048, seconds: float = 0.5) -> float:
    """FLOP/s of the fastest of some float32 products of two square matrices, as many as fit into `seconds`."""
    product, one = jax.jit(jax.numpy.matmul), jax.numpy.ones((size, size), jax.numpy.float32)
    product(one, one).block_until_ready()
    end, best = time.perf_counter() + seconds, float("inf")
    while True:
        began = time.perf_counter()
        product(one, one).block_until_ready()
        best = min(best, time.perf_counter() - began)
        if time.perf_counter() > end:
            return 2.0 * size**3 / best


class _ByHand:
    """A phase's State and keys for one seed, without the engine's leading axis of seeds."""

    def __init__(self, phase: Phase):
        self.source = phase.source
        self.task = phase.task
        hyper = {name: jax.numpy.float32(value) for name, value in phase.hyper.items()}
        self.state = jax.jit(self.task.init)(jax.random.key(0), hyper)
        self.keys = (jax.random.key(1), jax.random.key(2))

    def update(self, state: Any, source: Any, data_key: Any, step_key: Any) -> tuple[Any, Any]:
        """One update and its metrics."""
        batch = source.batch(state.step, data_key)
        state, metrics = self.task.step(state, batch, jax.random.fold_in(step_key, state.step))
        return state.replace(step=state.step + 1), metrics


class Scan(_ByHand):
    """The same updates as one jitted, donated `lax.scan` of fixed length that returns each step's metrics."""

    def __init__(self, phase: Phase):
        super().__init__(phase)
        self.program = jax.jit(self._train, static_argnums=4, donate_argnums=0)

    def _train(self, state, source, data_key, step_key, steps):
        def body(state, _):
            return self.update(state, source, data_key, step_key)

        return lax.scan(body, state, None, length=steps)

    def __call__(self, steps: int) -> None:
        """`steps` updates in one program."""
        self.state, metrics = self.program(self.state, self.source, *self.keys, steps)
        jax.block_until_ready(metrics)


class OneByOne(_ByHand):
    """The same updates, each a jitted, donated program of its own, dispatched without waiting for the one before."""

    def __init__(self, phase: Phase):
        super().__init__(phase)
        self.program = jax.jit(self.update, donate_argnums=0)

    def __call__(self, steps: int) -> None:
        """`steps` programs."""
        metrics = None
        for _ in range(steps):
            self.state, metrics = self.program(self.state, self.source, *self.keys)
        jax.block_until_ready(metrics)


def executions(run: Callable[[], Any]) -> int:
    """How many compiled programs one device executes during `run`, as JAX's profiler counts them (CPU only).

    Raises:
      LookupError: this version of JAX does not tell.
    """
    probe = jax.jit(lambda x: x + 1).lower(1.0).compile()
    argument = jax.numpy.float32(1.0)
    if _traced(functools.partial(_three_times, probe, argument)) != 3:
        raise LookupError("the profiler of this JAX does not show executions under a name that is known here")
    return _traced(run)


def _three_times(program: Any, argument: Any) -> None:
    for _ in range(3):
        jax.block_until_ready(program(argument))


def _traced(run: Callable[[], Any]) -> int:
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            run()
        files = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
        planes = [plane for file in files for plane in jax.profiler.ProfileData.from_file(file).planes]
    return sum(bool(_EXECUTION.search(event.name)) for plane in planes for line in plane.lines for event in line.events)
