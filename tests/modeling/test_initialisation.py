import torch
from torch import nn
from torch.testing import assert_close

from detrex_lite.modeling import xavier_uniform


def test_xavier_uniform_redraws_matrices_and_keeps_vectors():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(100, 200), nn.LayerNorm(200))
    bias = module[0].bias.detach().clone()
    nn.init.zeros_(module[0].weight)
    xavier_uniform(module)
    assert_close(module[0].weight.detach().abs().max(), torch.tensor((6 / 300) ** 0.5), rtol=1e-2, atol=0)
    assert_close(module[0].bias.detach(), bias, rtol=0, atol=0)
    assert (module[1].weight == 1).all()
