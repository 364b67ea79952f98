import torch
from torch import nn
from torch.testing import assert_close

from detrex_lite.layers import MLP
from detrex_lite.modeling import begin_at_reference, expect_few_objects, xavier_uniform


def test_class_heads_begin_with_a_probability_of_one_percent():
    head = nn.Linear(4, 3)
    expect_few_objects(head)
    assert_close(head(torch.zeros(1, 4)).sigmoid(), torch.full((1, 3), 0.01))


def test_box_heads_begin_with_no_offset_and_learn():
    head = MLP(4, 8, 4, num_layers=3)
    begin_at_reference(head)
    offsets = head(torch.randn(5, 4))
    assert not offsets.any()
    offsets.sum().backward()
    assert head.layers[-1].weight.grad.any()


def test_matrices_are_drawn_and_vectors_stay():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(100, 200), nn.LayerNorm(200))
    bias = module[0].bias.detach().clone()
    nn.init.zeros_(module[0].weight)
    xavier_uniform(module)
    assert_close(module[0].weight.detach().abs().max(), torch.tensor((6 / 300) ** 0.5), rtol=1e-2, atol=0)
    assert_close(module[0].bias.detach(), bias, rtol=0, atol=0)
    assert (module[1].weight == 1).all()
