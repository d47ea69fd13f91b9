"""From an `OptimizerConfig` to an Optax chain that reads learning rate and penalties from `hyper` at every update."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdl.schedules import ENDS_WITH_THE_RUN, SHAPES, Shape, learning_rate_shape, linear_ramp
from jaxdl.settings import setting

PyTree = Any
Hyper = Mapping[str, jax.Array]

OPTIMIZERS = ("sgd", "momentum", "nesterov", "adagrad", "adadelta", "rmsprop", "adam", "adamw", "lbfgs")
_WITH_VELOCITY = ("momentum", "nesterov")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """How parameters are updated; the equations are in `make_optimizer`."""

    name: str = setting("adam", "update rule", choices=OPTIMIZERS)
    learning_rate: float = setting(1e-3, "peak learning rate; lbfgs searches its own", minimum=0.0)
    momentum: float = setting(0.9, "momentum, nesterov: share of the velocity kept", minimum=0.0, maximum=1.0)
    momentum_final: float = setting(0.9, "momentum at and after momentum_steps", minimum=0.0, maximum=1.0)
    momentum_steps: int = setting(0, "updates from momentum to momentum_final, linear; 0: constant", minimum=0)
    beta1: float = setting(0.9, "adam and adamw: decay of the mean gradient", minimum=0.0, maximum=1.0)
    beta2: float = setting(0.999, "adam and adamw: decay of the mean squared gradient", minimum=0.0, maximum=1.0)
    decay: float = setting(0.9, "rmsprop and adadelta: decay of the mean squares", minimum=0.0, maximum=1.0)
    epsilon: float = setting(0.0, "added to denominators; 0: 1e-8, for adadelta 1e-6", minimum=0.0)
    lbfgs_memory: int = setting(10, "lbfgs: pairs of differences that are kept", minimum=1)
    schedule: str = setting("constant", "shape of the learning rate over the updates", choices=SHAPES)
    warmup_steps: int = setting(0, "updates of linear warm-up before the schedule", minimum=0)
    boundaries: tuple[int, ...] = setting((), "step: updates at which the rate drops; (): every decay_steps", minimum=0)
    decay_steps: int = setting(1000, "step and exponential: updates per factor decay_rate", minimum=1)
    decay_rate: float = setting(0.1, "step and exponential: factor of the rate, (0, 1]", minimum=0.0, maximum=1.0)
    schedule_floor: float = setting(0.0, "lowest rate as a share of the peak", minimum=0.0, maximum=1.0)
    peak_fraction: float = setting(
        0.3, "one_cycle and triangle: share of the run before the peak", minimum=0.0, maximum=1.0
    )
    clip_value: float = setting(0.0, "clip each gradient element to +-clip_value; 0: off", minimum=0.0)
    clip_norm: float = setting(0.0, "scale the gradient down to this global norm; 0: off", minimum=0.0)
    weight_decay: float = setting(0.0, "decoupled decay of weights (not for adam: use adamw)", minimum=0.0)
    l1: float = setting(0.0, "adds l1 * sign(w) to the gradients of weights", minimum=0.0)
    l2: float = setting(0.0, "adds l2 * w to the gradients of weights", minimum=0.0)
    max_column_norm: float = setting(0.0, "largest norm of the weights into one unit; 0: off", minimum=0.0)
    ema_decay: float = setting(0.0, "decay of the moving average of parameters; 0: off", minimum=0.0, maximum=1.0)


def hyper_parameters(config: OptimizerConfig) -> dict[str, float]:
    """Initial values of what the optimiser reads from `hyper`: learning_rate, weight_decay, l1, l2.

    One of the last three that is 0 at first is never read: without it there is less to compute.
    """
    return {name: getattr(config, name) for name in ("learning_rate", "weight_decay", "l1", "l2")}


def depends_on_total_steps(config: OptimizerConfig) -> bool:
    """Whether the schedule is stretched over the run, so that a finished run cannot be made longer."""
    return config.schedule in ENDS_WITH_THE_RUN


def make_optimizer(config: OptimizerConfig, total_steps: int) -> optax.GradientTransformationExtraArgs:
    """Clip by value, clip by norm, add penalty gradients, direction, descent with decoupled decay, max column norm.

    With g the gradient after clipping and penalties, t = 0, 1, ... the update count, e = epsilon and
    lr_t = hyper["learning_rate"] * shape(t):

        sgd        w <- w - lr_t g
        momentum   v <- m_t v - lr_t g;  w <- w + v                            (Polyak 1964; the rule of pylearn2)
        nesterov   v <- m_t v - lr_t g;  w <- w + m_{t+1} v - lr_t g           (Sutskever et al. 2013; w looks ahead)
        adagrad    G <- G + g^2;  w <- w - lr_t g / sqrt(G + e)                (Duchi et al. 2011)
        rmsprop    E <- d E + (1-d) g^2;  w <- w - lr_t g / sqrt(E + e)        (Tieleman & Hinton 2012)
        adadelta   E as rmsprop;  u = g sqrt(D + e) / sqrt(E + e);
                   D <- d D + (1-d) u^2;  w <- w - lr_t u                      (Zeiler 2012, lr = 1)
        adam       M <- b1 M + (1-b1) g;  V <- b2 V + (1-b2) g^2;
                   M' = M / (1 - b1^(t+1));  V' = V / (1 - b2^(t+1));
                   w <- w - lr_t M' / (sqrt(V') + e)                           (Kingma & Ba 2015)
        adamw      adam, and decoupled decay                                   (Loshchilov & Hutter 2019)
        lbfgs      limited-memory BFGS with a zoom line search, full batches   (Nocedal & Wright 1999, 7.4 and 3.5)

    Decoupled decay subtracts lr_t * weight_decay * w. It and the penalties l1 |w| + l2 w^2 / 2 spare biases and norm
    scales (see `is_weight`). Clipping sees the data's gradient only, as in PyTorch. lbfgs adds the penalties to
    `value_fn` too.

    Args:
      config: see `OptimizerConfig`.
      total_steps: updates in the run, for schedules that end with it.

    Returns:
      A transformation, called as `update(grads, state, params, hyper=hyper, value=loss, grad=grads, value_fn=fn)`.
      `hyper` holds scalars (tracers too) under the names of `hyper_parameters`; `value` (scalar loss at `params`) and
      `value_fn` (params -> scalar loss) are needed by lbfgs alone. All leaves of the state exist from `init` on with
      their final dtype.

    Raises:
      ValueError: an impossible setting; a call without what the optimiser needs.
    """
    _validate(config)
    # what is read from `hyper` is no part of the transformation: two that differ only in it are built alike
    read: dict[str, Any] = {name: float(value > 0) for name, value in hyper_parameters(config).items()}
    config = dataclasses.replace(config, **read)
    links: list[optax.GradientTransformation] = []
    if config.clip_value > 0:
        links.append(optax.clip(config.clip_value))
    if config.clip_norm > 0:
        links.append(optax.clip_by_global_norm(config.clip_norm))
    if config.name == "lbfgs":
        links.append(_lbfgs(config.lbfgs_memory))
    else:
        # what is 0 is not computed: its gradients would read the parameters three times a step
        penalties = _add_penalty_gradients() if config.l1 or config.l2 else optax.identity()
        links += [penalties, _direction(config), _descend(config, total_steps)]
    if config.max_column_norm > 0:
        links.append(limit_column_norm(config.max_column_norm))
    return optax.chain(*links)


def update_ema(
    ema: PyTree, params: PyTree, decay: float | jax.Array, step: int | jax.Array, *, debias: bool = True
) -> PyTree:
    """Exponential moving average of the parameters after update number `step` = 0, 1, ...

    Plain: ema <- d ema + (1 - d) params. Debiased: with d (1 - d^step) / (1 - d^(step+1)) in the place of d the stored
    average is (1 - d) sum_i d^(step-i) params_i / (1 - d^(step+1)), which is Adam's bias correction, and the first
    `ema` has no influence.

    Args:
      ema: the average so far, a tree like `params`; before the first update a copy of the parameters.
      params: parameters after the update.
      decay: d in [0, 1); may be a tracer.
      step: int32 scalar, how many updates the average has seen before.
      debias: forget the initial value exactly.

    Returns:
      The new average, each leaf in the dtype of `ema`.
    """
    d = jnp.asarray(decay, jnp.float32)
    if debias:
        log_d = jnp.log(d) if isinstance(decay, jax.Array) else math.log(decay) if decay > 0 else -math.inf
        t = jnp.asarray(step, jnp.float32)
        # expm1: 1 - d^t loses most digits for d near one
        d = jnp.where(t > 0, d * jnp.expm1(jnp.maximum(t, 1) * log_d) / jnp.expm1((t + 1) * log_d), 0.0)
    return jax.tree.map(lambda old, new: (d * old + (1 - d) * new).astype(old.dtype), ema, params)


def is_weight(path: tuple, leaf: jax.Array) -> bool:
    """Whether decay and penalties apply: two axes or more, and not called bias or scale (a stack of biases has two)."""
    return leaf.ndim >= 2 and not _leaf_name(path).endswith(("bias", "scale"))


def limit_column_norm(limit: float) -> optax.GradientTransformation:
    """Last link: after the update no unit's incoming weights are longer than `limit` (Srivastava et al. 2014, 5.1).

    w <- w min(1, limit / |w|) for leaves called "kernel": dense [in, out], one vector w per column, and convolution
    [H, W, in, out], one per output channel. Kernels with another number of axes are left alone.
    """

    def project(path, u, p):
        if _leaf_name(path) != "kernel" or p.ndim not in (2, 4):
            return u
        new = p + u
        norm = jnp.sqrt(jnp.sum(jnp.square(new), axis=tuple(range(p.ndim - 1)), keepdims=True))
        return jnp.where(norm > limit, new * (limit / jnp.maximum(norm, limit)) - p, u)

    def update(updates, state, params=None):
        return jax.tree_util.tree_map_with_path(project, updates, _needed(params, "params")), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def freeze_after(steps: int, name: str) -> optax.GradientTransformation:
    """Last link: from update `steps` on, the leaves called `name` stay as they are."""

    def update(updates, count, params=None):
        del params
        keep = lambda path, u: jnp.where(count < steps, u, 0.0).astype(u.dtype) if _leaf_name(path) == name else u  # noqa: E731
        return jax.tree_util.tree_map_with_path(keep, updates), optax.safe_increment(count)

    return optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)


def describe(config: OptimizerConfig) -> str:
    """One line for the run's header: "adamw, learning rate 0.001 (cosine, warm-up 100), weight decay 0.01"."""
    if config.name == "lbfgs":
        parts = [f"lbfgs, memory {config.lbfgs_memory}"]
    else:
        schedule = config.schedule + (f", warm-up {config.warmup_steps}" if config.warmup_steps else "")
        parts = [config.name, f"learning rate {config.learning_rate:g} ({schedule})"]
    if config.name in _WITH_VELOCITY:
        ramp = f" to {config.momentum_final:g} in {config.momentum_steps} updates" if config.momentum_steps else ""
        parts.append(f"momentum {config.momentum:g}{ramp}")
    for name in ("weight_decay", "l1", "l2", "clip_value", "clip_norm", "max_column_norm", "ema_decay"):
        if getattr(config, name) > 0:
            parts.append(f"{name.replace('_', ' ')} {getattr(config, name):g}")
    return ", ".join(parts)


