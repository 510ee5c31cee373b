"""Faster kernels for a frozen base compute the same as those they take the place of."""

import pytest
import torch
from torch import nn
from transformers.activations import NewGELUActivation
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

from hpo.training.base import kernels
from hpo.training.base.kernels import OneDnnLinear, RmsNorm, use_faster_kernels

CPU = torch.device("cpu")
needs_one_dnn = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this torch comes without oneDNN"
)


@pytest.fixture
def amd(monkeypatch):
    """As on a processor on which oneDNN is the faster library."""
    monkeypatch.setattr(kernels, "_one_dnn_is_faster", lambda: True)


def make_model():
    torch.manual_seed(0)
    layers = [nn.Linear(24, 40), NewGELUActivation(), nn.Linear(40, 8, bias=False)]
    return nn.Sequential(*layers).requires_grad_(False)


def outputs(model, x):
    """What comes out, and the gradient of the input."""
    x = x.clone().requires_grad_()
    result = model(x)
    result.square().sum().backward()
    return result.detach(), x.grad


@needs_one_dnn
@pytest.mark.parametrize("shape", [(24,), (5, 24), (3, 7, 24), (7, 3, 24)])
def test_outputs_and_gradients_are_the_same_but_for_rounding(amd, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    x = x.transpose(0, 1) if shape == (7, 3, 24) else x  # not contiguous
    model = make_model()
    wanted = outputs(model, x)
    use_faster_kernels(model, CPU, limited=False)
    assert [type(layer) for layer in model] == [OneDnnLinear, nn.GELU, OneDnnLinear]
    for found, one in zip(outputs(model, x), wanted, strict=True):
        torch.testing.assert_close(found, one, rtol=1e-5, atol=1e-6)


def test_weights_and_their_names_stay(amd):
    model = make_model()
    before = dict(model.named_parameters())
    use_faster_kernels(model, CPU, limited=False)
    after = dict(model.named_parameters())
    assert before.keys() == after.keys()
    assert all(after[name] is weight for name, weight in before.items())


def test_products_are_left_alone_where_memory_is_limited_or_weights_are_half(amd):
    limited, half = make_model(), make_model().bfloat16()
    use_faster_kernels(limited, CPU, limited=True)
    use_faster_kernels(half, CPU, limited=False)
    assert {type(layer) for layer in (limited[0], half[0])} == {nn.Linear}


@pytest.mark.parametrize("norm", [T5LayerNorm, LlamaRMSNorm])
def test_norms_are_the_same_with_their_gradient(norm):
    model = nn.Sequential(norm(12, eps=1e-3)).requires_grad_(False)
    drawn = torch.Generator().manual_seed(3)
    model[0].weight.copy_(torch.rand(12, generator=drawn))
    x = torch.randn((3, 5, 12), generator=drawn)
    x[0, 0] = 0.0
    wanted = outputs(model, x)
    use_faster_kernels(model, CPU, limited=True)
    assert type(model[0]) is RmsNorm
    for found, one in zip(outputs(model, x), wanted, strict=True):
        torch.testing.assert_close(found, one, rtol=1e-5, atol=1e-6)


def test_norms_in_half_precision_are_left_alone():
    model = nn.Sequential(LlamaRMSNorm(12)).bfloat16()
    use_faster_kernels(model, CPU, limited=True)
    assert type(model[0]) is LlamaRMSNorm


@pytest.mark.parametrize(
    ("maker", "family", "faster"),
    [("AuthenticAMD", 25, False), ("AuthenticAMD", 26, True), ("GenuineIntel", 26, False)],
)
def test_one_dnn_is_for_amd_since_zen_5(maker, family, faster):
    cpuinfo = f"processor\t: 0\nvendor_id\t: {maker}\ncpu family\t: {family}\nmodel\t\t: 17\n"
    assert kernels._is_zen_5(cpuinfo) is faster
