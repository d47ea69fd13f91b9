"""Four tiny tasks that share nothing but the engine: a regression, a two-player game, a bandit, and a run of two phases."""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdl.data.source import Resident
from jaxdl.engine.experiment import Experiment, Phase, TrainConfig
from jaxdl.engine.state import Mean, Net, State


def pmean(tree, axis):
    return tree if axis is None else jax.lax.pmean(tree, axis)


@dataclass(frozen=True)
class Regression:
    """y = x @ w + b by SGD (or Adam) on the squared error, with noise on the inputs keyed by global row."""

    features: int = 3
    noise: float = 0.1
    adam: bool = False
    axis: str | None = None
    explode_at: int = -1

    def _tx(self):
        return optax.adam(1e-2) if self.adam else optax.sgd(1.0)

    def init(self, key, hyper):
        params = {"w": jax.random.normal(key, (self.features,)), "b": jnp.zeros(())}
        return State(step=jnp.int32(0), nets={"model": Net(params, opt=self._tx().init(params))}, hyper=dict(hyper))

    def _loss(self, params, batch, inputs, count):
        error = jnp.square(inputs @ params["w"] + params["b"] - batch["y"])
        return (error * batch["mask"]).sum() / count, error

    def step(self, state, batch, key):
        net = state.nets["model"]
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch["row"])
        noise = jax.vmap(lambda k: jax.random.normal(k, (self.features,)))(keys)
        inputs = batch["x"] + self.noise * noise
        count = pmean(batch["mask"].sum(), self.axis)
        (_, error), grads = jax.value_and_grad(self._loss, has_aux=True)(net.params, batch, inputs, count)
        grads = pmean(grads, self.axis)
        rate = state.hyper["learning_rate"]
        updates, opt = self._tx().update(jax.tree.map(lambda g: rate * g, grads), net.opt, net.params)
        if self.explode_at >= 0:
            error = jnp.where((state.step == self.explode_at) & (net.params["b"] > -1e9), jnp.nan, error)
        net = net.replace(params=optax.apply_updates(net.params, updates), opt=opt)
        metrics = {"loss": Mean.of(error, batch["mask"]), "gradient": Mean.of(optax.tree.norm(grads)[None])}
        return state.replace(nets={"model": net}), metrics

    def evaluate(self, state, batch, key):
        _, error = self._loss(state.nets["model"].params, batch, batch["x"], 1.0)
        return state, {"loss": Mean.of(error, batch["mask"])}

    def for_evaluation(self, state):
        return state

    def predict(self, state, batch):
        params = state.nets["model"].params
        return {"y": batch["x"] @ params["w"] + params["b"]}


@dataclass(frozen=True)
class Game:
    """min over x, max over y of x y + 0.1 x² - 0.1 y² + x ξ: two networks, two optimisers, one State."""

    axis: str | None = None

    def init(self, key, hyper):
        a, b = jax.random.normal(key, (2,))
        nets = {
            "minimiser": Net({"x": a}, opt=optax.adam(1e-2).init({"x": a})),
            "maximiser": Net({"y": b}, opt=optax.sgd(5e-2, momentum=0.5).init({"y": b})),
        }
        return State(step=jnp.int32(0), nets=nets, hyper=dict(hyper))

    def step(self, state, batch, key):
        low, high = state.nets["minimiser"], state.nets["maximiser"]
        noise = 0.01 * pmean(batch["noise"].mean(), self.axis)

        def value(low, high):
            x, y = low["x"], high["y"]
            return x * y + 0.1 * x**2 - 0.1 * y**2 + x * noise

        gx, gy = jax.grad(value, (0, 1))(low.params, high.params)
        ux, ox = optax.adam(1e-2).update(gx, low.opt)
        uy, oy = optax.sgd(5e-2, momentum=0.5).update(jax.tree.map(jnp.negative, gy), high.opt)
        nets = {
            "minimiser": low.replace(params=optax.apply_updates(low.params, ux), opt=ox),
            "maximiser": high.replace(params=optax.apply_updates(high.params, uy), opt=oy),
        }
        return state.replace(nets=nets), {"loss": Mean.of(value(low.params, high.params)[None])}

    def evaluate(self, state, batch, key):
        distance = jnp.abs(state.nets["minimiser"].params["x"]) + jnp.abs(state.nets["maximiser"].params["y"])
        return state, {"distance": Mean.of(distance[None])}

    def for_evaluation(self, state):
        return state


