"""The AlphaZero task: what self-play records, what updates minimise, what matches count."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdl.models.alphazero import PolicyValueMLP, PolicyValueResNet
from jaxdl.optimizers import OptimizerConfig, make_optimizer
from jaxdl.rl.alphazero import AlphaZero
from jaxdl.rl.game import uniform_player
from jaxdl.rl.search import GumbelSearch
from jaxdl.rl.tictactoe import CELLS, TicTacToe, perfect_play, perfect_player

GAME = TicTacToe()
GAMES, OPENINGS, CAPACITY = 16, 3, 24
HYPER = {"learning_rate": 0.1, "weight_decay": 0.0, "l1": 0.0, "l2": 0.0, "gumbel_scale": 1.0, "value_weight": 0.5}


def task(**changes):
    values = {
        "game": GAME,
        "model": PolicyValueMLP(9, (16,)),
        "optimizer": make_optimizer(OptimizerConfig(name="sgd"), 100),
        "search": GumbelSearch(GAME, simulations=4),
        "opponents": {"perfect": perfect_player(), "random": uniform_player(GAME)},
        "games": GAMES,
        "plies": 3,
        "updates": 1,
        "samples": 2,
        "capacity": CAPACITY,
        "openings": OPENINGS,
    }
    return AlphaZero(**{**values, **changes})


@pytest.fixture(scope="module")
def played():
    """States after 0 ... 30 steps, and each step's metrics."""
    agent = task()
    state = agent.init(jax.random.key(0), {name: jnp.float32(value) for name, value in HYPER.items()})
    step = jax.jit(agent.step)
    states, metrics = [state], []
    for number in range(30):
        state, found = step(state, None, jax.random.fold_in(jax.random.key(1), number))
        states.append(state)
        metrics.append(jax.tree.map(float, found))
    return jax.tree.map(np.asarray, states), metrics


def boards_of(ring, row):
    """The newest positions of finished games of one row, oldest first: (stones [9] of mover and other, policy, value)."""
    written, playing = int(ring.written[row]), int(ring.playing[row])
    count = min(written, CAPACITY) - playing
    found = []
    for age in reversed(range(count)):
        slot = (written - playing - 1 - age) % CAPACITY
        found.append((ring.observation[row, slot].reshape(9, 2), ring.policy[row, slot], float(ring.value[row, slot])))
    return found


def code_of(stones):
    """The code of an observation [9, 2]; X moves where both have as many stones."""
    mine, theirs = (1, 2) if stones[:, 0].sum() == stones[:, 1].sum() else (2, 1)
    return int(((stones[:, 0] * mine + stones[:, 1] * theirs) * 3 ** np.arange(9)).sum())


def test_the_ring_holds_games_with_their_results(played):
    states, _ = played
    solved, starts, seen = perfect_play(), set(), 0
    for row in range(GAMES):
        entries = boards_of(states[-1].local["ring"], row)
        codes = [code_of(stones) for stones, _, _ in entries]
        for i, (stones, policy, value) in enumerate(entries):
            assert solved.reachable[codes[i]] and not solved.terminated[codes[i]]
            np.testing.assert_allclose(policy.sum(), 1.0, atol=1e-5)
            assert (policy[stones.any(axis=1)] == 0).all()
            if i + 1 == len(entries):
                continue
            grows = stones.sum() + 1 == entries[i + 1][0].sum() and codes[i + 1] > codes[i]
            if grows and (entries[i + 1][0][:, ::-1] >= stones).all():
                assert entries[i + 1][2] == -value  # one game: the result alternates in sign
                seen += 1
            else:  # the next game begins, after an opening
                assert entries[i + 1][0].sum() <= OPENINGS
                starts.add(int(entries[i + 1][0].sum()))
                # the last ply: it won, or filled the board
                assert value in ((1.0,) if stones.sum() < 8 else (0.0, 1.0))
    assert seen > 100 and starts == {0, 1, 2, 3}


def test_finished_games_begin_anew_and_all_is_counted(played):
    states, metrics = played
    for state in states:
        assert not state.local["game"].terminated.any()
        assert ((state.local["ring"].playing == 0) | (state.local["opening"] == 0)).all()
    recorded = [int(state.local["ring"].written.sum() - state.local["ring"].playing.sum()) for state in states]
    lengths = [found["length"].total for found in metrics]
    np.testing.assert_array_equal(np.diff(recorded), lengths)
    assert sum(found["length"].count for found in metrics) >= 16 * 90 / (CELLS + OPENINGS)
    assert metrics[0]["loss"].count == 0 and metrics[-1]["loss"].count == GAMES * 2
    # without a finished game nothing is learnt
    first, second = (states[i].nets["model"].params for i in (0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True))
    assert not np.array_equal(states[-1].nets["model"].params["Dense_0"]["kernel"], first["Dense_0"]["kernel"])


