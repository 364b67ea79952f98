"""The operator for deformable attention, and the agreement of its backends."""

import importlib.util
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from detrex_lite.ops import (
    multi_scale_deformable_attention,
    multi_scale_deformable_attention_from_offsets,
    use_deformable_attention_backend,
)
from detrex_lite.ops.deformable_attention import describe_backend, sampling_locations, select_backend
from detrex_lite.ops.deformable_attention import embedding_bag as embedding_bag_module
from detrex_lite.ops.deformable_attention import reference as reference_module
from detrex_lite.ops.deformable_attention.table_layout import table_layout

SHAPES = [(6, 5), (3, 4), (1, 1)]
CPU_BACKENDS = ("reference", "grid_sample", "embedding_bag")


def make_inputs(shapes=SHAPES, batch=2, queries=7, heads=3, channels=5, points=2, dtype=torch.float64, seed=0):
    """Values, locations inside and outside the maps, and weights."""
    generator = torch.Generator().manual_seed(seed)
    tokens, levels = sum(height * width for height, width in shapes), len(shapes)

    def uniform(*size):
        return torch.rand(*size, dtype=torch.float64, generator=generator)

    value = uniform(batch, tokens, heads, channels) * 2 - 1
    locations = uniform(batch, queries, heads, levels, points, 2) * 1.8 - 0.4
    weights = uniform(batch, queries, heads, levels, points)
    return tuple(tensor.to(dtype).requires_grad_() for tensor in (value, locations, weights))


def attention_by_grid_sample(value, shapes, locations, weights):
    """The formulation of the papers with torch's `grid_sample`."""
    batch, _, heads, channels = value.shape
    queries, levels, points = locations.shape[1], *locations.shape[3:5]
    samples = []
    for level, (part, shape) in enumerate(zip(value.split([h * w for h, w in shapes], 1), shapes, strict=True)):
        image = part.permute(0, 2, 3, 1).reshape(batch * heads, channels, *shape)
        grid = (2 * locations[:, :, :, level] - 1).transpose(1, 2).flatten(0, 1)
        samples.append(F.grid_sample(image, grid, align_corners=False))
    weights = weights.transpose(1, 2).reshape(batch * heads, 1, queries, levels * points)
    out = (torch.stack(samples, -2).flatten(-2) * weights).sum(-1)
    return out.view(batch, heads * channels, queries).transpose(1, 2)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_backends_agree_with_grid_sample(backend):
    inputs = make_inputs()
    value, locations, weights = inputs
    actual = multi_scale_deformable_attention(value, SHAPES, locations, weights, backend=backend)
    expected = attention_by_grid_sample(value, SHAPES, locations, weights)
    assert actual.shape == (2, 7, 15)
    assert_close(actual, expected)
    upstream = torch.randn(actual.shape, dtype=actual.dtype, generator=torch.Generator().manual_seed(1))
    for actual_gradient, expected_gradient in zip(
        torch.autograd.grad(actual, inputs, upstream), torch.autograd.grad(expected, inputs, upstream), strict=True
    ):
        assert_close(actual_gradient, expected_gradient)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_centres_read_their_cell_and_corners_a_quarter_of_it(backend):
    value = torch.arange(6.0).view(1, 6, 1, 1) + 1  # a map of 2 rows and 3 columns: 1 2 3, 4 5 6
    positions = torch.tensor([[2.5 / 3, 0.25], [0.5, 0.5], [0.0, 0.0], [1.0, 1.0], [-0.3, 0.5], [0.5, 1.8]])
    weights = torch.ones(1, 6, 1, 1, 1)
    actual = multi_scale_deformable_attention(
        value, [(2, 3)], positions.view(1, 6, 1, 1, 1, 2), weights, backend=backend
    )
    assert_close(actual.flatten(), torch.tensor([3.0, (2 + 5) / 2, 1 / 4, 6 / 4, 0.0, 0.0]))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("shapes", [[(4, 3)], [(1, 1)], [(3, 2), (2, 2), (1, 3), (1, 1)]])
