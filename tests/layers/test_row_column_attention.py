import itertools
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


def project(attention, index, x):
    """q_x, q_y, k_x, k_y or v, by its index in the packed projection."""
    return F.linear(x, attention.in_proj_weight.split(C)[index], attention.in_proj_bias.split(C)[index])


def mean_keys(attention, key, key_pos):
    """k_x (w, C) and k_y (h, C): means of the projected cells (h, w, C) with their x and y positions."""
    x_positions, y_positions = key_pos
    return project(attention, 2, key + x_positions).mean(0), project(attention, 3, key + y_positions).mean(1)


def attention_by_formula(attention, query, pos, keys, value):
    """The formulas of the paper's section 3.4 for one image, query by query and head by head.

    Args:
        query: (Q, C).
        pos: x and y positions of the queries, (Q, C) each.
        keys: k_x (w, C) and k_y (h, C) of the attended columns and rows.
        value: (h, w, C), of the attended cells.
    """
    (k_x, k_y), v = keys, project(attention, 4, value)
    results = []
    for content, x, y in zip(query, *pos, strict=True):
        q_x, q_y = project(attention, 0, content + x), project(attention, 1, content + y)
        out = []
        for head in range(H):
            part = slice(head * D, (head + 1) * D)
            along_x = torch.stack([q_x[part] @ column for column in k_x[:, part]]).div(math.sqrt(D)).softmax(0)
            along_y = torch.stack([q_y[part] @ row for row in k_y[:, part]]).div(math.sqrt(D)).softmax(0)
            cells = itertools.product(range(len(k_y)), range(len(k_x)))
            out.append(sum(along_y[row] * along_x[column] * v[row, column, part] for row, column in cells))
        results.append(attention.out_proj(torch.cat(out)))
    return torch.stack(results)


def split_x_and_y(pos):
    return pos.chunk(2, dim=-1)


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (1, 4), (4, 1), (1, 1)])
def test_cross_attention_follows_the_formula(attention, shape):
    """Wide and high maps, whose rows and columns are summed in different orders."""
    height, width = shape
    query, pos = randn(B, Q, C), randn(B, Q, 2 * C)
    key, value, key_pos = randn(B, *shape, C), randn(B, *shape, C), randn(B, *shape, 2 * C)
    expected = torch.stack(
        [
            attention_by_formula(
                attention,
                content,
                split_x_and_y(query_position),
                mean_keys(attention, cells, split_x_and_y(cell_positions)),
                values,
            )
            for content, query_position, cells, cell_positions, values in zip(
                query, pos, key, key_pos, value, strict=True
            )
        ]
    )
    actual = attention(
        query,
        key.flatten(1, 2),
        value.flatten(1, 2),
        query_pos=pos,
        key_pos=key_pos.flatten(1, 2),
        grid=TokenGrid(height, width),
    )
    assert_close(actual, query + expected)


def test_self_attention_follows_the_formula_with_the_same_position_for_both_directions(attention):
    """As in DETR's encoder: the keys are the queries with the same positions, and all images share the positions."""
    tokens, pos, identity = randn(B, 6, C), randn(1, 6, C), randn(B, 6, C)
    maps = tokens.unflatten(1, (2, 3))

    def expected(pos):
        cell_positions = [pos.unflatten(0, (2, 3))] * 2
        images = zip(tokens, maps, strict=True)
        return torch.stack(
            [
                attention_by_formula(attention, x, [pos] * 2, mean_keys(attention, y, cell_positions), y)
                for x, y in images
            ]
        )

    grid = TokenGrid(2, 3)
    assert_close(attention(tokens, query_pos=pos, grid=grid), tokens + expected(pos[0]))
    assert_close(attention(tokens, identity=identity, query_pos=pos, grid=grid), identity + expected(pos[0]))
    assert_close(attention(tokens, grid=grid), tokens + expected(torch.zeros_like(pos[0])))


