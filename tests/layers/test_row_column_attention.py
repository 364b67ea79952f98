import copy
import math

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from detrex_lite.layers import FFN, BaseTransformerLayer, RowColumnDecoupledAttention, TokenGrid

B, Q, C, H = 2, 5, 16, 4
D = C // H


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.fixture
def attention():
    torch.manual_seed(0)
    attention = RowColumnDecoupledAttention(C, H).double()
    torch.nn.init.normal_(attention.in_proj_bias)
    torch.nn.init.normal_(attention.out_proj.bias)
    return attention


def slow(attention, query, key, value, pos, key_pos, *, whole=None):
    """The formulas of the paper's section 3.4, query by query and head by head, of one image.

    Args:
        query: (Q, C).
        key, value: (h, w, C), of the cells that are attended to.
        pos: positions of x and of y of the queries, (Q, C) each.
        key_pos: the same of the cells, (h, w, C) each.
        whole: key and key_pos of the cells that keys are the means of; None for those that are attended to.
    """
    height, width, _ = key.shape
    means_of, positions = (key, key_pos) if whole is None else whole
    weights, biases = attention.in_proj_weight.split(C), attention.in_proj_bias.split(C)
    k_x = F.linear(means_of + positions[0], weights[2], biases[2]).mean(0)  # after the projection, as published
    k_y = F.linear(means_of + positions[1], weights[3], biases[3]).mean(1)
    v = F.linear(value, weights[4], biases[4])
    results = []
    for one, x, y in zip(query, *pos, strict=True):
        q_x, q_y = F.linear(one + x, weights[0], biases[0]), F.linear(one + y, weights[1], biases[1])
        out = []
        for head in range(H):
            part = slice(head * D, (head + 1) * D)
            along_x = torch.stack([q_x[part] @ k_x[column, part] for column in range(width)]) / math.sqrt(D)
            along_y = torch.stack([q_y[part] @ k_y[row, part] for row in range(height)]) / math.sqrt(D)
            along_x, along_y = along_x.softmax(0), along_y.softmax(0)
            out.append(
                sum(
                    along_y[row] * along_x[column] * v[row, column, part]
                    for row in range(height)
                    for column in range(width)
                )
            )
        results.append(attention.out_proj(torch.cat(out)))
    return torch.stack(results)


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (1, 4), (4, 1), (1, 1)])
def test_cross_attention_is_the_formula(attention, shape):
    """Of maps that are wide and high, which are summed in different orders."""
    height, width = shape
    query, pos = randn(B, Q, C), randn(B, Q, 2 * C)
    key, value, key_pos = randn(B, *shape, C), randn(B, *shape, C), randn(B, *shape, 2 * C)
    want = torch.stack(
        [
            slow(attention, one, cells, values, own.chunk(2, -1), places.chunk(2, -1))
            for one, cells, values, own, places in zip(query, key, value, pos, key_pos, strict=True)
        ]
    )
    found = attention(
        query,
        key.flatten(1, 2),
        value.flatten(1, 2),
        query_pos=pos,
        key_pos=key_pos.flatten(1, 2),
        grid=TokenGrid(height, width),
    )
    assert_close(found, query + want)


def test_self_attention_with_one_position_for_both_directions(attention):
    """As DETR's encoder has it: keys are the queries and share their positions, which all images share."""
    tokens, pos, identity = randn(B, 6, C), randn(1, 6, C), randn(B, 6, C)
    cells, places = tokens.unflatten(1, (2, 3)), pos[0].unflatten(0, (2, 3))
    want = torch.stack(
        [slow(attention, x, map_, map_, [pos[0]] * 2, [places] * 2) for x, map_ in zip(tokens, cells, strict=True)]
    )
    assert_close(attention(tokens, query_pos=pos, grid=TokenGrid(2, 3)), tokens + want)
    assert_close(attention(tokens, identity=identity, query_pos=pos, grid=TokenGrid(2, 3)), identity + want)
    without = torch.stack(
        [slow(attention, x, map_, map_, [x * 0] * 2, [map_ * 0] * 2) for x, map_ in zip(tokens, cells, strict=True)]
    )
    assert_close(attention(tokens, grid=TokenGrid(2, 3)), tokens + without)


