"""The losses of the game, against PyTorch's binary cross entropy and at the limits of float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.objectives.adversarial import fake_loss, generator_loss, real_loss

LOGITS = np.concatenate([np.linspace(-30, 30, 61), [-1e4, -100.0, 100.0, 1e4]]).astype(np.float32)


def torch_bce(target):
    """(loss, gradient) of each logit."""
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle: pip install -e '.[oracles]'")
    logits = torch.tensor(LOGITS, requires_grad=True)
    targets = torch.full_like(logits, target)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    loss.sum().backward()
    return loss.detach().numpy(), logits.grad.numpy()


@pytest.mark.parametrize(
    ("loss", "target", "sign"),
    [
        (real_loss, 1.0, 1),
        (lambda x: real_loss(x, 0.1), 0.9, 1),
        (fake_loss, 0.0, 1),
        (generator_loss, 1.0, 1),
        (lambda x: generator_loss(x, "minimax"), 0.0, -1),
    ],
    ids=["real", "smoothed", "fake", "non_saturating", "minimax"],
)
def test_losses_and_gradients_are_pytorchs(loss, target, sign):
    wanted, gradient = torch_bce(target)
    logits = jnp.asarray(LOGITS)
    np.testing.assert_allclose(loss(logits), sign * wanted, rtol=1e-5, atol=1e-6)
    found = jax.grad(lambda x: loss(x).sum())(logits)
    np.testing.assert_allclose(found, sign * gradient, rtol=1e-4, atol=1e-6)


def test_only_the_non_saturating_loss_pulls_where_the_discriminator_is_sure():
    sure = jnp.float32(-40.0)
    assert float(jax.grad(generator_loss)(sure)) == pytest.approx(-1.0)
    assert float(jax.grad(lambda x: generator_loss(x, "minimax"))(sure)) == pytest.approx(0.0, abs=1e-15)


def test_at_the_equilibrium():
    zero = jnp.zeros(())
    assert float(real_loss(zero) + fake_loss(zero)) == pytest.approx(2 * np.log(2))
    assert float(generator_loss(zero)) == pytest.approx(np.log(2))


def test_an_unknown_loss_is_refused():
    with pytest.raises(ValueError, match="non_saturating, minimax; got 'wasserstein'"):
        generator_loss(jnp.zeros(1), "wasserstein")
