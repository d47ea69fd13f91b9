"""What the engine trains: the protocols of a task and a source, and the phases that make an experiment."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax

from jaxdl.engine.state import Mean, State
from jaxdl.settings import setting

Array = jax.Array
Metrics = dict[str, Mean]


@dataclass(frozen=True)
class Serving:
    """What `export` writes of a task: a pure function of a State of one seed.

    Attributes:
      call: (state, inputs name -> [B, ...]) -> outputs name -> [B, ...].
      inputs: name -> shape and type of one example [...].
    """

    call: Callable[[State, dict[str, Array]], dict[str, Array]]
    inputs: Mapping[str, jax.ShapeDtypeStruct]


class Task(Protocol):
    """A few pure functions over one State. `axis` is pmap's axis name inside the program, None elsewhere.

    A task may also have
      `probe(state, batch, key) -> Metrics`: diagnostics of one training batch (gradient norms), run at each evaluation;
      `predict(state, batch) -> dict[str, Array]`: outputs [B, ...] for evaluate, predict and the report;
      `serving() -> Serving`: what `export` writes in the place of `predict`, where that plays, judges or measures;
      `items_per_step`: how many items one step handles, where they are not the rows of a batch;
      `partition_rules(parts) -> Rules`: which parameters `parts` devices share (`jaxdl.engine.devices.Layout.rules`); a
        UserError where so many cannot, () where none can.
    """

    @property
    def axis(self) -> str | None:
        """pmap's axis name, set by the engine."""
        ...

    def init(self, key: Array, hyper: Mapping[str, Array]) -> State:
        """The first state. `key` is used for the parameters; `hyper` are float32 scalars to be kept in the state."""
        ...

    def step(self, state: State, batch: Any, key: Array) -> tuple[State, Metrics]:
        """One update. The engine counts `state.step`; noise is keyed per example from `key` and the rows' numbers."""
        ...

    def evaluate(self, state: State, batch: Any, key: Array) -> tuple[State, Metrics]:
        """`step`'s type, so that one loop serves both; what it carries in the state is thrown away at the end."""
        ...

    def for_evaluation(self, state: State) -> State:
        """The state that is judged: averaged parameters, a fresh carry, reset environments."""
        ...


class Source(Protocol):
    """A pytree of arrays that gives batch `step` as a pure function of (key, step)."""

    batch_size: int
    num_batches: int

    def batch(self, step: Array, key: Array, shard: Array | int = 0, shards: int = 1) -> Any:
        """Shard `shard` of `shards` of the global batch; a dict with at least "mask" [B] and "row" [B]."""
        ...

    def stage(self, step: int, count: int, key: Array) -> "Source":
        """What the program needs for `count` steps from `step` on: itself, if its data lies on the device."""
        ...


@dataclass(frozen=True)
class TrainConfig:
    """How long to train and how often to look."""

    steps: int = setting(1000, "updates to make (of the last phase, where there are several)", minimum=0)
    batch_size: int = setting(64, "examples in one update, over all devices", minimum=1)
    eval_batch_size: int = setting(256, "examples in one step of evaluation", minimum=1)
    accumulate: int = setting(1, "micro-batches that one update is accumulated from", minimum=1)
    log_every: int = setting(50, "steps between two rows of training metrics", minimum=1)
    eval_every: int = setting(200, "steps between two evaluations on the validation split", minimum=1)
    checkpoint_every: int = setting(500, "steps between two checkpoints", minimum=1)
    patience: int = setting(0, "evaluations without improvement after which training stops; 0: never", minimum=0)


@dataclass(frozen=True)
class Phase:
    """One stretch of training with one task and one source.

    Attributes:
      name: as it stands in metrics.jsonl.
      task: see Task.
      source: training batches; None where the task makes its own (reinforcement learning).
      steps: the most updates this phase makes.
      hyper: initial values of the state's hyper-parameters: a number, or one for each row that trains in one program.
      evaluations: validation data of this phase by split name.
      objective: (metric "<split>/<name>", "min" or "max") by which best and patience are judged; None: no best.
      patience: evaluations without improvement after which the phase ends; 0: never.
      stop: further rule: gets the phase's evaluations so far, a list of {"<split>/<name>": value}; True ends the phase.
      transfer: (state at the end of the phase before, fresh state, key) -> this phase's first state. The state before
        is the best one where that phase had an objective and its experiment reports "best".
      initial: "<net>/params/<path>" -> array [...]: parameters (and statistics) to start from where name and shape fit.
    """

    name: str
    task: Any
    source: Any
    steps: int
    hyper: Mapping[str, Any] = field(default_factory=dict)
    evaluations: Mapping[str, Any] = field(default_factory=dict)
    objective: tuple[str, str] | None = None
    patience: int = 0
    stop: Callable[[list[dict[str, float]]], bool] | None = None
    transfer: Callable[[State, State, Array], State] | None = None
    initial: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Experiment:
    """All that one run needs; a recipe's `build(config)` makes it.

    Attributes:
      name: the recipe's name.
      phases: trained one after another.
      train: how often to log, evaluate and save.
      reported: "best" (by the last phase's objective) or "last": the parameters that a run is judged by.
      final: splits evaluated once, at the end, with the reported parameters.
      judge: (`jaxdl.engine.judged.Judged`: one seed's reported networks) -> {"<split>/<name>": value}: what cannot be
        summed over batches in the program (exact likelihood, BLEU, Fréchet distance, Elo). Called on the host once a
        seed, after `final`, and by `evaluate`; its metrics join those of the record.
      data: {"name", "version", "fingerprint"} of the data set.
      items: what one example is called in items per second ("images", "characters").
      report: view of a finished run -> list of report sections; None: only curves and tables.
      read_input: a user's file -> arrays of one example, or a list of (name, arrays) of several, for `predict`.
      input_source: what `read_input` returns -> a source of its rows, where one file is many (the windows of a text);
        `show` then gets the outputs of all rows.
      show: outputs of `Task.predict` for one example -> {"label", "confidence", ...}, for `predict`.
      sample: (view of a finished run, request) -> None: writes new samples, for `sample`.
      check: -> baselines to beat, a list of (name, value, comment), for `--check`.
      expected_loss: of a network that knows nothing (ln C for C classes), for `--check`.
      ensemble: view of a run over seeds -> metrics of the averaged prediction, for `evaluate`.
      facts: further lines of the run's header.
      steps_may_grow: whether a finished run may be continued with more steps (no schedule depends on them).
    """

    name: str
    phases: tuple[Phase, ...]
    train: TrainConfig
    reported: str = "best"
    final: Mapping[str, Any] = field(default_factory=dict)
    judge: Callable[[Any], Mapping[str, float]] | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    items: str = "examples"
    report: Callable[[Any], list] | None = None
    read_input: Callable[[str], Any] | None = None
    input_source: Callable[[dict], Any] | None = None
    show: Callable[[dict], dict] | None = None
    sample: Callable[[Any, Any], None] | None = None
    check: Callable[[], list] | None = None
    expected_loss: float | None = None
    ensemble: Callable[[Any], dict[str, float]] | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    steps_may_grow: bool = True
