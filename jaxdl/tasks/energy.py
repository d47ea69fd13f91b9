"""Energy models: a restricted Boltzmann machine, alone or on top of frozen ones, by contrastive divergence."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxdl.engine.experiment import Metrics
from jaxdl.engine.state import Mean, Net, State
from jaxdl.models.rbm import RBM, recentred, uncentred
from jaxdl.objectives.energy import contrastive_gap, log_partition
from jaxdl.objectives.regression import squared_error

Array = jax.Array
Batch = Mapping[str, Array]


def layer_name(number: int) -> str:
    """Name in `State.nets` of machine number `number` of a stack, counted from 0 at the bottom."""
    return f"rbm_{number}"


@dataclass(frozen=True)
class Energy:
    """Contrastive divergence (CD-k) or its persistent form (PCD-k) for the uppermost machine of a stack.

    Data are `batch["image"]` [B, ...] in [0, 1] as they are; machines above the first see the hidden means of the one
    below. All noise of a row or chain is drawn from the step's key and its row. With PCD the chains' hidden units lie in
    `State.local["hidden"]` [B, H], one chain for each row of a batch.

    Centring (Melchior, Fischer, Wiskott 2016, algorithm 1): the offsets are moving averages of the data and of the
    hidden means, at rate `hyper["offset_rate"]`; the biases follow, so that the distribution stays the same.

    Attributes:
      stack: machines from the bottom up; the last is trained, those below are frozen.
      optimizer: from `jaxdl.optimizers.make_optimizer`.
      chains: B, rows of a training batch, over all devices.
      k: rounds of Gibbs sampling in an update.
      persistent: chains go on from update to update instead of starting at the data.
      mean_field: the model's visible units are probabilities, as in Hinton & Salakhutdinov's code.
      centred: whether offsets are used.
      initial_scale: standard deviation of the first weights.
      initial_mean: of each visible unit (length D), for the first visible biases and offsets; (): biases zero.
      exact: whether evaluation goes through all hidden states for the exact log-likelihood.
      axis: pmap's axis name, set by the engine.
    """

    stack: tuple[RBM, ...]
    optimizer: optax.GradientTransformationExtraArgs
    chains: int
    k: int = 1
    persistent: bool = False
    mean_field: bool = False
    centred: bool = False
    initial_scale: float = 0.01
    initial_mean: tuple[float, ...] = ()
    exact: bool = False
    axis: str | None = None

    @property
    def rbm(self) -> RBM:
        """The machine that is trained."""
        return self.stack[-1]

    @property
    def name(self) -> str:
        """Its network's name."""
        return layer_name(len(self.stack) - 1)

    def init(self, key: Array, hyper: Mapping[str, Array]) -> State:
        """Weights of all machines, and the chains, from `key`."""
        nets = {}
        for i, rbm in enumerate(self.stack):
            nets[layer_name(i)] = Net(rbm.init(jax.random.fold_in(key, i), self.initial_scale))
        params, stats = nets[self.name].params, {}
        if self.initial_mean:
            mean = jnp.asarray(self.initial_mean)
            clipped = jnp.clip(mean, 1e-3, 1.0 - 1e-3)
            params["visible_bias"] = jnp.log(clipped) - jnp.log1p(-clipped)
        if self.centred:
            mean = jnp.asarray(self.initial_mean) if self.initial_mean else jnp.full((self.rbm.visible,), 0.5)
            stats = {"visible_offset": mean, "hidden_offset": jnp.full((self.rbm.hidden,), 0.5)}
        nets[self.name] = Net(params, stats=stats, opt=self.optimizer.init(params))
        local: Any = ()
        if self.persistent:
            chains = jax.random.bernoulli(jax.random.fold_in(key, len(self.stack)), 0.5, (self.chains, self.rbm.hidden))
            local = {"hidden": chains.astype(jnp.float32)}
        extra = {"log_partition": jnp.zeros(())}
        return State(step=jnp.int32(0), nets=nets, local=local, hyper=dict(hyper), extra=extra)

    def step(self, state: State, batch: Batch, key: Array) -> tuple[State, Metrics]:
        """One update; see `Task.step`."""
        net, mask, v = state.nets[self.name], batch["mask"], self.features(state, batch)
        count = self._psum(mask.sum())
        both = jax.random.split(jax.random.fold_in(key, 0))
        keys = [jax.vmap(jax.random.fold_in, (None, 0))(one, batch["row"]) for one in both]
        params, stats = self._moved(net, v, mask, count, state.hyper)
        whole = {**params, **stats}
        h = state.local["hidden"] if self.persistent else self.rbm.sample_hidden(whole, v, keys[0])
        found, h = self.rbm.gibbs(whole, h, keys[1], self.k, self.mean_field)

        def total(params):
            gap = contrastive_gap(lambda p, x: self.rbm.free_energy({**p, **stats}, x), params, v, found)
            return jnp.where(mask > 0, gap, 0.0).sum() / count, gap

        (_, gap), grads = jax.value_and_grad(total, has_aux=True)(params)
        updates, opt = self.optimizer.update(self._psum(grads), net.opt, params, hyper=state.hyper)
        net = net.replace(params=optax.apply_updates(params, updates), stats=stats, opt=opt)
        state = state.replace(nets={**state.nets, self.name: net})
        if self.persistent:
            state = state.replace(local={"hidden": h})
        return state, {"free_energy_gap": Mean.of(gap, mask)}

    def evaluate(self, state: State, batch: Batch, key: Array) -> tuple[State, Metrics]:
        """ "squared_error" of the mean-field reconstruction, "free_energy" and, where it is exact, "log_likelihood" in
        nats, with "loss" its negative; without it the loss is the squared error."""
        del key
        found = self.predict(state, batch)
        names = ["squared_error", "free_energy"] + (["log_likelihood"] if self.exact else [])
        metrics = {name: Mean.of(found[name], batch["mask"]) for name in names}
        loss = -found["log_likelihood"] if self.exact else found["squared_error"]
        return state, metrics | {"loss": Mean.of(loss, batch["mask"])}

    def for_evaluation(self, state: State) -> State:
        """With log Z of the machine without offsets, where it is exact."""
        if not self.exact:
            return state
        machine = uncentred(self.machine(state))
        log_z = log_partition(machine["kernel"], machine["visible_bias"], machine["hidden_bias"])
        return state.replace(extra={"log_partition": log_z})

    def predict(self, state: State, batch: Batch) -> dict[str, Array]:
        """{"reconstruction" [B, D], "code" [B, H] (hidden means), "squared_error" and "free_energy" [B]} of what the
        machine sees and, where it is exact, "log_likelihood" [B]."""
        params, v = uncentred(self.machine(state)), self.features(state, batch)
        code = self.rbm.hidden_mean(params, v)
        mean = self.rbm.visible_mean(params, code)
        energy = self.rbm.free_energy(params, v)
        found = {"reconstruction": mean, "code": code, "squared_error": squared_error(mean, v), "free_energy": energy}
        return {**found, "log_likelihood": -energy - state.extra["log_partition"]} if self.exact else found

    def machine(self, state: State) -> dict[str, Array]:
        """Parameters and offsets of the machine that is trained."""
        net = state.nets[self.name]
        return {**net.params, **net.stats}

    def features(self, state: State, batch: Batch) -> Array:
        """What the trained machine sees, [B, D]: the images, or the hidden means of the machine below."""
        v = batch["image"].reshape(batch["mask"].shape[0], -1)
        for i, rbm in enumerate(self.stack[:-1]):
            v = rbm.hidden_mean(state.nets[layer_name(i)].params, v)
        return v

    def _psum(self, tree):
        return tree if self.axis is None else lax.psum(tree, self.axis)

    def _moved(self, net: Net, v: Array, mask: Array, count: Array, hyper: Mapping[str, Array]) -> tuple[dict, dict]:
        """Parameters and offsets after the offsets have moved towards this batch's means."""
        if not self.centred:
            return net.params, net.stats
        rate = hyper["offset_rate"]
        hidden = self.rbm.hidden_mean({**net.params, **net.stats}, v)
        means = self._psum((mask @ v / count, mask @ hidden / count))
        offsets = [net.stats[name] for name in ("visible_offset", "hidden_offset")]
        moved = [old + rate * (mean - old) for old, mean in zip(offsets, means, strict=True)]
        whole = recentred({**net.params, **net.stats}, *moved)
        return {name: whole[name] for name in net.params}, {name: whole[name] for name in net.stats}
