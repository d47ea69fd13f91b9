"""One network, one loss, one optimiser: classification, regression and everything else with a target."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxdl.engine.experiment import Metrics
from jaxdl.engine.state import Mean, Net, State
from jaxdl.nn.context import batch_context
from jaxdl.nn.halves import in_halves
from jaxdl.nn.summary import example_inputs
from jaxdl.optimizers import update_ema
from jaxdl.tasks.lookahead import Lookahead

Array = jax.Array
Batch = Mapping[str, Array]
PerExample = Callable[[Any, Batch], Array]
NET = "model"


@dataclass(frozen=True)
class Supervised:
    """Minimises the mean of a per-example loss over the rows that `batch["mask"]` keeps.

    Where rows hold several items (tokens), `weights` counts them, `loss` and `metrics` give each row's sum over its
    items, and every mean is one over items.

    With C the devices, T_c a device's loss total and N_c its count, the gradient is
    sum_c ∇T_c / sum_c N_c: each device differentiates T_c / pmean(N), and gradients are pmean'd once.

    Attributes:
      model: called as `model.apply(variables, batch[inputs], train=...)`; gives the outputs.
      loss: (outputs, batch, hyper) -> [B]; `hyper` holds the state's scalars (label smoothing, ...).
      optimizer: from `jaxdl.optimizers.make_optimizer`.
      example: shape of the input without the batch axis, or one `jax.ShapeDtypeStruct` per input (token numbers).
      metrics: name -> (outputs, batch) -> [B]; averaged like the loss.
      predictions: outputs -> {name: [B, ...]} for evaluate, predict and the report.
      inputs: key of the batch that the model reads, or several, which it gets in this order.
      weights: batch -> [B], how many items a row holds; None: each row is one.
      arguments: hyper-parameters that the model gets by keyword in training (a dropout rate that a sweep varies).
      halves: rows do not mix and the model needs nothing else of the batch, so that on CPU both halves of a batch may be
        trained on side by side (see `jaxdl.nn.halves`).
      dtype: compute dtype of layers that fix none; parameters stay float32.
      accumulate: micro-batches one update is made of; gradients of totals are summed and divided once.
      ema_decay: decay of the parameters' moving average, which is then what is judged; 0: none.
      lookahead: slow weights, which are then what is judged, in the place of a moving average; None: none.
      axis: pmap's axis name, set by the engine.
    """

    model: nn.Module
    loss: Callable[[Any, Batch, Mapping[str, Array]], Array]
    optimizer: optax.GradientTransformationExtraArgs
    example: tuple[Any, ...]
    metrics: Mapping[str, PerExample] = dataclasses.field(default_factory=dict)
    predictions: Callable[[Any], dict[str, Array]] = lambda outputs: {"outputs": outputs}
    inputs: str | tuple[str, ...] = "image"
    weights: Callable[[Batch], Array] | None = None
    arguments: tuple[str, ...] = ()
    halves: bool = False
    dtype: Any = None
    accumulate: int = 1
    ema_decay: float = 0.0
    lookahead: Lookahead | None = None
    axis: str | None = None

    def init(self, key: Array, hyper: Mapping[str, Array]) -> State:
        """Parameters from `key`; see `Task.init`."""
        inputs = [jnp.zeros(each.shape, each.dtype) for each in example_inputs(self.example, 2)]
        variables = self.model.init({"params": key, "noise": key}, *inputs, train=False)
        params, stats = variables["params"], variables.get("batch_stats", {})
        ema = (params, stats) if self.ema_decay or self.lookahead else None
        net = Net(params=params, stats=stats, opt=self.optimizer.init(params), ema=ema)
        return State(step=jnp.int32(0), nets={NET: net}, hyper=dict(hyper))

    def step(self, state: State, batch: Batch, key: Array) -> tuple[State, Metrics]:
        """One update; see `Task.step`."""
        net = state.nets[NET]
        grads, stats, metrics, kept = self._gradient(net, batch, key, state.hyper)
        loss = metrics["loss"]
        value = self._pmean(loss.total) / self._pmean(loss.count)

        def value_fn(params):  # for line searches
            return self._pmean(self._total(params, net.stats, batch, key, state.hyper, self._pmean(loss.count))[0])

        updates, opt = self.optimizer.update(
            grads, net.opt, net.params, hyper=state.hyper, value=value, grad=grads, value_fn=value_fn
        )
        params = optax.apply_updates(net.params, updates)
        ema = update_ema(net.ema, (params, stats), self.ema_decay, state.step) if self.ema_decay else net.ema
        if self.lookahead:
            ema, (params, stats) = self.lookahead(net.ema, (params, stats), state.step)
        net = net.replace(params=params, stats=stats, opt=opt, ema=ema)
        return state.replace(nets={NET: net}, local=state.local if kept is None else kept), metrics

    def evaluate(self, state: State, batch: Batch, key: Array) -> tuple[State, Metrics]:
        """Loss and metrics without noise, with running statistics; see `Task.evaluate`."""
        outputs = self._apply(state.nets[NET], batch)
        return state, self._measure(outputs, batch, state.hyper)

    def for_evaluation(self, state: State) -> State:
        """The averaged parameters, where an average is kept."""
        return state.replace(nets={NET: state.nets[NET].averaged()})

    def partition_rules(self, parts: int) -> tuple:
        """The model's own, () where it has none; see `Task`."""
        return self.model.partition_rules(parts) if hasattr(self.model, "partition_rules") else ()

    def predict(self, state: State, batch: Batch) -> dict[str, Array]:
        """What the network says of each row, in float32."""
        return self.predictions(self._apply(state.nets[NET], batch))

    def probe(self, state: State, batch: Batch, key: Array) -> Metrics:
        """Norms per layer on one training batch: "gradient_norm/<layer>" over all its parameters, and
        "activation_norm/<layer>", the root mean square of its outputs."""
        net = state.nets[NET]
        count = self._pmean(self._count(batch))

        def total(params):
            return self._total(params, net.stats, batch, key, state.hyper, count)[0]

        grads = self._pmean(jax.grad(total)(net.params))
        norms = {f"gradient_norm/{name}": optax.tree.norm(leaf) for name, leaf in layers(grads).items()}
        norms |= {f"activation_norm/{name}": value for name, value in self._activations(net, batch, key).items()}
        one = jnp.float32(1.0)
        share = one if self.axis is None else one / lax.psum(1, self.axis)
        return {name: Mean(value * share, share) for name, value in norms.items()}

    # --- one batch --------------------------------------------------------------------------------------------------

    def _pmean(self, tree):
        return tree if self.axis is None else lax.pmean(tree, self.axis)

    def _gradient(self, net: Net, batch: Batch, key: Array, hyper):
        """Gradient of the mean loss, new statistics, metric sums, and what is kept of the rows' outputs, over
        `accumulate` micro-batches."""
        count = self._pmean(self._count(batch))
        gradient = jax.value_and_grad(self._total, has_aux=True)
        if self.accumulate == 1:
            (_, (stats, metrics, kept)), grads = gradient(net.params, net.stats, batch, key, hyper, count)
            return self._pmean(grads), stats, metrics, kept

        def split(leaf):  # strided, so that each device keeps its own rows
            return jnp.moveaxis(leaf.reshape(-1, self.accumulate, *leaf.shape[1:]), 1, 0)

        def joined(leaf):
            return jnp.moveaxis(leaf, 0, 1).reshape(-1, *leaf.shape[2:])

        def micro(stats, part):
            (_, (stats, metrics, kept)), grads = gradient(net.params, stats, part, key, hyper, count)
            return stats, (grads, metrics), kept

        def body(carry, part):
            stats, sums = carry
            stats, found, kept = micro(stats, part)
            return (stats, jax.tree.map(jnp.add, sums, found)), kept

        parts = jax.tree.map(split, dict(batch))
        shapes = jax.eval_shape(micro, net.stats, jax.tree.map(lambda leaf: leaf[0], parts))[1]
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        (stats, (grads, metrics)), kept = lax.scan(body, (net.stats, zeros), parts)
        return self._pmean(grads), stats, metrics, jax.tree.map(joined, kept)

    def _total(self, params, stats, batch: Batch, key: Array, hyper, count):
        """Sum of the rows' losses over `count`, with (statistics, metric sums, what is kept)."""
        variables = {"params": params, **({"batch_stats": stats} if stats else {})}
        with batch_context(rows=batch["row"], mask=batch["mask"], axis=self.axis, dtype=self.dtype):

            def apply(*inputs):
                given = {name: hyper[name] for name in self.arguments} | self._keywords(batch)
                options: dict[str, Any] = {"train": True, "rngs": {"noise": key}, "mutable": ["batch_stats"]}
                return self.model.apply(variables, *inputs, **options, **given)

            outputs, updated = (in_halves if self.halves else call)(apply, *self._inputs(batch))
        metrics = self._measure(outputs, batch, hyper)
        return metrics["loss"].total / count, (updated.get("batch_stats", {}), metrics, self._kept(outputs))

    def _kept(self, outputs: Any) -> Any:
        """What `state.local` becomes, leaves [B, ...]: in a task that has one, the carry; None: it stays as it is."""
        del outputs

    def _keywords(self, batch: Batch) -> dict[str, Any]:
        """What the model gets by keyword in training, besides `train` and `arguments`: a carry."""
        del batch
        return {}

    def _inputs(self, batch: Batch) -> tuple[Array, ...]:
        names = (self.inputs,) if isinstance(self.inputs, str) else self.inputs
        return tuple(batch[name] for name in names)

    def _count(self, batch: Batch) -> Array:
        """How many items the batch holds, scalar."""
        return batch["mask"].sum() if self.weights is None else Mean.of(self.weights(batch), batch["mask"]).total

    def _measure(self, outputs, batch: Batch, hyper) -> Metrics:
        values = {"loss": self.loss(outputs, batch, hyper)}
        values |= {name: metric(outputs, batch) for name, metric in self.metrics.items()}
        found = {name: Mean.of(value, batch["mask"]) for name, value in values.items()}
        if self.weights is None:
            return found
        count = self._count(batch)
        return {name: mean.replace(count=count) for name, mean in found.items()}

    def _variables(self, net: Net) -> dict:
        return {"params": net.params, **({"batch_stats": net.stats} if net.stats else {})}

    def _apply(self, net: Net, batch: Batch):
        with batch_context(dtype=self.dtype):
            return self.model.apply(self._variables(net), *self._inputs(batch), train=False)

    def _activations(self, net: Net, batch: Batch, key: Array) -> dict[str, Array]:
        names = set(layers(net.params))
        with batch_context(rows=batch["row"], mask=batch["mask"], axis=self.axis, dtype=self.dtype):
            _, captured = self.model.apply(
                self._variables(net),
                *self._inputs(batch),
                train=True,
                rngs={"noise": key},
                mutable=["batch_stats", "intermediates"],
                capture_intermediates=True,
            )
        found = {}
        for path, leaf in jax.tree_util.tree_flatten_with_path(captured.get("intermediates", {}))[0]:
            parts = [str(key.key) for key in path if hasattr(key, "key")]
            name = "/".join(part for part in parts if part != "__call__")
            if name in names and name not in found and parts[-1] == "__call__":  # of (outputs, carry) the outputs
                found[name] = jnp.sqrt(self._pmean(jnp.mean(jnp.square(leaf.astype(jnp.float32)))))
        return found


def call(function: Callable, *arguments: Any) -> Any:
    """function(*arguments)."""
    return function(*arguments)


def layers(params: Any) -> dict[str, Any]:
    """Parameters by layer: the parent path "Conv_0" or "block/Dense_1" of each group of leaves."""
    found: dict[str, list] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        found.setdefault("/".join(str(key.key) for key in path[:-1]), []).append(leaf)
    return found