def _direction(config: OptimizerConfig) -> optax.GradientTransformation:
    """What the learning rate multiplies."""
    epsilon = config.epsilon or (1e-6 if config.name == "adadelta" else 1e-8)
    if config.name == "adagrad":
        return optax.scale_by_rss(initial_accumulator_value=0.0, eps=epsilon)
    if config.name == "rmsprop":
        return optax.scale_by_rms(decay=config.decay, eps=epsilon)
    if config.name == "adadelta":
        return optax.scale_by_adadelta(rho=config.decay, eps=epsilon)
    if config.name in ("adam", "adamw"):
        return _adam(config.beta1, config.beta2, epsilon)
    return optax.identity()


def _adam(beta1: float, beta2: float, epsilon: float) -> optax.GradientTransformation:
    """`optax.scale_by_adam` with 1 / (1 - b^t) as factors: of its three divisions an element two are of a scalar."""

    def update(updates, state, params=None):
        del params
        count = optax.safe_increment(state.count)
        mu = optax.tree.update_moment(updates, state.mu, beta1, 1)
        nu = optax.tree.update_moment(updates, state.nu, beta2, 2)
        first, second = (1 / (1 - decay ** count.astype(jnp.float32)) for decay in (beta1, beta2))
        direction = jax.tree.map(
            lambda m, v: (m * first.astype(m.dtype)) / (jnp.sqrt(v * second.astype(v.dtype)) + epsilon), mu, nu
        )
        return direction, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(optax.scale_by_adam(beta1, beta2).init, update)