@pytest.mark.parametrize("as_published", [True, False])
def test_padding_is_not_attended_to_and_enters_the_means_only_as_published(attention, as_published):
    height, width, (h, w) = 4, 5, (3, 2)
    query, pos = randn(1, Q, C), randn(1, Q, 2 * C)
    key, value, key_pos = (randn(1, height, width, channels) for channels in (C, C, 2 * C))
    padding = torch.ones(1, height, width, dtype=torch.bool)
    padding[:, :h, :w] = False
    actual = attention(
        query,
        key.flatten(1, 2),
        value.flatten(1, 2),
        query_pos=pos,
        key_pos=key_pos.flatten(1, 2),
        key_padding_mask=padding.flatten(1),
        grid=TokenGrid(height, width, as_published),
    )
    if as_published:
        k_x, k_y = mean_keys(attention, key[0], split_x_and_y(key_pos[0]))
        keys = k_x[:w], k_y[:h]
    else:
        keys = mean_keys(attention, key[0, :h, :w], split_x_and_y(key_pos[0, :h, :w]))
    assert_close(
        actual[0], query[0] + attention_by_formula(attention, query[0], split_x_and_y(pos[0]), keys, value[0, :h, :w])
    )


def test_the_product_of_both_softmaxes_is_attention_to_all_cells(attention):
    """The product of the two softmaxes is the softmax over all cells."""
    query, key, grid = randn(1, Q, C), randn(1, 12, C), TokenGrid(3, 4)
    cells = key.unflatten(1, (3, 4))
    columns, rows = cells.mean(1, keepdim=True).expand_as(cells), cells.mean(2, keepdim=True).expand_as(cells)

    def heads(x, index):
        return project(attention, index, x).reshape(1, -1, H, D).transpose(1, 2)

    q = torch.cat([heads(query, 0), heads(query, 1)], dim=-1)
    k = torch.cat([heads(columns, 2), heads(rows, 3)], dim=-1)
    out = F.scaled_dot_product_attention(q, k, heads(key, 4), scale=D**-0.5)
    assert_close(attention(query, key, grid=grid), query + attention.out_proj(out.transpose(1, 2).flatten(2)))


def test_gradients_follow_the_formula(attention):
    inputs = [randn(1, 2, C), randn(1, 6, C), randn(1, 2, 2 * C), randn(1, 6, 2 * C)]
    inputs = [value.requires_grad_() for value in inputs]
    cotangent = randn(1, 2, C)
    query, key, pos, key_pos = inputs
    actual = attention(query, key, query_pos=pos, key_pos=key_pos, grid=TokenGrid(2, 3))
    cells, cell_positions = key[0].unflatten(0, (2, 3)), key_pos[0].unflatten(0, (2, 3))
    keys = mean_keys(attention, cells, split_x_and_y(cell_positions))
    expected = query[0] + attention_by_formula(attention, query[0], split_x_and_y(pos[0]), keys, cells)
    learned = [*inputs, *attention.parameters()]
    assert_close(
        torch.autograd.grad(actual, learned, cotangent), torch.autograd.grad(expected[None], learned, cotangent)
    )


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    attention = RowColumnDecoupledAttention(C, H, attn_drop=0.5)
    query, key, grid = torch.randn(1, Q, C), torch.randn(1, 12, C), TokenGrid(3, 4)
    assert_close(attention.eval()(query, key, grid=grid), attention(query, key, grid=grid))
    attention.train()
    assert not torch.equal(attention(query, key, grid=grid), attention(query, key, grid=grid))
    all_dropped = RowColumnDecoupledAttention(C, H, proj_drop=1.0).train()
    assert_close(all_dropped(query, key, grid=grid), query)


def test_projections_are_packed_as_published():
    """q_x, q_y, k_x, k_y and v are one matrix with its own initial values."""
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
def test_mixed_precision_agrees_with_float32(attention, dtype):
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
def test_invalid_inputs_raise_an_error(inputs, message):
    attention = RowColumnDecoupledAttention(C, H)
    with pytest.raises(ValueError, match=message):
        attention(torch.zeros(B, Q, C), torch.zeros(B, 12, C), **{"grid": TokenGrid(3, 4), **inputs})


def test_a_layer_requires_the_grid():
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
