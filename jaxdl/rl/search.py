"""Search through a game with the rules as the model and a network as prior and value: Gumbel search by mctx.

Danihelka, Guez, Schrittwieser, Silver: Policy improvement by planning with Gumbel, ICLR 2022.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdl.rl.game import Game, GameState

Array = jax.Array
# positions [B] -> policy logits [B, A] and values [B] for the player to move
Evaluator = Callable[[GameState], tuple[Array, Array]]


class Found(NamedTuple):
    """What a search says of positions; `B` positions, `A` actions, values in [-1, 1] for the player to move.

    Attributes:
      action: [B] int32, the move to make.
      policy: [B, A], the improved policy softmax(logits + σ(completed Q)): the training target.
      value: [B], mean over the simulations of that move.
      visits: [B, A] int32, simulations through each action.
      prior: [B, A], the network's policy over the legal actions.
      guess: [B], the network's value.
    """

    action: Array
    policy: Array
    value: Array
    visits: Array
    prior: Array
    guess: Array


@dataclass(frozen=True)
class GumbelSearch:
    """Sequential halving with Gumbel at the root, the deterministic rule that follows the improved policy below it.

    Attributes:
      game: the rules.
      simulations: nodes that one search adds to its tree.
      considered: at most this many actions are tried at the root.
      value_scale: weight of completed Q values, rescaled to [0, 1], against logits: σ(q) = value_scale (50 + max N) q.
    """

    game: Game
    simulations: int = 32
    considered: int = 16
    value_scale: float = 0.1

    def __call__(self, evaluate: Evaluator, states: GameState, gumbel: Array) -> Found:
        """Searches from each of `states` [B]. What is found for terminated positions means nothing.

        Args:
          evaluate: the network; it need not mask illegal actions.
          states: positions.
          gumbel: [B, A], standard Gumbel noise (see `gumbel_noise`) to explore and to make `policy` an improvement on
            the prior; zeros to play the best. Given from outside because mctx draws one array for a whole batch: so a
            position's result does not depend on the others in it.
        """
        import mctx

        transform = functools.partial(mctx.qtransform_completed_by_mix_value, value_scale=self.value_scale)
        logits, values, illegal = self._evaluated(evaluate, states)

        def recurrent(_: Any, unused_key: Array, action: Array, before: GameState) -> tuple[Any, GameState]:
            after = jax.vmap(self.game.step)(before, action)
            logits, values, _ = self._evaluated(evaluate, after)
            gained = jnp.take_along_axis(after.reward - before.reward, before.player[:, None], axis=1)[:, 0]
            # the value behind a move is the opponent's: it counts with the opposite sign, and not at all after the end
            discount = jnp.where(after.terminated, 0.0, -1.0)
            return mctx.RecurrentFnOutput(reward=gained, discount=discount, prior_logits=logits, value=values), after

        tree = mctx.search(
            params=(),
            rng_key=jax.random.key(0),  # neither rule of action selection draws anything
            root=mctx.RootFnOutput(prior_logits=logits, value=values, embedding=states),
            recurrent_fn=recurrent,
            root_action_selection_fn=functools.partial(
                mctx.gumbel_muzero_root_action_selection,
                num_simulations=self.simulations,
                max_num_considered_actions=self.considered,
                qtransform=transform,
            ),
            interior_action_selection_fn=functools.partial(
                mctx.gumbel_muzero_interior_action_selection, qtransform=transform
            ),
            num_simulations=self.simulations,
            invalid_actions=illegal,
            extra_data=mctx.GumbelMuZeroExtraData(root_gumbel=gumbel),
        )
        visits = tree.children_visits[:, 0]
        improved = logits + jax.vmap(transform, (0, None))(tree, 0)
        most = (visits == visits.max(axis=-1, keepdims=True)) & ~illegal
        action = jnp.where(most, gumbel + improved, -jnp.inf).argmax(axis=-1).astype(jnp.int32)
        return Found(
            action=action,
            policy=jax.nn.softmax(jnp.where(illegal, jnp.finfo(logits.dtype).min, improved)),
            # not the root's mean: sequential halving gives bad moves their share of the simulations too
            value=jnp.take_along_axis(tree.qvalues(jnp.zeros_like(action)), action[:, None], axis=1)[:, 0],
            visits=visits,
            prior=jax.nn.softmax(logits),
            guess=values,
        )

    def _evaluated(self, evaluate: Evaluator, states: GameState) -> tuple[Array, Array, Array]:
        """Logits that no illegal action can win with, values that are 0 after the end, and what is illegal."""
        logits, values = evaluate(states)
        illegal = ~jax.vmap(self.game.legal_actions)(states)
        logits = logits - logits.max(axis=-1, keepdims=True)
        # mctx masks the root only; below it a logit this small has probability 0. Not -inf: mctx adds to it
        logits = jnp.where(illegal, jnp.finfo(logits.dtype).min, logits)
        return logits, jnp.where(states.terminated, 0.0, values), illegal


def gumbel_noise(keys: Array, num_actions: int) -> Array:
    """Standard Gumbel noise [B, A], one row for each of `keys` [B]."""
    return jax.vmap(lambda key: jax.random.gumbel(key, (num_actions,)))(keys)