@pytest.mark.parametrize("as_published", [True, False])
def test_padding_is_never_attended_to_but_is_in_the_means_as_published(attention, as_published):
    height, width, (h, w) = 4, 5, (3, 2)
    query, pos = randn(1, Q, C), randn(1, Q, 2 * C)
    key, value, key_pos = (randn(1, height, width, channels) for channels in (C, C, 2 * C))
    padding = torch.ones(1, height, width, dtype=torch.bool)
    padding[:, :h, :w] = False
    found = attention(
        query,
        key.flatten(1, 2),
        value.flatten(1, 2),
        query_pos=pos,
        key_pos=key_pos.flatten(1, 2),
        key_padding_mask=padding.flatten(1),
        grid=TokenGrid(height, width, as_published),
    )
    weights_x = (key[0, :, :w], [places[:, :w] for places in key_pos[0].chunk(2, -1)])
    if as_published:  # columns as high as the padded map, rows as wide
        x, y = key_pos[0].chunk(2, -1)
        attention_of = copy.deepcopy(attention)
        k_x = (key[0] + x).mean(0)[:w].expand(h, -1, -1)
        k_y = (key[0] + y).mean(1)[:h, None].expand(-1, w, -1)
        nothing = torch.zeros_like(k_x)
        want = slow(
            attention_of, query[0], nothing, value[0, :h, :w], pos[0].chunk(2, -1), None, whole=(nothing, (k_x, k_y))
        )
    else:
        inside = [places[:h] for places in weights_x[1]]
        want = slow(attention, query[0], key[0, :h, :w], value[0, :h, :w], pos[0].chunk(2, -1), inside)
    assert_close(found[0], query[0] + want)


def test_it_is_attention_to_all_cells_whose_logits_are_sums(attention):
    """The product of the two softmaxes is the softmax over all cells: the other way to compute it."""
    query, key, grid = randn(1, Q, C), randn(1, 12, C), TokenGrid(3, 4)
    weights, biases = attention.in_proj_weight.split(C), attention.in_proj_bias.split(C)
    cells = key.unflatten(1, (3, 4))
    columns, rows = cells.mean(1, keepdim=True).expand_as(cells), cells.mean(2, keepdim=True).expand_as(cells)

    def heads(x, index):
        return F.linear(x, weights[index], biases[index]).reshape(1, -1, H, D).transpose(1, 2)

    q = torch.cat([heads(query, 0), heads(query, 1)], dim=-1)
    k = torch.cat([heads(columns, 2), heads(rows, 3)], dim=-1)
    out = F.scaled_dot_product_attention(q, k, heads(key, 4), scale=D**-0.5)
    assert_close(attention(query, key, grid=grid), query + attention.out_proj(out.transpose(1, 2).flatten(2)))


def test_gradients_are_those_of_the_formula(attention):
    inputs = [randn(1, 2, C), randn(1, 6, C), randn(1, 2, 2 * C), randn(1, 6, 2 * C)]
    inputs = [value.requires_grad_() for value in inputs]
    cotangent = randn(1, 2, C)
    query, key, pos, key_pos = inputs
    found = attention(query, key, query_pos=pos, key_pos=key_pos, grid=TokenGrid(2, 3))
    cells, places = key[0].unflatten(0, (2, 3)), key_pos[0].unflatten(0, (2, 3))
    want = query[0] + slow(attention, query[0], cells, cells, pos[0].chunk(2, -1), places.chunk(2, -1))
    learned = [*inputs, *attention.parameters()]
    assert_close(torch.autograd.grad(found, learned, cotangent), torch.autograd.grad(want[None], learned, cotangent))