def test_gradients_agree_with_finite_differences(backend, shapes):
    value, locations, weights = make_inputs(shapes, batch=2, queries=3, heads=2, channels=2, points=2)

    def attend(*inputs):
        return multi_scale_deformable_attention(inputs[0], shapes, *inputs[1:], backend=backend)

    assert torch.autograd.gradcheck(attend, (value, locations, weights))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_gradients_with_more_points_than_cells_agree_with_finite_differences(backend):
    value, locations, weights = make_inputs([(1, 1)], batch=1, queries=2, heads=1, channels=2, points=9)

    def attend(*inputs):
        return multi_scale_deformable_attention(inputs[0], [(1, 1)], *inputs[1:], backend=backend)

    assert torch.autograd.gradcheck(attend, (value, locations, weights))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_gradients_at_the_border_of_cells_lie_between_the_one_sided_derivatives(backend):
    # The derivative by the location jumps there; any value between the two one-sided derivatives is correct.
    shapes = [(3, 4)]
    value, _, weights = make_inputs(shapes, batch=1, queries=5, heads=1, channels=2, points=1)
    centre = torch.tensor([1.5 / 4, 1.5 / 3], dtype=torch.float64)
    border = torch.tensor([0.0, 1.0], dtype=torch.float64)
    outside = torch.tensor([[-0.5 / 4, 0.5], [4.5 / 4, 0.5], [9.0, 9.0]], dtype=torch.float64)
    positions = torch.cat([centre[None], border[None], outside]).view(1, 5, 1, 1, 1, 2)
    locations = positions.clone().requires_grad_()

    def attend(value, weights, locations=positions):
        return multi_scale_deformable_attention(value, shapes, locations, weights, backend=backend)

    assert torch.autograd.gradcheck(attend, (value, weights))
    total = attend(value, weights, locations).sum()
    (slope,) = torch.autograd.grad(total, locations)
    step = torch.zeros_like(locations)
    for axis in (0, 1):
        step.zero_()[..., axis] = 1e-6
        with torch.no_grad():
            value_after, value_before = (attend(value, weights, locations + sign * step) for sign in (1, -1))
            value_at_border = attend(value, weights, locations)
        one_sided_slopes = (
            torch.stack([(value_after - value_at_border).sum(-1), (value_at_border - value_before).sum(-1)]) / 1e-6
        )
        actual = slope[0, :, 0, 0, 0, axis]
        assert (actual >= one_sided_slopes.min(0).values[0] - 1e-4).all()
        assert (actual <= one_sided_slopes.max(0).values[0] + 1e-4).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precision_agrees_with_float64(dtype):
    inputs = make_inputs(dtype=dtype)
    value, locations, weights = inputs
    actual = multi_scale_deformable_attention(value, SHAPES, locations, weights, backend="embedding_bag")
    assert actual.dtype == dtype
    exact = tuple(tensor.detach().double().requires_grad_() for tensor in inputs)
    expected = multi_scale_deformable_attention(exact[0], SHAPES, *exact[1:], backend="reference")
    tolerance = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}[dtype]
    assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance)
    for actual_gradient, expected_gradient in zip(
        torch.autograd.grad(actual.sum(), inputs), torch.autograd.grad(expected.sum(), exact), strict=True
    ):
        assert actual_gradient.dtype == dtype
        assert_close(actual_gradient.double(), expected_gradient, rtol=10 * tolerance, atol=10 * tolerance)


def test_computing_queries_in_parts_gives_the_same_results(monkeypatch):
    value, locations, weights = inputs = make_inputs(queries=9)
    expected = multi_scale_deformable_attention(value, SHAPES, locations, weights)
    expected_gradients = torch.autograd.grad(expected.sum(), inputs)
    monkeypatch.setattr(embedding_bag_module, "SAMPLES_AT_A_TIME", 4 * 3 * 3 * 2)
    actual = multi_scale_deformable_attention(value, SHAPES, locations, weights)
    assert_close(actual, expected, rtol=0, atol=0)
    for actual_gradient, expected_gradient in zip(
        torch.autograd.grad(actual.sum(), inputs), expected_gradients, strict=True
    ):
        assert_close(actual_gradient, expected_gradient)


def test_rows_of_a_table_are_exact_beyond_the_integers_of_float32():
    """The index arithmetic of a table that would take gigabytes, with 8 heads and a level of 5,000 x 5,100 cells."""
    shapes, heads = [(100, 100), (5000, 5100)], 8
    layout = table_layout((100, 100, 5000, 5100), heads, 1, torch.float32)
    assert layout.tokens * heads > 2**27
    x, y = 4321, 4777
    cells = torch.tensor([x + 0.25, y + 0.5]).expand(1, heads, len(shapes), 2)
    rows = torch.empty(1, heads, 4, len(shapes), dtype=torch.int32)
    embedding_bag_module._corners(cells, torch.ones(1, heads, len(shapes)), layout, rows, torch.empty(rows.shape))
    start, stride = layout.starts[1], 5100 + 1
    for head in range(heads):
        row, column = y + 1, x + 1  # the table has a row of zeros above and a column of zeros on the left
        top_left = (start + row * stride + column) * heads + head
        expected = [top_left, top_left + heads, top_left + stride * heads, top_left + (stride + 1) * heads]
        assert rows[0, head, :, 1].tolist() == expected


