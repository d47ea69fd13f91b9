"""Principal component analysis as a task: moments gathered over one pass, then their leading eigenvectors."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from jaxdl.engine.experiment import Metrics
from jaxdl.engine.state import Mean, Net, State
from jaxdl.models.pca import Moments, batch_moments, principal_components, project
from jaxdl.objectives.regression import squared_error

Array = jax.Array
Batch = Mapping[str, Array]
NET = "pca"


@dataclass(frozen=True)
class PrincipalComponents:
    """Exact PCA of `batch["image"]` [B, ...]; reconstructions are not clipped.

    The moments lie in `State.extra`, the mean and the components in the network "pca". A step adds a batch to the
    moments; every `refresh` steps, and at the last, the components are computed from all images so far.

    Attributes:
      inputs: D, values of one image.
      components: K.
      steps: of the whole pass.
      refresh: steps between two computations of the components.
      axis: pmap's axis name, set by the engine.
    """

    inputs: int
    components: int
    steps: int
    refresh: int
    axis: str | None = None

    def init(self, key: Array, hyper: Mapping[str, Array]) -> State:
        """No image seen, components zero; `key` is not used."""
        del key
        params = {"mean": jnp.zeros((self.inputs,)), "components": jnp.zeros((self.components, self.inputs))}
        return State(step=jnp.int32(0), nets={NET: Net(params)}, hyper=dict(hyper), extra=Moments.none(self.inputs))

    def step(self, state: State, batch: Batch, key: Array) -> tuple[State, Metrics]:
        """Adds a batch; the metric is its squared error with the components so far."""
        del key
        x = batch["image"].reshape(batch["mask"].shape[0], -1)
        moments = state.extra.merged(batch_moments(x, batch["mask"], self.axis))
        number = state.step + 1
        net = state.nets[NET]
        components = lax.cond(
            (number % self.refresh == 0) | (number == self.steps),
            lambda: principal_components(moments.scatter, self.components),
            lambda: net.params["components"],
        )
        params = {"mean": moments.mean, "components": components}
        return state.replace(nets={NET: net.replace(params=params)}, extra=moments), self._metrics(net, batch)

    def evaluate(self, state: State, batch: Batch, key: Array) -> tuple[State, Metrics]:
        """Squared error of each image."""
        del key
        return state, self._metrics(state.nets[NET], batch)

    def for_evaluation(self, state: State) -> State:
        """As it is."""
        return state

    def predict(self, state: State, batch: Batch) -> dict[str, Array]:
        """{"reconstruction" [B, D], "code" [B, K], "squared_error" [B]}."""
        x = batch["image"].reshape(batch["mask"].shape[0], -1)
        code, found = project(**state.nets[NET].params, x=x)
        return {"reconstruction": found, "code": code, "squared_error": squared_error(found, x)}

    def _metrics(self, net: Net, batch: Batch) -> Metrics:
        x = batch["image"].reshape(batch["mask"].shape[0], -1)
        error = Mean.of(squared_error(project(**net.params, x=x)[1], x), batch["mask"])
        return {"loss": error, "squared_error": error}