def test_weights_of_rows_and_of_columns_are_dropped_in_training():
    torch.manual_seed(0)
    attention = RowColumnDecoupledAttention(C, H, attn_drop=0.5)
    query, key, grid = torch.randn(1, Q, C), torch.randn(1, 12, C), TokenGrid(3, 4)
    assert_close(attention.eval()(query, key, grid=grid), attention(query, key, grid=grid))
    attention.train()
    assert not torch.equal(attention(query, key, grid=grid), attention(query, key, grid=grid))
    nothing = RowColumnDecoupledAttention(C, H, proj_drop=1.0).train()
    assert_close(nothing(query, key, grid=grid), query)


def test_the_published_packing_of_projections():
    """q_x, q_y, k_x, k_y, v: a projection of zeros has the effect that its place says."""
    torch.manual_seed(0)
    attention = RowColumnDecoupledAttention(C, H)
    assert {name: tuple(p.shape) for name, p in attention.named_parameters()} == {
        "in_proj_weight": (5 * C, C), "in_proj_bias": (5 * C,), "out_proj.weight": (C, C), "out_proj.bias": (C,),
    }  # fmt: skip
    assert not attention.in_proj_bias.any()
    bound = math.sqrt(6 / (6 * C))  # Xavier-uniform, as one matrix
    assert attention.in_proj_weight.abs().max() <= bound
    assert attention.in_proj_weight.abs().max() > 0.95 * bound


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision(attention, dtype):
    attention = attention.float()
    query, key, grid = torch.randn(B, Q, C), torch.randn(B, 12, C), TokenGrid(3, 4)
    padding = torch.zeros(B, 3, 4, dtype=torch.bool)
    padding[1, :, 2:] = True
    inputs = {"key_padding_mask": padding.flatten(1), "grid": grid}
    with torch.autocast("cpu", dtype=dtype):
        mixed = attention(query, key, **inputs)
    assert_close(mixed, attention(query, key, **inputs), rtol=0.05, atol=0.05)


def test_one_graph_serves_maps_of_all_shapes(attention):
    torch._dynamo.reset()
    graphs = torch._dynamo.testing.CompileCounter()

    @torch.compile(backend=graphs, fullgraph=True, dynamic=True)
    def compiled(query, key, height, width):
        return attention(query, key, grid=TokenGrid(height, width))

    for height, width in ((3, 4), (6, 2), (5, 7)):
        query, key = randn(B, Q, C), randn(B, height * width, C)
        assert_close(compiled(query, key, height, width), attention(query, key, grid=TokenGrid(height, width)))
    assert graphs.frame_count == 1


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"attn_mask": torch.zeros(Q, 12, dtype=torch.bool)}, "attn_mask.*single cells"),
        ({"grid": TokenGrid(3, 3)}, "12 keys.*3 x 3"),
        ({"query_pos": torch.zeros(B, Q, C + 1)}, "query_pos has 17 channels.*16.*32"),
        ({"key_pos": torch.zeros(B, 12, 3 * C)}, "key_pos has 48 channels"),
        ({"key_padding_mask": torch.zeros(B, 12)}, "must be bool"),
        ({"key_padding_mask": torch.zeros(B, 11, dtype=torch.bool)}, r"shape \(2, 11\); expected.*\(2, 12\)"),
    ],
)
def test_faulty_inputs(inputs, message):
    attention = RowColumnDecoupledAttention(C, H)
    with pytest.raises(ValueError, match=message):
        attention(torch.zeros(B, Q, C), torch.zeros(B, 12, C), **{"grid": TokenGrid(3, 4), **inputs})


def test_a_layer_says_that_it_requires_the_grid():
    layer = BaseTransformerLayer(
        attn=RowColumnDecoupledAttention(C, H),
        ffn=FFN(C, 2 * C),
        norm=torch.nn.LayerNorm(C),
        operation_order=("self_attn", "norm", "ffn", "norm"),
    )
    assert layer.required_inputs == {"self_attn": ("grid",), "cross_attn": ()}
    with pytest.raises(ValueError, match="needs grid.*self_attn_inputs"):
        layer(torch.zeros(B, 12, C))
    assert layer(torch.zeros(B, 12, C), self_attn_inputs={"grid": TokenGrid(3, 4)}).shape == (B, 12, C)