def test_rows_are_unlike_each_other(played):
    observations = played[0][-1].local["ring"].observation.reshape(GAMES, -1)
    assert len({row.tobytes() for row in observations}) == GAMES


def test_the_loss_is_cross_entropy_and_squared_error(played):
    agent, state = task(), jax.tree.map(jnp.asarray, played[0][-1])
    draw = np.random.default_rng(0)
    batch = {
        "observation": draw.random((6, 3, 3, 2)) < 0.3,
        "policy": draw.dirichlet(np.ones(9), 6).astype(np.float32),
        "value": np.array([1, -1, 0, 1, 0, -1], np.float32),
        "mask": np.array([1, 1, 1, 0, 1, 0], np.float32),
        "row": np.arange(6),
    }
    net = state.nets["model"]
    _, metrics = agent._losses(net.params, net.stats, batch, jax.random.key(0), state.hyper)
    logits, values = agent.model.apply({"params": net.params}, batch["observation"])
    logits, values = np.asarray(logits, np.float64), np.asarray(values, np.float64)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    policy_loss, value_loss = -(batch["policy"] * log_p).sum(axis=1), (values - batch["value"]) ** 2
    keep = batch["mask"] > 0
    assert float(metrics["policy_loss"].total) == pytest.approx(policy_loss[keep].sum(), rel=1e-5)
    assert float(metrics["value_loss"].total) == pytest.approx(value_loss[keep].sum(), rel=1e-5)
    assert float(metrics["loss"].total) == pytest.approx((policy_loss + 0.5 * value_loss)[keep].sum(), rel=1e-5)
    assert float(metrics["loss"].count) == 4


class Knowing(nn.Module):
    """A network that knows minimax, from observations [B, 3, 3, 2]."""

    @nn.compact
    def __call__(self, x, train=False):
        x = x.reshape(x.shape[0], 9, 2).astype(jnp.int32)
        first = x[..., 0].sum(axis=1) == x[..., 1].sum(axis=1)
        marks = jnp.where(first[:, None], x[..., 0] + 2 * x[..., 1], 2 * x[..., 0] + x[..., 1])
        codes = (marks * 3 ** jnp.arange(9)).sum(axis=1)
        solved = perfect_play()
        self.param("unused", nn.initializers.zeros_init(), (1,))
        return 3.0 * jnp.asarray(solved.optimal)[codes], jnp.asarray(solved.value, jnp.float32)[codes]


def test_matches_are_counted_by_opponent_and_seat():
    agent = task(model=Knowing(), optimizer=optax.with_extra_args_support(optax.sgd(0.1)))
    state = agent.init(jax.random.key(0), {name: jnp.float32(value) for name, value in HYPER.items()})
    count = 400
    batch = {
        "opponent": jnp.arange(count) % 2,
        "seat": jnp.arange(count) // 2 % 2,
        "number": jnp.arange(count),
        "row": jnp.arange(count),
        "mask": (jnp.arange(count) < 398).astype(jnp.float32),
    }
    evaluate = jax.jit(lambda state, batch: agent.evaluate(state, batch, jax.random.key(3))[1])
    found = jax.tree.map(float, evaluate(state, batch))
    assert found["losses_perfect"].count == found["losses_random"].count == 199
    assert found["seat1/wins_perfect"].count == 100 and found["seat2/wins_random"].count == 99
    for name, mean in found.items():
        if "losses" in name or "perfect" in name:
            assert mean.total == 0, name  # perfect play never loses, and cannot be beaten
    # X wins about 97 % of its games against random replies if it plays perfectly, O about 88 %
    assert 0.9 < found["seat1/wins_random"].total / 100 <= 1.0
    assert 0.7 < found["seat2/wins_random"].total / 99 < 1.0
    again = jax.tree.map(float, evaluate(state, {**batch, "number": batch["number"] + 10_000}))
    assert again["seat2/wins_random"] != found["seat2/wins_random"]  # other numbers, other games


def test_a_ring_must_hold_a_game():
    with pytest.raises(ValueError, match="capacity 8 is less than the 9 plies"):
        task(capacity=8)


def test_networks_have_a_policy_and_a_value():
    board = jnp.zeros((4, 5, 6, 3), bool)
    model = PolicyValueMLP(7, (8, 8))
    outputs = model.apply(model.init(jax.random.key(0), board), board)
    assert not any(np.asarray(each).any() for each in outputs)  # nothing is known at the start
    tower = PolicyValueResNet(7, width=4, blocks=1)
    variables = jax.eval_shape(tower.init, jax.random.key(0), board)
    for logits, values in (outputs, jax.eval_shape(tower.apply, variables, board)):
        assert logits.shape == (4, 7) and values.shape == (4,)


def test_items_are_plies():
    assert task().items_per_step == GAMES * 3
    assert dataclasses.replace(task(), plies=5).items_per_step == GAMES * 5
