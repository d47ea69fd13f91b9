"""Two networks against each other: a generator of samples and a discriminator that tells them from real examples."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxdl.engine.experiment import Metrics, Serving
from jaxdl.engine.state import Mean, Net, State
from jaxdl.models.gan import latent_noise
from jaxdl.nn.context import batch_context
from jaxdl.objectives.adversarial import fake_loss, generator_loss, real_loss
from jaxdl.optimizers import update_ema

Array = jax.Array
Batch = Mapping[str, Array]
GENERATOR, DISCRIMINATOR = "generator", "discriminator"
# steps at which samples from fixed noise are kept: what a GAN learns first it learns soon
PREVIEW_STEPS = (0, 64, 256, 1024, 2048, 4096, 8192, 16384, 32768)
# a group counts as covered from this part of its fair share of a batch's samples on
COVERED_FROM = 0.1


@dataclass(frozen=True)
class Adversarial:
    """A generator G and a discriminator D with an optimiser each, in one State and one program; Goodfellow et al. 2014.

    One step makes `k` updates of D, on k batches and k sets of samples, and one of G. A batch of k·B rows is k batches:
    row r belongs to batch r mod k, so that each device keeps its own. The samples of the last update of D are G's too
    (through the updated D, or the old one if `simultaneous`): their forward pass is made once. In training both use
    the moments of the batch, real examples and samples apart; D's running statistics follow its own updates only.
    With C devices a device differentiates its total / pmean(count), and gradients are pmean'd once.

    The phase's `hyper` needs the optimiser's scalars, "discriminator_rate" (D's learning rate over G's),
    "real_smoothing" (see `real_loss`) and, with `penalty`, "gradient_penalty" γ.

    Attributes:
      generator: (z [B, L], train) -> samples [B, *example].
      discriminator: (x [B, *example], train) -> logits [B].
      optimizer: of both, from `jaxdl.optimizers.make_optimizer`; each has its own state.
      example: shape of one example.
      latent: L, size of the standard normal noise z.
      inputs: key of the batch that holds real examples.
      loss: of G, see `generator_loss`.
      discriminator_steps: k.
      simultaneous: G answers D as it was before this step.
      penalty: whether D pays γ/2 |∇_x D(x)|² on real x (R1, Mescheder et al. 2018).
      penalty_half_life: steps in which γ falls to a half; 0: constant.
      penalty_every: D pays in every n-th step, n times as much: nearly the same path for a part of the arithmetic ("lazy
        regularization", Karras et al. 2020, arXiv:1912.04958, appendix B).
      measure: samples -> ({name: [B]}, groups [B, K]) for evaluation. The values are averaged. A row of `groups` holds a
        one at the sample's group (its mode, its class), or zeros only if it counts for none; how many groups have at
        least a tenth of their fair share of a batch is averaged over batches.
      groups: what that number is called, "modes".
      describe: examples -> {name: [B, ...]} for `predict`, beside the probability of being real.
      ema_decay: decay of G's moving average, which is then what is judged; 0: none.
      previews: how many samples are kept at each of PREVIEW_STEPS.
      dtype: compute dtype of layers that fix none; parameters stay float32.
      axis: pmap's axis name, set by the engine.
    """

    generator: nn.Module
    discriminator: nn.Module
    optimizer: optax.GradientTransformationExtraArgs
    example: tuple[int, ...]
    latent: int = 64
    inputs: str = "image"
    loss: str = "non_saturating"
    discriminator_steps: int = 1
    simultaneous: bool = False
    penalty: bool = False
    penalty_half_life: int = 0
    penalty_every: int = 1
    measure: Callable[[Array], tuple[dict[str, Array], Array]] | None = None
    groups: str = "modes"
    describe: Callable[[Array], dict[str, Array]] | None = None
    ema_decay: float = 0.0
    previews: int = 48
    dtype: Any = None
    axis: str | None = None

    def init(self, key: Array, hyper: Mapping[str, Array]) -> State:
        """Parameters from `key`; see `Task.init`."""
        examples = {GENERATOR: jnp.zeros((2, self.latent)), DISCRIMINATOR: jnp.zeros((2, *self.example))}
        nets = {}
        for number, (name, model) in enumerate(((GENERATOR, self.generator), (DISCRIMINATOR, self.discriminator))):
            variables = model.init(jax.random.fold_in(key, number), examples[name], train=False)
            params, stats = variables["params"], variables.get("batch_stats", {})
            ema = (params, stats) if self.ema_decay and name == GENERATOR else None
            nets[name] = Net(params=params, stats=stats, opt=self.optimizer.init(params), ema=ema)
        previews = jnp.zeros((len(PREVIEW_STEPS), self.previews, *self.example))
        return State(step=jnp.int32(0), nets=nets, hyper=dict(hyper), extra={"previews": previews})

    def step(self, state: State, batch: Batch, key: Array) -> tuple[State, Metrics]:
        """k updates of the discriminator and one of the generator; see `Task.step`."""
        state = self._with_preview(state)
        parts = self._parts(batch)
        if self.discriminator_steps > 1:

            def body(discriminator: Net, part: Batch) -> tuple[Net, None]:
                current = state.replace(nets={**state.nets, DISCRIMINATOR: discriminator})
                samples = self._generate(state.nets[GENERATOR].params, state.nets[GENERATOR].stats, part, key)[0]
                return self.update_discriminator(current, part, samples)[0].nets[DISCRIMINATOR], None

            first = jax.tree.map(lambda leaf: leaf[:-1], parts)
            discriminator, _ = lax.scan(body, state.nets[DISCRIMINATOR], first)
            state = state.replace(nets={**state.nets, DISCRIMINATOR: discriminator})
        last = jax.tree.map(lambda leaf: leaf[-1], parts)
        net = state.nets[GENERATOR]
        samples, pull_back, stats = jax.vjp(
            lambda params: self._generate(params, net.stats, last, key), net.params, has_aux=True
        )
        updated, metrics = self.update_discriminator(state, last, samples)
        opponent = state if self.simultaneous else updated
        by_samples, found = self._verdict_gradient(opponent.nets[DISCRIMINATOR], samples, last)
        updated = self.update_generator(updated, pull_back(by_samples)[0], stats)
        return updated, metrics | found

    def update_discriminator(self, state: State, batch: Batch, samples: Array) -> tuple[State, Metrics]:
        """One update of D against given samples [B, *example]; the generator stays as it is."""
        net, hyper = state.nets[DISCRIMINATOR], dict(state.hyper)
        if self.penalty and self.penalty_half_life:
            hyper["gradient_penalty"] *= jnp.exp2(-state.step.astype(jnp.float32) / self.penalty_half_life)
        samples = lax.stop_gradient(samples)
        grads, (stats, metrics) = jax.grad(self._discriminator_total, has_aux=True)(
            net.params, net.stats, batch, samples, hyper, state.step
        )
        rates = {**hyper, "learning_rate": hyper["learning_rate"] * hyper["discriminator_rate"]}
        net = self._updated(net, grads, stats, rates)
        return state.replace(nets={**state.nets, DISCRIMINATOR: net}), metrics

    def update_generator(self, state: State, grads: Any, stats: Any) -> State:
        """One update of G by the gradient of its parameters, with its new statistics; the discriminator stays."""
        net = self._updated(state.nets[GENERATOR], grads, stats, state.hyper)
        if self.ema_decay:
            net = net.replace(ema=update_ema(net.ema, (net.params, net.stats), self.ema_decay, state.step))
        return state.replace(nets={**state.nets, GENERATOR: net})

    def evaluate(self, state: State, batch: Batch, key: Array) -> tuple[State, Metrics]:
        """Both networks with running statistics, on the batch's real examples and as many samples."""
        mask = batch["mask"]
        samples = self.samples(state, self._noise(batch, key))
        fake = self._judge(state, samples)
        found = {"generator_loss": generator_loss(fake, self.loss), "fake_probability": nn.sigmoid(fake)}
        if self.inputs in batch:
            real = self._judge(state, batch[self.inputs])
            found |= {"discriminator_loss": real_loss(real) + fake_loss(fake), "real_probability": nn.sigmoid(real)}
        metrics = {name: Mean.of(value, mask) for name, value in found.items()}
        return state, metrics | self._measured(samples, mask)

    def for_evaluation(self, state: State) -> State:
        """The generator's averaged parameters, where an average is kept."""
        return state.replace(nets={**state.nets, GENERATOR: state.nets[GENERATOR].averaged()})

    def predict(self, state: State, batch: Batch) -> dict[str, Array]:
        """For each real or given example "real" [B], D's probability that it is real, and what `describe` says."""
        x = batch[self.inputs]
        found = {"real": nn.sigmoid(self._judge(state, x))}
        return found | (self.describe(x) if self.describe else {})

    def serving(self) -> Serving:
        """{"z" [B, L], standard normal noise} -> {"samples" [B, *example]}; see `Task`."""

        def samples(state: State, inputs: Batch) -> dict[str, Array]:
            return {"samples": self.samples(state, inputs["z"])}

        return Serving(samples, {"z": jax.ShapeDtypeStruct((self.latent,), jnp.float32)})

    def samples(self, state: State, noise: Array) -> Array:
        """G's samples [B, *example] from noise [B, L], with running statistics, in float32."""
        with batch_context(dtype=self.dtype):
            samples: Any = self.generator.apply(_variables(state.nets[GENERATOR]), noise, train=False)
        return samples

    # --- one batch --------------------------------------------------------------------------------------------------

    def _pmean(self, tree):
        return tree if self.axis is None else lax.pmean(tree, self.axis)

    def _parts(self, batch: Batch) -> dict[str, Array]:
        """Leaves [k·B, ...] as [k, B, ...]."""
        k = self.discriminator_steps
        return {name: jnp.moveaxis(leaf.reshape(-1, k, *leaf.shape[1:]), 1, 0) for name, leaf in batch.items()}

    def _noise(self, batch: Batch, key: Array) -> Array:
        return latent_noise(jax.vmap(jax.random.fold_in, (None, 0))(key, batch["row"]), self.latent)

    def _generate(self, params, stats, batch: Batch, key: Array) -> tuple[Array, Any]:
        noise = self._noise(batch, key)
        with batch_context(rows=batch["row"], mask=batch["mask"], axis=self.axis, dtype=self.dtype):
            samples, updated = self.generator.apply(
                {"params": params, **_collection(stats)}, noise, train=True, mutable=["batch_stats"]
            )
        return samples, updated.get("batch_stats", {})

    def _discriminate(self, params, stats, x: Array, batch: Batch) -> tuple[Array, Any]:
        with batch_context(rows=batch["row"], mask=batch["mask"], axis=self.axis, dtype=self.dtype):
            logits, updated = self.discriminator.apply(
                {"params": params, **_collection(stats)}, x, train=True, mutable=["batch_stats"]
            )
        return logits, updated.get("batch_stats", {})

    def _discriminator_total(self, params, stats, batch: Batch, samples: Array, hyper, step: Array):
        mask = batch["mask"]
        count = self._pmean(mask.sum())
        x = batch[self.inputs]
        penalty = self._penalty(params, stats, x, batch, step) if self.penalty else None
        real, stats = self._discriminate(params, stats, x, batch)
        fake, stats = self._discriminate(params, stats, samples, batch)
        loss = Mean.of(real_loss(real, hyper["real_smoothing"]) + fake_loss(fake), mask)
        metrics = {
            "discriminator_loss": loss,
            "real_probability": Mean.of(nn.sigmoid(real), mask),
            "fake_probability": Mean.of(nn.sigmoid(fake), mask),
        }
        total = loss.total
        if penalty is not None:
            metrics["gradient_penalty"] = penalty
            total = total + 0.5 * self.penalty_every * hyper["gradient_penalty"] * penalty.total
        return total / count, (stats, metrics)

    def _penalty(self, params, stats, x: Array, batch: Batch, step: Array) -> Mean:
        """The mean of `_gradient_penalty`; of no rows in a step that does not pay."""

        def paid() -> Mean:
            return Mean.of(self._gradient_penalty(params, stats, x, batch), batch["mask"])

        if self.penalty_every == 1:
            return paid()
        return lax.cond(step % self.penalty_every == 0, paid, lambda: Mean(jnp.float32(0.0), jnp.float32(0.0)))

    def _gradient_penalty(self, params, stats, x: Array, batch: Batch) -> Array:
        """|∇_x D(x)|² for each row, [B]."""
        by_x = jax.grad(lambda x: self._discriminate(params, stats, x, batch)[0].sum())(x)
        return jnp.square(by_x).reshape(x.shape[0], -1).sum(axis=1)

    def _verdict_gradient(self, net: Net, samples: Array, batch: Batch) -> tuple[Array, Metrics]:
        """Gradient of G's mean loss by its samples, through D."""
        mask = batch["mask"]
        count = self._pmean(mask.sum())

        def total(samples):
            logits, _ = self._discriminate(net.params, net.stats, samples, batch)
            loss = Mean.of(generator_loss(logits, self.loss), mask)
            return loss.total / count, loss

        by_samples, loss = jax.grad(total, has_aux=True)(samples)
        return by_samples, {"generator_loss": loss}

    def _updated(self, net: Net, grads, stats, hyper) -> Net:
        updates, opt = self.optimizer.update(self._pmean(grads), net.opt, net.params, hyper=hyper)
        return net.replace(params=optax.apply_updates(net.params, updates), stats=stats, opt=opt)

    # --- looking ----------------------------------------------------------------------------------------------------

    def _judge(self, state: State, x: Array) -> Array:
        with batch_context(dtype=self.dtype):
            logits: Any = self.discriminator.apply(_variables(state.nets[DISCRIMINATOR]), x, train=False)
        return logits

    def _measured(self, samples: Array, mask: Array) -> Metrics:
        if self.measure is None:
            return {}
        values, groups = self.measure(samples)
        metrics = {name: Mean.of(value, mask) for name, value in values.items()}
        counts, total = (mask[:, None] * groups).sum(0), mask.sum()
        if self.axis is not None:
            counts, total = lax.psum((counts, total), self.axis)
        part = jnp.float32(1.0) if self.axis is None else 1.0 / lax.psum(1.0, self.axis)
        covered = (counts > 0) & (counts >= COVERED_FROM * total / groups.shape[1])
        metrics[self.groups] = Mean(part * covered.sum(), part * (total > 0))
        return metrics

    def _with_preview(self, state: State) -> State:
        """Keeps samples from the same noise whenever the step is one of PREVIEW_STEPS."""
        frame = jnp.searchsorted(jnp.asarray(PREVIEW_STEPS), state.step)

        def keep(previews):
            noise = latent_noise(jax.random.split(jax.random.key(0), self.previews), self.latent)
            samples = self.samples(self.for_evaluation(state), noise)
            return previews.at[frame].set(samples)

        due = jnp.isin(state.step, jnp.asarray(PREVIEW_STEPS))
        previews = lax.cond(due, keep, lambda previews: previews, state.extra["previews"])
        return state.replace(extra={**state.extra, "previews": previews})


@dataclass(frozen=True)
class Sampling:
    """A task whose outputs are samples: `jaxdl.engine.program.collect` with a source of "z" [B, L].

    Its outputs are "samples" [B, *example] and what `describe` says of them. Where the batch holds real examples under
    the task's `inputs` instead, they take the place of the samples.
    """

    task: Adversarial
    describe: Callable[[Array], dict[str, Array]] | None = None

    def for_evaluation(self, state: State) -> State:
        """As the task's."""
        return self.task.for_evaluation(state)

    def predict(self, state: State, batch: Batch) -> dict[str, Array]:
        """See the class."""
        x = self.task.samples(state, batch["z"]) if "z" in batch else batch[self.task.inputs]
        return {"samples": x} | (self.describe(x) if self.describe else {})


def shown_previews(state: Any, steps: int) -> list[tuple[int, np.ndarray]]:
    """(step, samples [n, *example]) of what a canonical State [1, ...] kept in `steps` updates."""
    previews = np.asarray(state.extra["previews"])[0]
    return [(step, previews[i]) for i, step in enumerate(PREVIEW_STEPS) if step < steps]


def _collection(stats: Any) -> dict[str, Any]:
    return {"batch_stats": stats} if stats else {}


def _variables(net: Net) -> dict[str, Any]:
    return {"params": net.params, **_collection(net.stats)}
