"""Losses of tokens are torch's cross entropy, whole or in parts, with the same gradients."""

import pytest
import torch
from torch import nn

from hpo.training.base import cross_entropy
from hpo.training.base.cross_entropy import head_losses, token_by_token, token_losses
from hpo.training.base.lora import LoraBase
from hpo.training.memory.probe import LiveBytes

TOKENS, WIDTH, WORDS = 9, 6, 11


def drawn():
    """(hidden states, labels of which some are ignored, weights of the losses)."""
    generator = torch.Generator().manual_seed(2)
    hidden = 5.0 * torch.randn(TOKENS, WIDTH, generator=generator)
    labels = torch.randint(0, WORDS, (TOKENS,), generator=generator)
    labels[[2, 8]] = -100
    return hidden, labels, torch.rand(TOKENS, generator=generator)


def make_head(bias=True):
    torch.manual_seed(0)
    return nn.Linear(WIDTH, WORDS, bias=bias).requires_grad_(False)


def with_gradient(losses_of, inputs, weights):
    """The losses, and the gradient of what they are of."""
    own = inputs.clone().requires_grad_()
    losses = losses_of(own)
    (losses * weights).sum().backward()
    return losses.detach(), own.grad


def of_torch(logits, labels):
    return nn.functional.cross_entropy(logits, labels, reduction="none")


def hold_close(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_token_losses_are_the_cross_entropy_with_its_gradient():
    hidden, labels, weights = drawn()
    logits = make_head()(hidden)
    found = with_gradient(lambda x: token_losses(x, labels), logits, weights)
    hold_close(found, with_gradient(lambda x: of_torch(x, labels), logits, weights))


@pytest.mark.parametrize("least", [1, 4, 100])
@pytest.mark.parametrize("bias", [True, False])
def test_so_are_those_of_a_head_in_parts(monkeypatch, least, bias):
    monkeypatch.setattr(cross_entropy, "LEAST", least)
    monkeypatch.setattr(cross_entropy, "LOGITS_BYTES", {"cpu": 0})
    head, (hidden, labels, weights) = make_head(bias), drawn()
    found = with_gradient(lambda x: head_losses(head, x, labels), hidden, weights)
    hold_close(found, with_gradient(lambda x: of_torch(head(x), labels), hidden, weights))


def test_a_head_with_adapters_is_asked_as_a_whole():
    hidden, labels, weights = drawn()
    model = nn.Sequential(make_head())
    base = LoraBase(model, "0")
    found = with_gradient(lambda x: head_losses(model[0], x, labels), hidden, weights)
    base.unwrap()
    hold_close(found, with_gradient(lambda x: of_torch(model[0](x), labels), hidden, weights))


def test_a_nan_stays_with_its_token():
    head, (hidden, labels, weights) = make_head(), drawn()
    wanted = with_gradient(lambda x: head_losses(head, x, labels), hidden, weights)
    hidden[4, 0] = torch.nan
    found = with_gradient(lambda x: head_losses(head, x, labels), hidden, weights)
    for one, other in zip(found, wanted, strict=True):
        assert one[4].isnan().all()
        others = torch.arange(TOKENS) != 4
        assert torch.equal(one[others], other[others])


def test_logits_of_all_tokens_never_exist_at_once(monkeypatch):
    monkeypatch.setattr(cross_entropy, "LEAST", 16)
    monkeypatch.setattr(cross_entropy, "LOGITS_BYTES", {"cpu": 0})
    head = nn.Linear(4, 500).requires_grad_(False)
    hidden = torch.randn(160, 4, requires_grad=True)
    labels = torch.zeros(160, dtype=torch.long)
    with LiveBytes([head.weight, head.bias, hidden, labels]) as live:
        losses = head_losses(head, hidden, labels)
    assert losses.shape == (160,)
    assert 16 * 500 * 4 < live.peak < 160 * 500 * 4
    assert live.now < 160 * 10 * 4  # losses and the gradient of the hidden states
    with token_by_token(), LiveBytes([head.weight, head.bias, hidden, labels]) as least:
        head_losses(head, hidden, labels)
    assert least.peak < 16 * 500 * 4