@dataclass(frozen=True)
class Bandit:
    """Softmax policy gradient on a bandit of four arms; the batch is None, environments lie in `local`."""

    environments: int = 8
    axis: str | None = None
    arms: tuple[float, ...] = (0.1, 0.5, 0.2, 0.9)

    @property
    def items_per_step(self):
        return self.environments

    def init(self, key, hyper):
        keys = jax.random.split(key, self.environments)
        net = Net({"logits": jnp.zeros(4)}, opt=())
        return State(step=jnp.int32(0), nets={"policy": net}, local={"keys": keys}, hyper=dict(hyper))

    def step(self, state, batch, key):
        assert batch is None
        split = jax.vmap(lambda k: jax.random.split(k, 3))(state.local["keys"])
        logits = state.nets["policy"].params["logits"]
        actions = jax.vmap(lambda k: jax.random.categorical(k, logits))(split[:, 1])
        rewards = jax.vmap(jax.random.bernoulli)(split[:, 2], jnp.array(self.arms)[actions]).astype(jnp.float32)

        def surrogate(logits):
            return (jax.nn.log_softmax(logits)[actions] * (rewards - 0.4)).mean()

        grads = pmean(jax.grad(surrogate)(logits), self.axis)
        logits = logits + state.hyper["learning_rate"] * grads
        state = state.replace(nets={"policy": Net({"logits": logits}, opt=())}, local={"keys": split[:, 0]})
        return state, {"return": Mean.of(rewards)}

    def evaluate(self, state, batch, key):
        best = jax.nn.softmax(state.nets["policy"].params["logits"])[3]
        return state, {"best_arm": Mean.of(best[None])}

    def for_evaluation(self, state):
        return state


def data(n=200, features=3, seed=0):
    """x [n, features] and y = x @ (1, -2, 3, ...) + 0.5."""
    x = np.random.default_rng(seed).normal(size=(n, features)).astype(np.float32)
    weights = np.array([(-1) ** i * (i + 1) for i in range(features)], np.float32)
    return {"x": x, "y": x @ weights + 0.5}


def train_config(**changes):
    """Short runs that log, evaluate and save at different steps."""
    values = {"steps": 60, "batch_size": 16, "log_every": 7, "eval_every": 20, "checkpoint_every": 25}
    return TrainConfig(**{**values, **changes})


def regression(task=None, patience=0, train=None, rate=0.05):
    """The regression as an experiment with validation and test data."""
    train = train or train_config()
    task = task or Regression()
    features = task.features
    source = Resident.of(data(features=features), train.batch_size, shuffle=True)
    held_out = Resident.of(data(45, features, 1), 16, shuffle=False)
    phase = Phase(
        "train",
        task,
        source,
        train.steps,
        {"learning_rate": rate},
        {"validation": held_out},
        ("validation/loss", "min"),
        patience,
    )
    return Experiment("tiny", (phase,), train, final={"test": Resident.of(data(37, features, 2), 16, shuffle=False)})


def game():
    """The two-player game."""
    train = train_config()
    noise = np.random.default_rng(0).normal(size=(64,)).astype(np.float32)
    source = Resident.of({"noise": noise}, train.batch_size, shuffle=True)
    held_out = Resident.of({"noise": noise[:16]}, 16, shuffle=False)
    phase = Phase("train", Game(), source, train.steps, evaluations={"validation": held_out})
    return Experiment("game", (phase,), train, reported="last")


def bandit():
    """The bandit."""
    train = train_config(steps=100)
    one = Resident.of({"x": np.zeros((8, 1), np.float32)}, 8, shuffle=False)
    phase = Phase("train", Bandit(), None, train.steps, {"learning_rate": 1.0}, {"validation": one})
    return Experiment("bandit", (phase,), train, reported="last")


def two_phases():
    """Regression with a large rate, then from the best parameters on with a small one, on other data."""
    train = train_config(steps=40)
    first = regression(train=train).phases[0]
    task = Regression(noise=0.0)
    source = Resident.of(data(120, seed=5), train.batch_size, shuffle=True)

    def transfer(old, fresh, key):
        return fresh.replace(nets={"model": fresh.nets["model"].replace(params=old.nets["model"].params)})

    first = dataclasses.replace(first, name="coarse", steps=30)
    second = dataclasses.replace(first, name="fine", task=task, source=source, steps=40, transfer=transfer)
    second = dataclasses.replace(second, hyper={"learning_rate": 0.005})
    return Experiment("phases", (first, second), train, final=regression(train=train).final)


EXPERIMENTS = {"regression": regression, "game": game, "bandit": bandit, "two_phases": two_phases}
