"""The compiled programs of one phase: initialise, train K steps, evaluate a split, probe, predict.

A task is written for one seed and one device. Here its functions are composed: loop (K steps in one program, K traced,
so that any partition of a run into chunks gives the same bits with one compilation), map, vmap or shard (seeds), jit
with shardings or pmap (devices), donation.
"""

import dataclasses
import functools
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from jaxdl.engine import processes
from jaxdl.engine.devices import AXIS, Layout
from jaxdl.engine.evaluation import evaluate_streamed
from jaxdl.engine.executables import Executables, compile_lowered
from jaxdl.engine.experiment import Phase
from jaxdl.engine.side_by_side import SideBySide
from jaxdl.engine.state import Mean, State
from jaxdl.engine.transfer import adopt, judged_nets, with_nets
from jaxdl.target import target_platform

# bytes of parameters: up to _TINY of each seed, and of all seeds together
_TINY, _SMALL = 65_536, 1 << 26
# XLA compiles without Python's lock
_TRAINING, _EVALUATIONS = ThreadPoolExecutor(1, "compile"), ThreadPoolExecutor(1, "compile")
# programs that only copy
_COPIES = ("best", "judged")
STREAMS = ("init", "data", "step", "evaluation", "transfer")


def stream(seeds: tuple[int, ...], kind: str, phase: int) -> np.ndarray:
    """Key data [S, 2] of one of the engine's key streams: a pure function of seed, kind and phase."""

    def one(seed):
        key = jax.random.fold_in(jax.random.key(seed), STREAMS.index(kind))
        return np.asarray(jax.random.key_data(jax.random.fold_in(key, phase)))

    return np.stack([one(seed) for seed in seeds])