def test_a_table_with_too_many_rows_for_32_bits_raises_an_error():
    with pytest.raises(ValueError, match="400000000 cells with 8 heads"):
        table_layout((20000, 20000), 8, 4, torch.float32)


def test_cells_of_the_reference_are_exact_beyond_the_integers_of_float32(monkeypatch):
    cells_read = []
    monkeypatch.setattr(
        reference_module, "_cells", lambda level, cell: cells_read.append(cell) or torch.zeros(*cell.shape, 1)
    )
    location = torch.tensor([4322.5 / 5101, 4777.5 / 5000]).view(1, 1, 1, 1, 2)
    reference_module._sample(torch.empty(0), (5000, 5101), location)
    assert cells_read[0].item() == 4777 * 5101 + 4322


def test_layouts_cached_in_inference_mode_can_be_used_in_training():
    table_layout.cache_clear()
    value, locations, weights = make_inputs()
    with torch.inference_mode():
        multi_scale_deformable_attention(value, SHAPES, locations, weights, backend="embedding_bag")
    layout = table_layout(tuple(side for shape in SHAPES for side in shape), 3, 2, torch.float64)
    tensors = [part for part in layout if isinstance(part, torch.Tensor)]
    assert tensors
    assert not any(tensor.is_inference() for tensor in tensors)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_strided_inputs_and_zero_queries_are_supported(backend):
    value, locations, weights = make_inputs()
    expected = multi_scale_deformable_attention(value, SHAPES, locations, weights, backend=backend)
    strided = [tensor.detach().transpose(0, 1).contiguous().transpose(0, 1) for tensor in (value, locations, weights)]
    assert not strided[0].is_contiguous()
    actual = multi_scale_deformable_attention(strided[0], SHAPES, *strided[1:], backend=backend)
    assert_close(actual, expected.detach())
    without_queries = multi_scale_deformable_attention(value, SHAPES, locations[:, :0], weights[:, :0], backend=backend)
    assert without_queries.shape == (2, 0, 15)
    gradients = torch.autograd.grad(without_queries.sum(), (value, locations, weights))
    assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1e30])
def test_extreme_locations_affect_only_their_query(bad):
    value, locations, weights = (tensor.detach().float() for tensor in make_inputs())
    expected = multi_scale_deformable_attention(value, SHAPES, locations, weights)
    locations[0, 3, 1, 0, 1] = bad
    actual = multi_scale_deformable_attention(value, SHAPES, locations, weights)
    keep = torch.ones(2, 7, dtype=torch.bool)
    keep[0, 3] = False
    assert_close(actual[keep], expected[keep])


@pytest.mark.parametrize("coordinates", [2, 4])
def test_attention_from_offsets_follows_its_formula(coordinates):
    value, locations, weights = make_inputs()
    reference = torch.rand(2, 7, len(SHAPES), coordinates, dtype=torch.float64, requires_grad=True)
    offsets = torch.randn(locations.shape, dtype=torch.float64, requires_grad=True)
    actual = multi_scale_deformable_attention_from_offsets(value, SHAPES, reference, offsets, weights)
    normalised = weights.flatten(-2).softmax(-1).view(weights.shape)
    for level, (height, width) in enumerate(SHAPES):
        for axis, side in ((0, width), (1, height)):
            location = sampling_locations(reference, offsets, SHAPES)[:, :, :, level, :, axis]
            offset, point = offsets[:, :, :, level, :, axis], reference[:, :, None, level, None]
            if coordinates == 2:
                assert_close(location, point[..., axis] + offset / side)
            else:
                assert_close(location, point[..., axis] + offset / 2 * point[..., 2 + axis] / 2)
    expected_locations = sampling_locations(reference, offsets, SHAPES)
    expected = multi_scale_deformable_attention(value, SHAPES, expected_locations, normalised, backend="reference")
    assert_close(actual, expected)
    inputs = (value, reference, offsets, weights)
    for actual_gradient, expected_gradient in zip(
        torch.autograd.grad(actual.sum(), inputs), torch.autograd.grad(expected.sum(), inputs), strict=True
    ):
        assert_close(actual_gradient, expected_gradient)


