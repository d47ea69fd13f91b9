"""CartPole: a pole on a cart, to be kept upright for 500 steps by pushing left or right.

Barto, Sutton, Anderson: Neuronlike adaptive elements that can solve difficult learning control problems, IEEE Trans.
Systems, Man and Cybernetics 1983; constants, bounds and the reward of 1 a step are those of gymnasium's CartPole-v1.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdl.nn.noise import uniform
from jaxdl.rl.environment import TimeStep

Array = jax.Array

GRAVITY, CART_MASS, POLE_MASS, HALF_LENGTH = 9.8, 1.0, 0.1, 0.5  # m/s², kg, kg, m
FORCE, SECONDS = 10.0, 0.02  # N, s between two actions
FARTHEST, STEEPEST = 2.4, 12 * 2 * math.pi / 360  # m, rad
TOTAL_MASS, POLE_MOMENT = CART_MASS + POLE_MASS, POLE_MASS * HALF_LENGTH


class CartPoleState(NamedTuple):
    """`motion` [4] float32: position (m), velocity, angle (rad, 0 upright), angular velocity; `time` int32."""

    motion: Array
    time: Array


@dataclass(frozen=True)
class CartPole:
    """The observation [4] is the state's motion; actions are 0 (left) and 1 (right).

    Attributes:
      time_limit: steps after which an episode is truncated.
    """

    time_limit: int = 500
    observation_shape: tuple[int, ...] = (4,)
    num_actions: int = 2

    def reset(self, key: Array) -> tuple[CartPoleState, Array]:
        """All four numbers uniform in ±0.05, drawn from `key`."""
        motion = uniform(key, 4, -0.05, 0.05)
        return CartPoleState(motion, jnp.int32(0)), motion

    def step(self, state: CartPoleState, action: Array, key: Array) -> tuple[CartPoleState, TimeStep]:
        """One Euler step of the equations of motion; `key` is not used."""
        del key
        _, speed, angle, spin = state.motion
        force = jnp.where(action == 1, FORCE, -FORCE)
        cosine, sine = jnp.cos(angle), jnp.sin(angle)
        push = (force + POLE_MOMENT * jnp.square(spin) * sine) / TOTAL_MASS
        inertia = HALF_LENGTH * (4.0 / 3.0 - POLE_MASS * jnp.square(cosine) / TOTAL_MASS)
        spin_change = (GRAVITY * sine - cosine * push) / inertia
        speed_change = push - POLE_MOMENT * spin_change * cosine / TOTAL_MASS
        changes = jnp.stack([speed, speed_change, spin, spin_change])
        motion = state.motion + SECONDS * changes
        time = state.time + 1
        fallen = (jnp.abs(motion[0]) > FARTHEST) | (jnp.abs(motion[2]) > STEEPEST)
        return CartPoleState(motion, time), TimeStep(motion, jnp.float32(1.0), fallen, time >= self.time_limit)