class _DescentState(NamedTuple):
    step: jax.Array
    velocity: PyTree


def _descend(config: OptimizerConfig, total_steps: int) -> optax.GradientTransformationExtraArgs:
    """direction -> -lr_t direction, through the velocity where there is one, minus lr_t * weight_decay * w.

    The rate is inside the velocity (v <- m v - lr g): a rate that falls does not slow the steps already under way,
    unlike PyTorch's rule. With a constant rate both are equal.
    """
    shape = schedule_shape(config, total_steps)
    momentum = linear_ramp(config.momentum, config.momentum_final, config.momentum_steps)
    with_velocity = config.name in _WITH_VELOCITY

    def init(params):
        return _DescentState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params) if with_velocity else ())

    def update(updates, state, params=None, *, hyper=None, **_):
        hyper = _needed(hyper, "hyper")
        rate = hyper["learning_rate"] * shape(state.step)
        steps = jax.tree.map(lambda g: -rate * g, updates)
        velocity = state.velocity
        if with_velocity:
            m = momentum(state.step)
            velocity = jax.tree.map(lambda v, s: (m * v + s).astype(v.dtype), velocity, steps)
            if config.name == "nesterov":
                ahead = momentum(state.step + 1)
                steps = jax.tree.map(lambda v, s: ahead * v + s, velocity, steps)
            else:
                steps = velocity

        def decay(path, s, p):
            s = s - rate * hyper["weight_decay"] * p if config.weight_decay and is_weight(path, p) else s
            return s.astype(p.dtype)

        steps = jax.tree_util.tree_map_with_path(decay, steps, _needed(params, "params"))
        return steps, _DescentState(optax.safe_increment(state.step), velocity)

    return optax.GradientTransformationExtraArgs(init, update)


