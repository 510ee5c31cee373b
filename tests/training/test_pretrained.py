"""What a frozen module is known by."""

import torch
from torch import nn
from transformers import PretrainedConfig

from hpo.training.base.pretrained import identity_of

SIZE = 100_000


def identity(change=None):
    """Of a tower of one layer, after a change to its weights."""
    tower = nn.Linear(1, SIZE, bias=False)
    with torch.no_grad():
        tower.weight.zero_()
        if change is not None:
            change(tower)
    return identity_of(tower, PretrainedConfig(), "images")


def test_the_same_weights_are_known_by_the_same():
    assert identity() == identity()


def test_one_value_in_the_middle_makes_another_tower():
    assert identity() != identity(lambda tower: tower.weight[SIZE // 2].fill_(1e-6))


def test_type_and_shape_make_another_tower():
    assert identity() != identity(lambda tower: tower.bfloat16())
    assert identity() != identity(lambda tower: setattr(tower, "weight", tower_weight()))


def tower_weight():
    return nn.Parameter(torch.zeros(SIZE, 1).view(1, SIZE))


def test_every_type_of_tensor_is_hashed():
    tower = nn.Linear(1, 1)
    tower.register_buffer("flag", torch.tensor(True))
    tower.register_buffer("none", torch.zeros(0, dtype=torch.int8))
    tower.register_buffer("turned", torch.arange(6, dtype=torch.bfloat16).view(2, 3).T)
    before = identity_of(tower, PretrainedConfig(), "images")
    tower.flag.fill_(False)
    assert identity_of(tower, PretrainedConfig(), "images") != before
