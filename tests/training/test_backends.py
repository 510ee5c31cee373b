"""What torch is allowed to take of a GPU's libraries: switches that a CPU build has, too."""

import json

import pytest
import torch
from torch.nn import functional

from hpo.training.bench import seed_everything, set_precision
from tests.training.conftest import make_bench

CUDNN = 3  # torch's number of that backend of attention


@pytest.fixture(autouse=True)
def switches():
    """All switches at torch's defaults; afterwards as they were."""
    before = torch.backends.cuda.cudnn_sdp_enabled(), torch.get_float32_matmul_precision()
    torch.backends.cuda.enable_cudnn_sdp(True)
    torch.backends.cudnn.allow_tf32 = True
    yield
    torch.backends.cuda.enable_cudnn_sdp(before[0])
    set_precision(tf32=before[1] != "highest")


def test_attention_is_never_cudnns():
    make_bench()
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert (
        torch.backends.cuda.flash_sdp_enabled() and torch.backends.cuda.mem_efficient_sdp_enabled()
    )


@pytest.mark.parametrize("tf32", [False, True])
def test_products_and_convolutions_are_rounded_alike_and_cached_apart(tf32):
    bench, _ = make_bench(f"model.tf32={str(tf32).lower()}", "limits.cache_gb=0")
    assert torch.backends.cudnn.allow_tf32 is tf32
    assert torch.get_float32_matmul_precision() == ("high" if tf32 else "highest")
    identity = json.loads(bench.task.frozen_prefix().identity)
    assert identity["convolutions"] == ("tf32" if tf32 else "float32")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("keys", [64, 192, 320, 704])
def test_gradients_of_masked_attention_are_finite_in_bf16(keys):
    """Of scores far below zero, as heads with massive activations have (pytorch#196678)."""
    seed_everything(0)
    q, k, v = torch.randn(3, 1, 1, keys, 64, device="cuda", dtype=torch.bfloat16) * 0.1
    q[..., 0], k[..., 0] = 1.0, -960.0
    inputs = [one.detach().requires_grad_() for one in (q, k, v)]
    mask = torch.ones(keys, keys, dtype=torch.bool, device="cuda").tril()[None, None]
    assert int(torch._fused_sdp_choice(*inputs, attn_mask=mask)) != CUDNN
    functional.scaled_dot_product_attention(*inputs, attn_mask=mask).sum().backward()
    assert all(bool(one.grad.isfinite().all()) for one in inputs)