def test_compiled_models_agree_without_a_graph_break():
    inputs = make_inputs()

    def attend(value, locations, weights):
        return multi_scale_deformable_attention(value * 2, SHAPES, locations, weights).relu()

    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    actual, expected = compiled(*inputs), attend(*inputs)
    assert_close(actual, expected)
    for actual_gradient, expected_gradient in zip(
        torch.autograd.grad(actual.sum(), inputs), torch.autograd.grad(expected.sum(), inputs), strict=True
    ):
        assert_close(actual_gradient, expected_gradient)


def test_the_operator_passes_opcheck():
    value, locations, weights = make_inputs()
    flat = [side for shape in SHAPES for side in shape]
    torch.library.opcheck(torch.ops.detrex_lite.deformable_attention_cpu, (value, locations, weights, flat))


def test_the_backend_can_be_chosen_by_variable_context_and_argument(monkeypatch):
    cpu = torch.device("cpu")
    assert select_backend(cpu, torch.float32) == "embedding_bag"
    assert "embedding_bag (" in describe_backend(cpu)
    monkeypatch.setenv("DETREX_LITE_DEFORMABLE_ATTENTION", "reference")
    assert select_backend(cpu, torch.float32) == "reference"
    with use_deformable_attention_backend("embedding_bag"):
        assert select_backend(cpu, torch.float32) == "embedding_bag"
        assert select_backend(cpu, torch.float32, "reference") == "reference"
    assert select_backend(cpu, torch.float32) == "reference"
    assert select_backend(torch.device("meta"), torch.float64, None) == "reference"


def test_unknown_and_unsupported_backends_raise_an_error(monkeypatch):
    value, locations, weights = make_inputs()
    with pytest.raises(ValueError, match="'tritn'.*'triton'"):
        multi_scale_deformable_attention(value, SHAPES, locations, weights, backend="tritn")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="'triton'.*(runs on a GPU|not installed)"):
        multi_scale_deformable_attention(value, SHAPES, locations, weights, backend="triton")
    with pytest.raises(ValueError, match="'embedding_bag' .*runs on a CPU.*meta"):
        select_backend(torch.device("meta"), torch.float32, "embedding_bag")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="triton is not installed"):
        select_backend(torch.device("cuda"), torch.float32, "triton")
    assert select_backend(torch.device("cuda"), torch.float32) == "reference"


def test_errors_name_inputs_of_the_wrong_shape():
    value, locations, weights = make_inputs()
    with pytest.raises(ValueError, match=r"spatial_shapes \[\(6, 5\)\] have 30 cells.*43 tokens"):
        multi_scale_deformable_attention(value, SHAPES[:1], locations, weights)
    with pytest.raises(ValueError, match=r"attention_weights has shape .*expected.*\(2, 7, 3, 3, 2\)"):
        multi_scale_deformable_attention(value, SHAPES, locations, weights[:, :, :2])
    with pytest.raises(ValueError, match=r"sampling_locations has shape .*expected"):
        multi_scale_deformable_attention(value, SHAPES, locations[..., :1], weights)
    with pytest.raises(ValueError, match=r"value has shape .*expected"):
        multi_scale_deformable_attention(value[0], SHAPES, locations, weights)
    with pytest.raises(ValueError, match="spatial_shapes"):
        multi_scale_deformable_attention(value, torch.tensor(SHAPES), locations, weights)
    with pytest.raises(ValueError, match="2 coordinates .* or 4 .*, got 3"):
        sampling_locations(torch.zeros(2, 7, 3, 3), locations, SHAPES)
    for points, message in (
        (torch.zeros(2, 7, 3, 3), "2 coordinates .* or 4 .*, got 3"),
        (torch.zeros(2, 6, 3, 2), r"reference_points has shape .*\(2, 7, 3, 2\)"),
    ):
        with pytest.raises(ValueError, match=message):
            multi_scale_deformable_attention_from_offsets(value, SHAPES, points, locations, weights)


def test_importing_the_package_never_imports_triton():
    # The check covers ops and layers; higher packages import torchvision, which imports triton.
    code = "import sys, detrex_lite.ops, detrex_lite.layers; sys.exit('triton' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
