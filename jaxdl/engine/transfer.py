"""Networks that go from one State to another: those of another run, of the phase before, of the best step."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.engine.digest import part_name
from jaxdl.engine.state import State
from jaxdl.errors import UserError


def adopt(state: State, initial: Mapping | None) -> State:
    """`state` with the parameters and statistics of another run wherever name and shape fit.

    Raises:
      UserError: if nothing fits.
    """
    if initial is None:
        return state
    taken = []

    def choose(path, leaf):
        name = "/".join(map(part_name, path))
        if name not in initial or initial[name].shape != leaf.shape:
            return leaf
        taken.append(name)
        return jnp.asarray(initial[name], leaf.dtype)

    nets = jax.tree_util.tree_map_with_path(choose, judged_nets(state))
    if not taken:
        raise UserError("--init_from: no parameter of that run has a name and shape of this model's")
    return with_nets(state, nets)


def transferred(function: Callable, old: State, fresh: State, keys: np.ndarray) -> State:
    """`function(old, fresh, key)` for each seed: a phase's first State [S, ...]."""
    old, fresh = jax.tree.map(jnp.asarray, (old, fresh))

    def one(args):
        return function(args[0], args[1], jax.random.wrap_key_data(args[2]))

    return jax.jit(lambda *args: jax.lax.map(one, args))(old, fresh, jnp.asarray(keys))


def judged_nets(state: State) -> dict:
    """What is kept of the best networks: {name: {"params", "stats"}}."""
    return {name: {"params": net.params, "stats": net.stats} for name, net in state.nets.items()}


def averaged(state: State) -> State:
    """`state` with each network's averages in the place of its newest parameters, where it keeps any."""
    return state.replace(nets={name: net.averaged() for name, net in state.nets.items()})


def with_nets(state: State, nets: Mapping) -> State:
    """`state` with networks that `judged_nets` found."""
    held = {name: net.holding(nets[name]["params"], nets[name]["stats"]) for name, net in state.nets.items()}
    return state.replace(nets=held)