def schedule_shape(config: OptimizerConfig, total_steps: int) -> Shape:
    """The learning rate's shape (peak 1) as a function of the update count; what reports draw."""
    return learning_rate_shape(
        config.schedule,
        total_steps,
        warmup_steps=config.warmup_steps,
        boundaries=config.boundaries,
        decay_steps=config.decay_steps,
        decay_rate=config.decay_rate,
        floor=config.schedule_floor,
        peak_fraction=config.peak_fraction,
    )


def _penalty(params: PyTree, hyper: Hyper) -> jax.Array:
    """l1 |w|_1 + l2 |w|^2 / 2 over weights, scalar."""
    terms = [
        hyper["l1"] * jnp.abs(p).sum() + 0.5 * hyper["l2"] * jnp.square(p).sum()
        for path, p in jax.tree_util.tree_leaves_with_path(params)
        if is_weight(path, p)
    ]
    return sum(terms, jnp.zeros((), jnp.float32))


def _with_penalty_gradients(grads: PyTree, params: PyTree, hyper: Hyper) -> PyTree:
    def add(path, g, p):
        return (g + hyper["l1"] * jnp.sign(p) + hyper["l2"] * p).astype(g.dtype) if is_weight(path, p) else g

    return jax.tree_util.tree_map_with_path(add, grads, params)


