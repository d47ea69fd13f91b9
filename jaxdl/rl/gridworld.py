"""A grid world whose optimal policy can be computed: walls, a goal, pits, and a floor on which the agent slips.

After the stochastic grid of Russell & Norvig, Artificial Intelligence: A Modern Approach, chapter 17.
"""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.rl.environment import TimeStep

Array = jax.Array

ACTIONS = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left as (row, column)
FLOOR, WALL, GOAL, PIT, START = ".", "#", "G", "X", "S"
MAPS = {
    "rooms": (
        "S..#....",
        "...#....",
        "........",
        "...#.X..",
        "##.####.",
        "...#....",
        "...X..#.",
        "...#...G",
    ),
    "cliff": (
        "........",
        "........",
        "........",
        "SXXXXXXG",
    ),
    "russell": (
        "...G",
        ".#.X",
        "S...",
    ),
}


class GridState(NamedTuple):
    """`cell` int32, row-major number of the agent's cell; `time` int32."""

    cell: Array
    time: Array


@dataclass(frozen=True)
class GridWorld:
    """An agent that walks to the goal; the observation [cells] is one-hot, float32.

    Actions 0 to 3 are up, right, down, left. With probability `slip` the agent moves at a right angle instead, to
    either side alike; into a wall it stays. Entering the goal gives 1, entering a pit -1, and both end the episode;
    every other step gives `step_reward`.

    Attributes:
      rows: the map, one string a row, of FLOOR, WALL, GOAL, PIT and START.
      slip: probability of moving at a right angle, in [0, 1].
      step_reward: reward of a step that ends nothing.
      time_limit: steps after which an episode is truncated.
      random_start: begin on any floor cell alike, instead of at START.
    """

    rows: tuple[str, ...] = MAPS["rooms"]
    slip: float = 0.1
    step_reward: float = -0.01
    time_limit: int = 100
    random_start: bool = False

    def __post_init__(self):
        letters = set("".join(self.rows))
        if len({len(row) for row in self.rows}) != 1 or not letters <= {FLOOR, WALL, GOAL, PIT, START}:
            raise ValueError(f"a map needs rows of one length made of '.#GXS', got {self.rows}")
        if START not in letters or GOAL not in letters:
            raise ValueError("a map needs a start S and a goal G")

    @property
    def num_actions(self) -> int:
        """Four."""
        return len(ACTIONS)

    @property
    def num_cells(self) -> int:
        """Cells of the map, walls included."""
        return len(self.rows) * len(self.rows[0])

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """(cells,)."""
        return (self.num_cells,)

    @functools.cached_property
    def letters(self) -> np.ndarray:
        """What stands on each cell, [cells] of one-letter strings."""
        return np.array(list("".join(self.rows)))

    @property
    def ends(self) -> np.ndarray:
        """[cells] bool: goals and pits."""
        return np.isin(self.letters, [GOAL, PIT])

    @property
    def starts(self) -> np.ndarray:
        """Numbers of the cells where an episode may begin."""
        return np.flatnonzero(np.isin(self.letters, [FLOOR, START] if self.random_start else [START]))

    @functools.cached_property
    def moves(self) -> np.ndarray:
        """[cells, 4] int32: where a step in each direction leads if nothing slips."""
        height, width = len(self.rows), len(self.rows[0])
        found = np.zeros((self.num_cells, len(ACTIONS)), np.int32)
        for cell, letter in enumerate(self.letters):
            for action, (down, right) in enumerate(ACTIONS):
                row, column = cell // width + down, cell % width + right
                inside = 0 <= row < height and 0 <= column < width
                target = row * width + column if inside else cell
                stays = letter in (GOAL, PIT, WALL) or self.letters[target] == WALL
                found[cell, action] = cell if stays else target
        return found

    @functools.cached_property
    def entry_rewards(self) -> np.ndarray:
        """[cells] float32: the reward of a step that leads to each cell."""
        special = {GOAL: 1.0, PIT: -1.0}
        return np.array([special.get(letter, self.step_reward) for letter in self.letters], np.float32)

    def transitions(self) -> tuple[np.ndarray, np.ndarray]:
        """(P [cells, 4, cells], R [cells, 4]): probabilities and expected rewards; cells that end an episode give 0."""
        chances = {0: 1.0 - self.slip, 1: self.slip / 2, 3: self.slip / 2}
        probability = np.zeros((self.num_cells, len(ACTIONS), self.num_cells))
        for action in range(len(ACTIONS)):
            for turn, chance in chances.items():
                targets = self.moves[:, (action + turn) % len(ACTIONS)]
                probability[np.arange(self.num_cells), action, targets] += chance
        rewards = probability @ self.entry_rewards.astype(float)
        rewards[self.ends] = 0.0
        return probability, rewards

    def reset(self, key: Array) -> tuple[GridState, Array]:
        """One of `starts`, drawn from `key`."""
        cell = jax.random.choice(key, jnp.asarray(self.starts, jnp.int32))
        return GridState(cell, jnp.int32(0)), self.observe(cell)

    def step(self, state: GridState, action: Array, key: Array) -> tuple[GridState, TimeStep]:
        """One step; `key` is used for slipping."""
        chance = jax.random.uniform(key)
        turn = jnp.where(chance < 1 - self.slip, 0, jnp.where(chance < 1 - self.slip / 2, 1, 3))
        cell = jnp.asarray(self.moves)[state.cell, (action + turn) % len(ACTIONS)]
        time = state.time + 1
        ended = jnp.asarray(self.ends)[cell]
        found = TimeStep(self.observe(cell), jnp.asarray(self.entry_rewards)[cell], ended, time >= self.time_limit)
        return GridState(cell, time), found

    def observe(self, cell: Array) -> Array:
        """One-hot [cells]."""
        return jax.nn.one_hot(cell, self.num_cells, dtype=jnp.float32)


def value_iteration(
    probability: np.ndarray, rewards: np.ndarray, ends: np.ndarray, discount: float, tolerance: float = 1e-12
) -> np.ndarray:
    """Q* of a finite decision process: Q <- R + γ P max_a Q until it changes by less than `tolerance` (Bellman 1957).

    Args:
      probability: [S, A, S], S states, A actions.
      rewards: [S, A].
      ends: [S] bool, states without a future.
      discount: γ in [0, 1).

    Returns:
      [S, A] float64.
    """
    q = np.zeros(rewards.shape)
    while True:
        value = np.where(ends, 0.0, q.max(axis=1))
        new = rewards + discount * probability @ value
        if np.abs(new - q).max() < tolerance:
            return new
        q = new