class Program:
    """What runs on the devices for one phase and a number of seeds; compiles each function once."""

    def __init__(self, phase: Phase, layout: Layout, seeds: int, executables: Executables | None = None):
        self.phase, self.layout, self.seeds = phase, layout, seeds
        self.executables = Executables() if executables is None else executables
        self.task = phase.task
        self.device_task = dataclasses.replace(phase.task, axis=layout.axis) if layout.axis else phase.task
        self.compile_seconds = 0.0
        self.flops_per_step: float | None = None
        self._compiled: dict = {}
        self._ahead: dict[Any, Future] = {}

    # --- public: each takes and returns stacked values -------------------------------------------------------------

    @functools.cached_property
    def template(self) -> State:
        """Shapes and types of the State, [S, ...]."""
        keys = jax.ShapeDtypeStruct((self.seeds, 2), jnp.uint32)
        made = functools.partial(jax.eval_shape, self._init, keys, self.hyper())
        return self.executables.once(self.phase, ("template", self.seeds), made)

    @functools.cached_property
    def metric_names(self) -> tuple[str, ...]:
        """What a step measures, sorted."""
        one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), self.template)
        return self.executables.once(self.phase, "metrics", lambda: self._metric_names(one))

    def hyper(self) -> dict:
        """The phase's hyper-parameters, [S] float32 each."""
        values = {name: np.asarray(value, np.float32) for name, value in self.phase.hyper.items()}
        return {name: jax.device_put(np.broadcast_to(value, (self.seeds,)).copy()) for name, value in values.items()}

    def text(self) -> str:
        """The training program as XLA gets it: alike in phases that differ only in values of the State.

        "" where its source is read by the host: then it is compared with nothing.
        """
        if getattr(self.phase.source, "streamed", False):
            return ""
        keys, counts = np.zeros((self.seeds, 2), np.uint32), np.zeros(self.seeds, np.int32)
        arguments = (self.template, self.zero_sums(), self.phase.source, keys, keys, counts, counts)
        return self._build_train().lower(*arguments).as_text()

    def init(self, keys: np.ndarray) -> State:
        """A fresh canonical State from key data [S, 2]."""
        return self.call("init", lambda: jax.jit(self._init), (jax.device_put(keys), self.hyper()))

    def zero_sums(self) -> dict[str, Mean]:
        """Empty metric sums, [S] each, on the devices."""
        zeros: Any = np.zeros(self.seeds, np.float32)
        return self.device_sums({name: Mean(zeros, zeros) for name in self.metric_names})

    def host_sums(self, sums: dict[str, Mean]) -> dict[str, Mean]:
        """Sums as host arrays [S]."""
        return jax.tree.map(lambda leaf: np.asarray(leaf)[0] if self.layout.axis else np.asarray(leaf), sums)

    def device_sums(self, sums: dict[str, Mean]) -> dict[str, Mean]:
        """The opposite of `host_sums`."""
        return self.layout.place_sums(sums)

    def train(self, state, sums, source, data_keys, step_keys, start, counts):
        """`counts` [S] updates from a placed State, which is donated.

        Returns:
          State, sums with the steps' metrics added, and the first step [S] whose metrics were not finite (or -1).
        """
        common = self.layout.place_common((data_keys, step_keys, start, counts))
        return self.call("train", self._build_train, (state, sums, source, *common))

    def compile_train(self, arguments: tuple) -> jax.stages.Compiled:
        """The program behind `train` for described arguments (shapes, types, shardings), for `jaxdl.engine.ahead`."""
        return self._compile(self._build_train().lower(*arguments))

    @property
    def train_program(self) -> jax.stages.Compiled | None:
        """The compiled program behind `train`, once it has run."""
        return self._compiled.get("train")

    def host_bad(self, bad) -> np.ndarray:
        """`train`'s third value as a host array [S]; waits for it."""
        return np.asarray(bad)[0] if self.layout.axis else np.asarray(bad)

    def train_ahead(self, source, data_keys, step_keys, start) -> None:
        """Compiles `train` for a placed source while the first State is made, which is only described."""
        # on a GPU compilation tries kernels, and two at once would disturb each other
        if self.layout.meshed or self.layout.seeds_mode == "shard" or target_platform() != "cpu":
            return
        placed = SingleDeviceSharding(self.layout.devices[0])
        state = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed), self.template)
        common = self.layout.place_common((data_keys, step_keys, start, np.zeros(self.seeds, np.int32)))
        self._compile_ahead(_TRAINING, "train", self._build_train, (state, self.zero_sums(), source, *common))

    def evaluate(self, state, source, keys) -> dict[str, Mean]:
        """Metric sums [S] over all of `source` with the State that is judged."""
        if getattr(source, "streamed", False):
            return evaluate_streamed(self, state, source, keys)
        return self.host_sums(self.call(*self._evaluation(state, source, keys)))

    def evaluate_ahead(self, state, sources, keys) -> None:
        """Compiles what `evaluate` will need, for each source, while other programs are compiled and run."""
        for source in sources:
            if not getattr(source, "streamed", False):
                self._compile_ahead(_EVALUATIONS, *self._evaluation(state, source, keys))

    def _compile_ahead(self, thread, name, build, arguments) -> None:
        # several processes, and pmap's devices, must meet each other's programs in one order
        if processes.count() > 1 or self.layout.axis or name in self._compiled or name in self._ahead:
            return
        described = jax.tree.map(_described, arguments)
        self._ahead[name] = thread.submit(self._executable, name, build, described)

    def probe(self, state, source, data_keys, keys, start) -> dict[str, Mean]:
        """The task's diagnostics on the batch that comes next."""
        common = self.layout.place_common((data_keys, keys, start))
        return self.host_sums(self.call("probe", self._build_probe, (state, source, *common)))

    def best(self, best, state, improved):
        """The judged networks {name: {"params", "stats"}} of the seeds where `improved` [S], `best` elsewhere."""
        if best is None:
            best = judged_nets(state)
        return self.call("best", self._build_best, (best, state, self.layout.place_common(improved)))

    def judged(self, state, best):
        """`state` with the networks of `best`."""
        return self.call("judged", self._build_judged, (state, best))

    def _evaluation(self, state, source, keys) -> tuple:
        common = self.layout.place_common((keys, np.int32(source.num_batches)))
        shapes = tuple((leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(source))
        return ("evaluate", jax.tree.structure(source), shapes), self._build_evaluate, (state, source, *common)

    def give_up(self) -> None:
        """Compiles nothing more ahead: the run ends here."""
        for future in self._ahead.values():
            future.cancel()

    # --- one seed, one device --------------------------------------------------------------------------------------

    @functools.cached_property
    def _update(self):
        # as a program of its own it is traced once, however often it is looked at; XLA takes it into the one around it
        step = self.device_task.step
        return self.executables.once(self.phase, ("update", self.layout.axis), lambda: jax.jit(step))

    def _init(self, keys, hyper):
        def one(args):
            return adopt(self.task.init(jax.random.wrap_key_data(args[0]), args[1]), self.phase.initial)

        return lax.map(one, (keys, hyper))

    def _metric_names(self, state) -> tuple[str, ...]:
        key = jax.random.key(0)
        source = self.phase.source
        staged = None if source is None else source.stage(0, 1, key)

        def trace(state):
            batch = None if staged is None else staged.batch(jnp.int32(0), key)
            return (self.task.step if self.layout.axis else self._update)(state, batch, key)[1]

        return tuple(sorted(jax.eval_shape(trace, state)))

    def _batch(self, source, step, key):
        if source is None:
            return None
        shard = lax.axis_index(AXIS) if self.layout.axis else 0
        shards = self.layout.shards if self.layout.axis else 1
        read = functools.partial(source.batch, step, key, shard, shards)
        batch = read() if getattr(source, "plain", False) else _apart(read, step >= 0)
        if self.layout.axis:
            return batch
        if self.layout.meshed:
            split = NamedSharding(self.layout.mesh, PartitionSpec(AXIS))
            batch = jax.tree.map(lambda leaf: lax.with_sharding_constraint(leaf, split), batch)
        return batch

    def _sum_devices(self, metrics):
        metrics = {name: metrics[name] for name in sorted(metrics)}
        return lax.psum(metrics, self.layout.axis) if self.layout.axis else metrics

    def _step(self, source, state, sums, bad, data_key, step_key, start):
        step = state.step
        batch = self._batch(source, step - start, jax.random.wrap_key_data(data_key))
        key = jax.random.fold_in(jax.random.wrap_key_data(step_key), step)
        state = state.replace(nets=self.layout.gathered(state.nets))
        state, metrics = self._update(state, batch, key)
        metrics = self._sum_devices(metrics)
        finite = jnp.all(jnp.array([jnp.isfinite(mean.total) for mean in metrics.values()]))
        bad = jnp.where((bad < 0) & ~finite, step, bad)
        return state.replace(step=step + 1), jax.tree.map(jnp.add, sums, metrics), bad

    def _train(self, source, state, sums, data_key, step_key, start, count):
        def body(_, carry):
            state, sums, bad = carry
            return self._step(source, state, sums, bad, data_key, step_key, start)

        return lax.fori_loop(0, count, body, (state, sums, jnp.int32(-1)))

    def evaluate_batch(self, source, state, key, i):
        """Batch `i` of an evaluation, for one seed on one device: the state with its carry, and the metrics."""
        state, metrics = self.device_task.evaluate(state, self._batch(source, i, key), jax.random.fold_in(key, i))
        return state, self._sum_devices(metrics)

    def _evaluate(self, source, state, key_data, count):
        key = jax.random.wrap_key_data(key_data)
        state = self.device_task.for_evaluation(state)

        def body(i, carry):
            state, sums = carry
            state, metrics = self.evaluate_batch(source, state, key, i)
            return state, jax.tree.map(jnp.add, sums, metrics)

        shapes = jax.eval_shape(lambda state: self.evaluate_batch(source, state, key, jnp.int32(0))[1], state)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return lax.fori_loop(0, count, body, (state, zeros))[1]

    def _probe(self, source, state, data_key, key_data, start):
        key = jax.random.fold_in(jax.random.wrap_key_data(key_data), state.step)
        batch = self._batch(source, state.step - start, jax.random.wrap_key_data(data_key))
        return self._sum_devices(self.device_task.probe(state, batch, key))

    # --- seeds and devices -----------------------------------------------------------------------------------------

    def _build_train(self):
        def seeds(state, sums, source, data_keys, step_keys, start, counts):
            if self.layout.seeds_mode == "vmap":
                return self._vmapped_train(state, sums, source, data_keys, step_keys, start, counts)
            per_seed = (state, sums, data_keys, step_keys, start, counts)
            return self.map_seeds(self._train, source, per_seed)

        return self.spread(seeds, placed=3, common=4, donate=(0,), outputs="train")

    def _vmapped_train(self, state, sums, source, data_keys, step_keys, start, counts):
        # step stays one scalar: a batched one would turn each cond of a task into a select
        axes: Any = State(step=None, nets=0, local=0, hyper=0, extra=0)  # type: ignore[arg-type]
        source_axis = None if self._shared(source) else 0
        step = jax.vmap(self._step, in_axes=(source_axis, axes, 0, 0, 0, 0, None), out_axes=(axes, 0, 0))
        first = state.replace(step=state.step[0])

        def body(_, carry):
            state, sums, bad = carry
            return step(source, state, sums, bad, data_keys, step_keys, start[0])

        bad = jnp.full((self.seeds,), -1, jnp.int32)
        state, sums, bad = lax.fori_loop(0, counts.max(), body, (first, sums, bad))
        return state.replace(step=jnp.broadcast_to(state.step, (self.seeds,))), sums, bad

    def _build_evaluate(self):
        def seeds(state, source, keys, count):
            return self.map_seeds(functools.partial(self._evaluate, count=count), source, (state, keys), shared=True)

        return self.spread(seeds, placed=2, common=2)

    def _build_probe(self):
        def seeds(state, source, data_keys, keys, start):
            return self.map_seeds(self._probe, source, (state, data_keys, keys, start))

        return self.spread(seeds, placed=2, common=3)

    def _build_best(self):
        def one(_, best, state, improved):
            judged = self.device_task.for_evaluation(state)
            return jax.tree.map(functools.partial(jnp.where, improved), judged_nets(judged), best)

        def seeds(best, state, improved):
            return self.map_seeds(one, None, (best, state, improved), shared=True)

        return self.spread(seeds, placed=2, common=1, outputs="best")

    def _build_judged(self):
        return self.spread(with_nets, placed=2, common=0, outputs="state")

    def _shared(self, source) -> bool:
        return source is None or not getattr(source, "per_seed", False)

    def map_seeds(self, function, source, per_seed, shared=None):
        """`function(source, *one seed)` for each of a device's seeds, one after another."""
        if shared is None:
            shared = self._shared(source)

        if shared:
            return lax.map(lambda args: function(source, *args), per_seed)
        return lax.map(lambda args: function(*args), (source, *per_seed))

    def spread(self, function, *, placed: int, common: int, donate=(), outputs="sums"):
        """Compiles for the layout a function of `placed` arguments on the devices and `common` ones alike everywhere."""
        layout = self.layout
        if layout.axis:
            axes = (0,) * placed + (None,) * common
            return jax.pmap(function, AXIS, in_axes=axes, donate_argnums=donate, devices=list(layout.devices))
        if layout.seeds_mode == "shard":
            return SideBySide(function, layout.seed_mesh, donate)
        if not layout.meshed:
            return jax.jit(function, donate_argnums=donate)
        whole, state = NamedSharding(layout.mesh, PartitionSpec()), layout.shardings(self.template)
        found = {"sums": whole, "train": (state, whole, whole), "part": (state, whole), "state": state}
        out = {**found, "best": judged_nets(state)}[outputs]
        return jax.jit(function, donate_argnums=donate, out_shardings=out)

    def _compile(self, lowered, name=""):
        params = [jax.tree.leaves(net.params) for net in self.template.nets.values()]
        size = sum(leaf.size * leaf.dtype.itemsize for leaves in params for leaf in leaves)
        quickly = name == "probe" or (name in _COPIES and size <= _SMALL)
        return compile_lowered(lowered, in_turn=size <= _TINY * self.seeds, quickly=quickly)

    def _executable(self, name, build, args):
        leaves, structure = jax.tree.flatten(args)
        described = tuple((leaf.shape, leaf.dtype, leaf.sharding) for leaf in leaves)
        compile = functools.partial(self._compile, name=name)

        def make():
            return self.executables.compiled(build().lower(*args), self.layout.devices, compile)

        return self.executables.once(self.phase, (name, self.layout, self.seeds, structure, described), make)

    def call(self, name, build, args):
        """What the program `name` makes of `args`; `build()` is called to compile it where that was not done before."""
        if name not in self._compiled:
            began = time.perf_counter()
            found = self._ahead.pop(name).result() if name in self._ahead else self._executable(name, build, args)
            self._compiled[name] = found
            self.compile_seconds += time.perf_counter() - began
        # whatever a program reads was placed before: a hidden copy would be paid again at each chunk
        with jax.transfer_guard("disallow"):
            return self._compiled[name](*args)


def _described(leaf):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _apart(read, always):
    """`read()`, compiled apart from what uses it: a step gives the same bits whatever its source has to do for a batch."""
    if target_platform() != "cpu":
        return lax.optimization_barrier(read())
    # XLA:CPU drops barriers before it fuses; a condition that always holds (and it cannot know that) stays
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(read))
    return lax.cond(always, read, lambda: zeros)


def means(sums: dict[str, Mean], seed_index: int) -> dict[str, float]:
    """Totals divided by counts for one seed, as Python floats; metrics that nothing was counted for are left out."""
    values = {}
    for name, mean in sums.items():
        count = float(np.asarray(mean.count)[seed_index])
        if count:
            values[name] = float(np.asarray(mean.total)[seed_index]) / count
    return values
