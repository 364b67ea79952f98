import torch
import torch.nn.functional as F
from torch import nn

from detrex_lite.ops import multi_scale_deformable_attention
from detrex_lite.tools.benchmark.flops import _attention, _attention_backward, count_flops


def test_a_linear_layer_has_twice_the_flops_in_the_backward_pass():
    linear, x = nn.Linear(5, 7), torch.randn(3, 5, requires_grad=True)
    with torch.no_grad():
        assert count_flops(lambda: linear(x)).flops == 2 * 3 * 5 * 7
    assert count_flops(lambda: linear(x).relu().sum().backward()).flops == 3 * 2 * 3 * 5 * 7


def test_views_of_parameters_are_counted_without_gradients():
    linear, parameter = nn.Linear(5, 7), nn.Parameter(torch.randn(3, 10))
    with torch.no_grad():
        assert count_flops(lambda: linear(parameter.chunk(2, dim=1)[0])).flops == 2 * 3 * 5 * 7


def test_attention_and_embedding_bags_are_counted():
    query, key, value = torch.randn(2, 4, 6, 8), torch.randn(2, 4, 10, 8), torch.randn(2, 4, 10, 8)
    products = 2 * 4 * 6 * 10 * (8 + 8)
    with torch.no_grad():
        assert count_flops(lambda: F.scaled_dot_product_attention(query, key, value)).flops == 2 * products
    shapes = [tensor.shape for tensor in (query, key, value)]
    assert _attention(*shapes) == 2 * products
    assert _attention_backward(query.shape, *shapes) == 5 * products  # five matrix products of this many FLOPs each

    rows, weights = torch.randint(5, (4, 3)), torch.ones(4, 3)
    table = torch.randn(5, 6)
    with torch.no_grad():
        look_up = count_flops(lambda: F.embedding_bag(rows, table, mode="sum", per_sample_weights=weights))
    assert look_up.flops == 2 * 4 * 3 * 6


def test_deformable_attention_counts_four_neighbours_of_each_sample():
    value = torch.randn(1, 30, 2, 8, requires_grad=True)
    locations, weights = torch.rand(1, 5, 2, 2, 3, 2), torch.rand(1, 5, 2, 2, 3)
    products = 4 * (5 * 2 * 2 * 3) * 8

    def run():
        return multi_scale_deformable_attention(value, ((4, 6), (2, 3)), locations, weights, backend="embedding_bag")

    with torch.no_grad():
        assert count_flops(run).flops == 2 * products
    assert count_flops(lambda: run().sum().backward()).flops == 3 * 2 * products


def test_grid_sample_counts_four_neighbours_of_each_sample():
    image, grid = torch.randn(2, 3, 4, 5, requires_grad=True), torch.rand(2, 6, 7, 2, requires_grad=True)
    products = 2 * 4 * (2 * 6 * 7) * 3
    assert count_flops(lambda: F.grid_sample(image, grid, align_corners=False).sum().backward()).flops == 3 * products


class Caller(nn.Module):
    """Calls a head that belongs to its parent, next to a layer of its own."""

    def __init__(self, head):
        super().__init__()
        self.linear, self.shared_heads = nn.Linear(5, 5), [head]

    def forward(self, x):
        return self.shared_heads[0](self.linear(x))


def test_operators_are_counted_for_their_modules():
    model = nn.ModuleDict({"head": nn.Linear(5, 7)})
    model["caller"] = Caller(model["head"])
    with torch.no_grad():
        count = count_flops(lambda: model["caller"](torch.ones(3, 5)) @ torch.ones(7, 2), model)
    linear, head, outside = 2 * 3 * 5 * 5, 2 * 3 * 5 * 7, 2 * 3 * 7 * 2
    assert count.flops == linear + head + outside
    assert count.of_modules == {"caller": linear, "caller.linear": linear, "head": head}
    assert not any(module._forward_hooks for module in model.modules())


def test_operators_without_a_formula_are_listed():
    x = torch.randn(3, 5)
    count = count_flops(lambda: (x @ x.T).view(9).relu().softmax(0))
    assert {"relu", "_softmax"} <= set(count.uncounted)
    assert count.uncounted["relu"] == 1
    assert not {"mm", "view", "t"} & set(count.uncounted)