def _add_penalty_gradients() -> optax.GradientTransformationExtraArgs:
    def update(updates, state, params=None, *, hyper=None, **_):
        return _with_penalty_gradients(updates, _needed(params, "params"), _needed(hyper, "hyper")), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def _lbfgs(memory: int) -> optax.GradientTransformationExtraArgs:
    """Optax's lbfgs on the penalised objective."""
    solver = optax.lbfgs(memory_size=memory)

    def init(params):
        # Optax starts with weakly typed scalars and with two references to one buffer: the first would recompile, the
        # second cannot be donated
        return jax.tree.map(lambda x: jnp.array(x, dtype=jnp.asarray(x).dtype, copy=True), solver.init(params))

    def update(updates, state, params=None, *, hyper=None, value=None, value_fn: Callable | None = None, **_):
        params, hyper = _needed(params, "params"), _needed(hyper, "hyper")
        objective = _needed(value_fn, "value_fn")
        grads = _with_penalty_gradients(updates, params, hyper)
        updates, state = solver.update(
            grads,
            state,
            params,
            value=_needed(value, "value") + _penalty(params, hyper),
            grad=grads,
            value_fn=lambda p: objective(p) + _penalty(p, hyper),
        )
        return updates, state

    return optax.GradientTransformationExtraArgs(init, update)


def _leaf_name(path: tuple) -> str:
    return str(getattr(path[-1], "key", getattr(path[-1], "name", ""))) if path else ""


def _needed(argument: Any, name: str) -> Any:
    if argument is None:
        raise ValueError(f"the optimiser's update needs `{name}`; see make_optimizer for the call")
    return argument


def _validate(config: OptimizerConfig) -> None:
    for leaf in dataclasses.fields(config):
        value, limits = getattr(config, leaf.name), leaf.metadata
        if limits["choices"] and value not in limits["choices"]:
            raise ValueError(f"{leaf.name} must be one of {', '.join(limits['choices'])}; got {value!r}")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, str):
                continue
            low, high = limits["minimum"], limits["maximum"]
            if not math.isfinite(number) or (low is not None and number < low) or (high is not None and number > high):
                bounds = f"between {low:g} and {high:g}" if high is not None else f"a finite number of at least {low:g}"
                raise ValueError(f"{leaf.name} must be {bounds}; got {number}")
    for message, wrong in _contradictions(config).items():
        if wrong:
            raise ValueError(message)


def _contradictions(c: OptimizerConfig) -> dict[str, bool]:
    """What cannot be, though each value alone could."""
    lbfgs, velocity = c.name == "lbfgs", c.name in _WITH_VELOCITY
    not_for_lbfgs = ("clip_value", "clip_norm", "max_column_norm", "weight_decay", "l1", "warmup_steps")
    return {
        "momentum must be below 1, or the velocity never settles": max(c.momentum, c.momentum_final) >= 1,
        "beta1, beta2 and decay must be below 1, or the averages never move": max(c.beta1, c.beta2, c.decay) >= 1,
        "ema_decay must be below 1, or the average never moves": c.ema_decay >= 1,
        "decay_rate must be above 0": c.decay_rate <= 0,
        "peak_fraction must lie strictly between 0 and 1": not 0 < c.peak_fraction < 1,
        "boundaries must increase": list(c.boundaries) != sorted(set(c.boundaries)),
        "boundaries belong to schedule=step": bool(c.boundaries) and c.schedule != "step",
        "momentum_steps belongs to name=momentum or nesterov": c.momentum_steps > 0 and not velocity,
        "adam has no decoupled weight decay: set name=adamw, or use l2": c.name == "adam" and c.weight_decay > 0,
        "lbfgs searches its own step: schedule must be constant": lbfgs and c.schedule != "constant",
        f"lbfgs needs the true gradient of a smooth objective: {', '.join(not_for_lbfgs)} must be 0": lbfgs
        and any(getattr(c, name) > 0 for name in not_for_lbfgs),
    }
