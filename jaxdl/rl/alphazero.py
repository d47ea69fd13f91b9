"""AlphaZero: self-play by search, and a network that learns what the searches and the games said.

Silver et al.: A general reinforcement learning algorithm that masters chess, shogi, and Go through self-play, Science
362 (2018), with the search of Danihelka et al., ICLR 2022 (see `jaxdl.rl.search`).

Legend: `B` games (rows), `R` positions that a game's ring keeps, `A` actions, `K` rows of a training batch.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxdl.engine.experiment import Metrics, Serving
from jaxdl.engine.state import Mean, Net, State
from jaxdl.nn.context import batch_context
from jaxdl.optimizers import update_ema
from jaxdl.rl.game import Game, GameState, Opponent, choose, draw_action, replay
from jaxdl.rl.search import Found, GumbelSearch, gumbel_noise
from jaxdl.rl.self_play import Ring, below, recorded, sampled, settled

Array = jax.Array
Batch = Mapping[str, Array]
NET = "model"
SEATS = ("seat1", "seat2")


@dataclass(frozen=True)
class AlphaZero:
    """Plays `plies` plies in every game, then makes `updates` updates on positions of finished games.

    A position's targets are the search's improved policy π and the game's result z for the player to move. The loss
    of one position is −Σ_a π_a log p_a + hyper["value_weight"] · (z − v)².

    A step's batch is None. An evaluation's batch are games to be played: "opponent" [B] (index into `opponents`),
    "seat" [B] (0: the agent moves first) and "number" [B] (unlike for each game; the noise is keyed by it). What
    `predict` reads is "moves" [B, T]: actions from the first position on, negative ones are padding.

    Attributes:
      game: the rules.
      model: observations [B, H, W, C] -> (policy logits [B, A], values [B] in (-1, 1)).
      optimizer: from `jaxdl.optimizers.make_optimizer`; `updates` times as many updates as steps.
      search: how moves are searched, in self-play (with noise) and in evaluation (without).
      opponents: name -> player, for evaluation.
      games: B.
      plies: plies of every game in one step.
      updates: updates of the network in one step.
      samples: positions of each game's ring in one update; K = B · samples.
      capacity: R.
      openings: a game of self-play begins with 0 to this many uniformly random plies, so that it meets positions
        that good play never leads to.
      symmetries: whether training positions are turned and mirrored at random.
      ema_decay: decay of the parameters' moving average over steps, which is then what is judged; 0: none.
      dtype: compute dtype of layers that fix none; parameters stay float32.
      axis: pmap's axis name, set by the engine.
    """

    game: Game
    model: nn.Module
    optimizer: optax.GradientTransformationExtraArgs
    search: GumbelSearch
    opponents: Mapping[str, Opponent] = field(default_factory=dict)
    games: int = 128
    plies: int = 4
    updates: int = 4
    samples: int = 4
    capacity: int = 128
    openings: int = 0
    symmetries: bool = True
    ema_decay: float = 0.0
    dtype: Any = None
    axis: str | None = None

    def __post_init__(self) -> None:
        if self.capacity < self.game.max_plies:
            raise ValueError(
                f"the ring must hold a whole game: capacity {self.capacity} is less than the {self.game.max_plies} "
                f"plies of {self.game.name}"
            )

    @property
    def items_per_step(self) -> int:
        """Plies of self-play."""
        return self.games * self.plies

    def init(self, key: Array, hyper: Mapping[str, Array]) -> State:
        """Parameters from `key`, and games that begin; see `Task.init`."""
        example = jnp.zeros((2, *self.game.observation_shape))
        variables = self.model.init({"params": key}, example, train=False)
        params, stats = variables["params"], variables.get("batch_stats", {})
        ema = (params, stats) if self.ema_decay else None
        net = Net(params=params, stats=stats, opt=self.optimizer.init(params), ema=ema)
        rows = jnp.arange(self.games, dtype=jnp.int32)
        states = _broadcast(self.game.init(), self.games)
        ring = jax.vmap(lambda _: Ring.empty(self.game, self.capacity))(rows)
        local = {"row": rows, "game": states, "opening": jnp.zeros(self.games, jnp.int32), "ring": ring}
        return State(step=jnp.int32(0), nets={NET: net}, local=local, hyper=dict(hyper))

    def step(self, state: State, batch: None, key: Array) -> tuple[State, Metrics]:
        """Self-play, then updates; see `Task.step`.

        Args:
          state: as `init` or a step made it.
          batch: None.
          key: used for the searches' noise, random plies and how many open a game, which positions are learnt from and
            how they are turned, and the network's noise.

        Returns:
          The next state; means of "length" and "drawn" of the games that ended, and the losses of the updates.
        """
        net, local = state.nets[NET], state.local

        def ply(i: Array, carry: tuple) -> tuple:
            local, found = carry
            local, more = self._ply(net, local, jax.random.fold_in(key, i), state.hyper)
            return local, jax.tree.map(jnp.add, found, more)

        def update(i: Array, carry: tuple) -> tuple:
            net, found = carry
            net, more = self._update(net, local, jax.random.fold_in(key, self.plies + i), state.hyper)
            return net, jax.tree.map(jnp.add, found, more)

        zero = Mean(jnp.float32(0), jnp.float32(0))
        played = {"length": zero, "drawn": zero}
        local, played = lax.fori_loop(0, self.plies, ply, (local, played))
        learnt = {"loss": zero, "policy_loss": zero, "value_loss": zero}
        net, learnt = lax.fori_loop(0, self.updates, update, (net, learnt))
        if self.ema_decay:
            net = net.replace(ema=update_ema(net.ema, (net.params, net.stats), self.ema_decay, state.step))
        return state.replace(nets={NET: net}, local=local), {**played, **learnt}

    def evaluate(self, state: State, batch: Batch, key: Array) -> tuple[State, Metrics]:
        """Plays the batch's games to their end: shares of losses against each opponent, and by seat.

        Args:
          state: see `for_evaluation`.
          batch: "opponent", "seat" and "number" [B] (see the class), and "mask" [B], 0 for games that do not count.
          key: used for the opponents' draws, with the games' numbers; the agent searches without noise.

        Returns:
          The same state; means of "losses_<opponent>", "<seat>/wins_<opponent>" and "<seat>/losses_<opponent>".
        """
        keys = row_keys(key, batch["number"])
        rewards = self._match(state.nets[NET], batch["opponent"], batch["seat"], keys)
        metrics = {}
        for index, name in enumerate(self.opponents):
            against = batch["mask"] * (batch["opponent"] == index)
            metrics[f"losses_{name}"] = Mean.of(rewards < 0, against)
            for seat, seat_name in enumerate(SEATS):
                seated = against * (batch["seat"] == seat)
                metrics[f"{seat_name}/wins_{name}"] = Mean.of(rewards > 0, seated)
                metrics[f"{seat_name}/losses_{name}"] = Mean.of(rewards < 0, seated)
        return state, metrics

    def for_evaluation(self, state: State) -> State:
        """The averaged parameters, where an average is kept."""
        net = state.nets[NET]
        return state.replace(nets={NET: net.averaged()})

    def predict(self, state: State, batch: Batch) -> dict[str, Array]:
        """What network and search say of positions: `Found`'s fields, "choice" [B, A] (one for the move to make), and
        of the positions "legal" [B, A], "player" [B], "terminated" [B], "reward" [B, 2] and "observation"."""
        positions = jax.vmap(lambda moves: replay(self.game, moves))(batch["moves"])
        found = self._searched(state.nets[NET], positions, jnp.zeros((len(batch["moves"]), self.game.num_actions)))
        return {
            **found._asdict(),
            "choice": jax.nn.one_hot(found.action, self.game.num_actions),
            "legal": jax.vmap(self.game.legal_actions)(positions),
            "player": positions.player,
            "terminated": positions.terminated,
            "reward": positions.reward,
            "observation": jax.vmap(self.game.observation)(positions),
        }

    def serving(self) -> Serving:
        """{"observation" [B, H, W, C]} -> {"logits" [B, A], "value" [B]}, the network without search; see `Task`."""

        def network(state: State, inputs: Batch) -> dict[str, Array]:
            logits, value = self._evaluated(state.nets[NET], inputs["observation"])
            return {"logits": logits, "value": value}

        return Serving(network, {"observation": jax.ShapeDtypeStruct(self.game.observation_shape, jnp.float32)})

    # --- self-play --------------------------------------------------------------------------------------------------

    def _searched(self, net: Net, states: GameState, gumbel: Array) -> Found:
        def evaluate(states: GameState) -> tuple[Array, Array]:
            return self._evaluated(net, jax.vmap(self.game.observation)(states))

        return self.search(evaluate, states, gumbel)

    def _evaluated(self, net: Net, observations: Array) -> tuple[Array, Array]:
        variables = {"params": net.params, **({"batch_stats": net.stats} if net.stats else {})}
        with batch_context(dtype=self.dtype):
            outputs: Any = self.model.apply(variables, observations, train=False)
        return outputs

    def _ply(self, net: Net, local: dict, key: Array, hyper: Mapping[str, Array]) -> tuple[dict, Metrics]:
        """One ply in each game; finished ones are settled in their rings and begin anew."""
        games, ring, before = local["game"], local["ring"], local["opening"]
        keys = jax.vmap(jax.random.split)(row_keys(key, local["row"]))
        gumbel = gumbel_noise(keys[:, 0], self.game.num_actions)
        found = self._searched(net, games, hyper["gumbel_scale"] * gumbel)
        # the largest of the legal actions' noise is a uniform draw
        legal = jax.vmap(self.game.legal_actions)(games)
        uniform = jnp.where(legal, gumbel, -jnp.inf).argmax(axis=-1).astype(jnp.int32)
        after = jax.vmap(self.game.step)(games, jnp.where(before > 0, uniform, found.action))
        ring = jax.vmap(recorded)(ring, jax.vmap(self.game.observation)(games), found.policy, before == 0)
        length, ended = ring.playing, after.terminated
        result = jnp.take_along_axis(after.reward, games.player[:, None], axis=1)[:, 0]
        ring = jax.vmap(settled)(ring, result, ended)
        fresh = below(jax.vmap(jax.random.bits)(keys[:, 1]), self.openings + 1)
        local = {
            "row": local["row"],
            "game": jax.vmap(choose)(ended, _broadcast(self.game.init(), ended.shape[0]), after),
            "opening": jnp.where(ended, fresh, jnp.maximum(before - 1, 0)),
            "ring": ring,
        }
        return local, {"length": Mean.of(length, ended), "drawn": Mean.of(result == 0, ended)}

    def _match(self, net: Net, opponents: Array, seats: Array, keys: Array) -> Array:
        """The agent's rewards [B] in games against opponents [B] from seats [B]."""
        players = tuple(self.opponents.values())

        def reply(state: GameState, opponent: Array, key: Array) -> GameState:
            weights = jnp.stack([player(state) for player in players])[opponent]
            return self.game.step(state, draw_action(weights, key))

        def round_of(i: Array, states: GameState) -> GameState:
            # the agent is to move in all games at once: in the first round it waits where it has the second seat
            found = self._searched(net, states, jnp.zeros((seats.shape[0], self.game.num_actions)))
            moved = jax.vmap(self.game.step)(states, found.action)
            states = jax.vmap(choose)((i > 0) | (seats == 0), moved, states)
            return jax.vmap(reply)(states, opponents, jax.vmap(jax.random.fold_in, (0, None))(keys, i))

        start = _broadcast(self.game.init(), seats.shape[0])
        states = lax.fori_loop(0, self.game.max_plies // 2 + 1, round_of, start)
        return jnp.take_along_axis(states.reward, seats[:, None], axis=1)[:, 0]

    # --- learning ---------------------------------------------------------------------------------------------------

    def _pmean(self, tree: Any) -> Any:
        return tree if self.axis is None else lax.pmean(tree, self.axis)

    def _update(self, net: Net, local: dict, key: Array, hyper: Mapping[str, Array]) -> tuple[Net, Metrics]:
        """One update on positions drawn from each game's ring."""
        rows = local["row"]
        cells, actions = self.game.symmetries
        symmetries = (cells, actions) if self.symmetries else (cells[:1], actions[:1])
        draw = functools.partial(sampled, count=self.samples, symmetries=symmetries)
        batch = jax.vmap(draw)(local["ring"], row_keys(key, rows))
        numbers = rows[:, None] * self.samples + jnp.arange(self.samples, dtype=jnp.int32)
        batch = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), {**batch, "row": numbers})
        count = jnp.maximum(self._pmean(batch["mask"].sum()), 1e-6)

        def total(params: Any) -> tuple[Array, tuple[Any, Metrics]]:
            stats, metrics = self._losses(params, net.stats, batch, key, hyper)
            return metrics["loss"].total / count, (stats, metrics)

        (_, (stats, metrics)), grads = jax.value_and_grad(total, has_aux=True)(net.params)
        updates, opt = self.optimizer.update(self._pmean(grads), net.opt, net.params, hyper=hyper)
        updated = net.replace(params=optax.apply_updates(net.params, updates), stats=stats, opt=opt)
        # before the first game has ended there is nothing to learn from
        return choose(self._pmean(batch["mask"].sum()) > 0, updated, net), metrics

    def _losses(
        self, params: Any, stats: Any, batch: Batch, key: Array, hyper: Mapping[str, Array]
    ) -> tuple[Any, Metrics]:
        variables = {"params": params, **({"batch_stats": stats} if stats else {})}
        with batch_context(rows=batch["row"], mask=batch["mask"], axis=self.axis, dtype=self.dtype):
            (logits, values), changed = self.model.apply(
                variables, batch["observation"], train=True, rngs={"noise": key}, mutable=["batch_stats"]
            )
        policy_loss = optax.softmax_cross_entropy(logits, batch["policy"])
        value_loss = jnp.square(values - batch["value"])
        losses = {
            "loss": policy_loss + hyper["value_weight"] * value_loss,
            "policy_loss": policy_loss,
            "value_loss": value_loss,
        }
        return changed.get("batch_stats", stats), {name: Mean.of(x, batch["mask"]) for name, x in losses.items()}


def row_keys(key: Array, rows: Array) -> Array:
    """One key for each of `rows` [B], the same on any number of devices."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, rows)


def _broadcast(state: GameState, count: int) -> GameState:
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), state)
