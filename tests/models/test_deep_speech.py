"""Networks over ragged spectrograms: padding and empty rows change nothing, shapes, and the transcription task."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.models.deep_speech import DeepSpeech, FrameNorm, SpeechClassifier, inside
from jaxdl.nn.context import batch_context
from jaxdl.objectives.ctc import ctc_loss
from jaxdl.optimizers import OptimizerConfig, hyper_parameters, make_optimizer
from jaxdl.tasks.transcription import transcription

FRAMES = np.array([37, 24, 30], np.int32)
OPTIMIZER = OptimizerConfig(name="sgd", learning_rate=0.1)


def spectra(length, frames=FRAMES, mels=12, garbage=0.0):
    """Features [B, length, M] that are the same whatever the length, with `garbage` behind the last frame."""
    full = np.random.default_rng(0).normal(size=(len(frames), 40, mels)).astype(np.float32)
    found = np.full((len(frames), length, mels), garbage, np.float32)
    found[:, : min(40, length)] = full[:, :length]
    return np.where(np.arange(length)[None, :, None] < frames[:, None, None], found, garbage)


def networks():
    return {
        "deep_speech": DeepSpeech(6, features=(4, 6), units=5, layers=1),
        "classifier": SpeechClassifier(features=(4, 6), hidden=7),
    }


def batch(length, frames=FRAMES, garbage=0.0):
    alignment = np.random.default_rng(1).integers(0, 6, (3, 60))[: len(frames), :length]
    return {
        "speech": jnp.asarray(spectra(length, frames, garbage=garbage)),
        "frames": jnp.asarray(frames),
        "digits": jnp.array([[0, 0, 4], [3, -1, -1], [2, 1, -1]])[: len(frames)],
        "count": jnp.array([3, 1, 2])[: len(frames)],
        "alignment": jnp.pad(jnp.asarray(alignment), ((0, 0), (0, length - alignment.shape[1]))),
        "mask": jnp.ones(len(frames)),
        "row": jnp.arange(len(frames)),
    }


def task(dropout=0.1):
    example = (jax.ShapeDtypeStruct((40, 12), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32))
    model = DeepSpeech(6, features=(4, 6), units=5, dropout=dropout)
    return transcription(model, make_optimizer(OPTIMIZER, 10), example)


def first_state(of):
    return jax.jit(lambda key: of.init(key, {k: jnp.float32(v) for k, v in hyper_parameters(OPTIMIZER).items()}))(
        jax.random.key(3)
    )


@pytest.mark.optimized  # sums in another order differ by more
@pytest.mark.parametrize(("name", "train"), [("deep_speech", False), ("classifier", False), ("classifier", True)])
def test_longer_padding_changes_nothing(name, train):
    model = networks()[name]
    variables = jax.jit(lambda key: model.init(key, spectra(40), FRAMES, train=False))(jax.random.key(0))
    variables = jax.tree.map(lambda leaf: leaf + 0.1, variables)

    # without dropout, whose draws depend on the shape
    model = model.clone(dropout=0.0)

    @jax.jit
    def outputs(x):
        return model.apply(variables, x, FRAMES, train=train, mutable=["batch_stats"])

    (short, first), (long, second) = outputs(spectra(40)), outputs(spectra(57, garbage=1e3))
    if name == "deep_speech":
        assert short["frames"].tolist() == [10, 6, 8]
        for row, count in enumerate([10, 6, 8]):
            for kind in ("logits", "framewise"):
                np.testing.assert_allclose(long[kind][row, :count], short[kind][row, :count], atol=2e-5)
    else:
        np.testing.assert_allclose(long, short, atol=2e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), first, second)


def test_longer_padding_changes_neither_loss_nor_gradient():
    made = task(dropout=0.0)
    state = first_state(made)
    step = jax.jit(made.step)
    one, short = step(state, batch(40), jax.random.key(0))
    two, long = step(state, batch(52, garbage=9.0), jax.random.key(0))
    for name in short:
        assert float(short[name].total) == pytest.approx(float(long[name].total), rel=1e-4), name
        assert float(short[name].count) == float(long[name].count)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=5e-5), one.nets["model"].params, two.nets["model"].params
    )


def test_rows_of_padding_change_nothing():
    made = task(dropout=0.0)
    state = first_state(made)
    small = {name: value[:2] for name, value in batch(40).items()}
    masked = batch(40) | {"mask": jnp.array([1.0, 1.0, 0.0])}
    step = jax.jit(made.step)
    (one, few), (two, more) = step(state, small, jax.random.key(0)), step(state, masked, jax.random.key(0))
    assert float(few["digit_error_rate"].count) == float(more["digit_error_rate"].count) == 4.0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), few, more)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), one.nets["model"], two.nets["model"])


def test_frame_norm_takes_its_moments_from_frames_that_count():
    x = np.random.default_rng(2).normal(3.0, 2.0, (3, 7, 4)).astype(np.float32)
    frames, module = np.array([7, 2, 5]), FrameNorm()
    variables = module.init(jax.random.key(0), x, frames, False)
    with batch_context(mask=jnp.array([1.0, 1.0, 0.0])):
        found, updated = module.apply(variables, x, frames, True, mutable=["batch_stats"])
    counted = np.concatenate([x[0], x[1, :2]])
    truth = (x - counted.mean(0)) / np.sqrt(counted.var(0) + 1e-5)
    valid = np.asarray(inside(jnp.asarray(frames), 7))
    np.testing.assert_allclose(found, np.where(valid[..., None], truth, 0.0), atol=1e-5)
    running = jax.tree.leaves(updated["batch_stats"])[0]
    np.testing.assert_allclose(running, 0.1 * counted.mean(0), rtol=1e-5)


def test_the_framewise_outputs_learn_without_teaching_the_others():
    made = task(dropout=0.0)
    state = first_state(made)
    given = batch(40)
    moved = given | {"alignment": (given["alignment"] + 1) % 6}
    step = jax.jit(made.step)
    ours, theirs = (step(state, each, jax.random.key(0)) for each in (given, moved))
    assert float(ours[1]["loss"].total) == pytest.approx(float(theirs[1]["loss"].total), rel=1e-6)
    (first, second) = (each[0].nets["model"].params for each in (ours, theirs))
    heads = first.pop("framewise"), second.pop("framewise")
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert not np.allclose(heads[0]["kernel"], heads[1]["kernel"])
    # and the value is CTC's
    net = state.nets["model"]
    variables = {"params": net.params, "batch_stats": net.stats}
    outputs = jax.jit(lambda v: made.model.apply(v, given["speech"], given["frames"]))(variables)
    _, metrics = jax.jit(made.evaluate)(state, given, jax.random.key(0))
    truth = ctc_loss(outputs["logits"], outputs["frames"], given["digits"], given["count"]).sum()
    assert float(metrics["loss"].total) == pytest.approx(float(truth), rel=1e-5)


def test_the_digit_error_rate_counts_digits_not_strings():
    made = task()
    path = jnp.array([[0, 5, 0, 5, 4, 4], [3, 3, 5, 1, 5, 5], [5, 5, 5, 5, 5, 5]])
    given = batch(24, np.array([24, 24, 24], np.int32))
    outputs = {
        "logits": 9.0 * jax.nn.one_hot(path, 6),
        "framewise": jax.nn.one_hot(given["alignment"][:, ::4], 6),
        "frames": jnp.array([6, 6, 6]),
    }
    metrics = made._measure(outputs, given, {})
    # right; one insertion; two deletions: 3 errors in 3 + 1 + 2 digits
    assert float(metrics["digit_error_rate"].total) == 3.0 and float(metrics["digit_error_rate"].count) == 6.0
    assert float(metrics["string_accuracy"].total) == 1.0 and float(metrics["framewise_accuracy"].total) == 3.0
