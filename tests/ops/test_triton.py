"""The Triton kernels, compared with the reference in float64, on a GPU or in Triton's interpreter.

The interpreter takes about 0.1 s for each program, level and query of a row, so that shapes are tiny.
"""

import os

import pytest
import torch
from torch.testing import assert_close

pytest.importorskip("triton", reason="the package triton is not installed")

from detrex_lite.ops.deformable_attention import sampling_locations, triton_ops
from detrex_lite.ops.deformable_attention.reference import deformable_attention_reference
from detrex_lite.ops.deformable_attention.triton_ops import (
    deformable_attention_from_offsets_triton,
    deformable_attention_triton,
)

# Powers of two, so that k / 16 lies exactly on cell borders, without rounding in float32 and float64.
SHAPES = [(4, 8), (2, 4)]
TOLERANCE = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 2e-2}  # of the largest magnitude


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request, monkeypatch):
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
    elif os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("Triton's interpreter is off (conftest.py sets it where there is no GPU)")
    else:
        # Larger tiles give fewer programs: the interpreter's time depends on operations, not on elements.
        monkeypatch.setattr(triton_ops, "FORWARD_BYTES_PER_LANE", 128)
        monkeypatch.setattr(triton_ops, "BACKWARD_CHANNELS_PER_LANE", 32)
        monkeypatch.setattr(triton_ops, "ENCODER_RUN", 4)
    torch.manual_seed(0)
    return torch.device(request.param)


def cells(shapes):
    return sum(height * width for height, width in shapes)


def make_inputs(device, shapes=SHAPES, B=1, Q=3, H=2, P=3, C=5):
    """Values, locations inside and outside the maps, and weights."""
    value = torch.randn(B, cells(shapes), H, C, device=device)
    locations = torch.rand(B, Q, H, len(shapes), P, 2, device=device) * 1.4 - 0.2
    return value, locations, torch.rand(B, Q, H, len(shapes), P, device=device)


def make_offset_inputs(device, coordinates, shapes=SHAPES, B=1, Q=3, H=2, P=3, C=5):
    """Values, reference points or boxes, offsets, and logits."""
    value, locations, weights = make_inputs(device, shapes, B, Q, H, P, C)
    return (
        value,
        torch.rand(B, Q, len(shapes), coordinates, device=device),
        2 * torch.randn_like(locations),
        3 * weights,
    )


def from_offsets_reference(value, shapes, points, offsets, logits):
    weights = logits.flatten(-2).softmax(-1).view_as(logits)
    return deformable_attention_reference(value, shapes, sampling_locations(points, offsets, shapes), weights)


def run(function, tensors, shapes, grad_out=None):
    """The output and the gradients of all tensors."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    out = function(leaves[0], shapes, *leaves[1:])
    if grad_out is None:
        grad_out = torch.cos(torch.arange(out.numel(), device=out.device, dtype=torch.float64)).view_as(out)
    return [out, *torch.autograd.grad(out, leaves, grad_out.to(out.dtype))]


def assert_near(actual, expected, tolerance):
    for actual_tensor, expected_tensor in zip(actual, expected, strict=True):
        scale = expected_tensor.detach().abs().max().item()
        assert_close(actual_tensor.double(), expected_tensor.double(), rtol=0, atol=tolerance * scale + 1e-30)


def assert_agrees_with_reference(tensors, shapes=SHAPES, tolerance=1e-5):
    fused = len(tensors) == 4
    function = deformable_attention_from_offsets_triton if fused else deformable_attention_triton
    reference = from_offsets_reference if fused else deformable_attention_reference
    actual = run(function, tensors, shapes)
    assert [tensor.dtype for tensor in actual] == [tensors[0].dtype, *(tensor.dtype for tensor in tensors)]
    assert_near(actual, run(reference, [tensor.double() for tensor in tensors], shapes), tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_locations_inside_and_outside_agree_with_the_reference(device, dtype):
    value, locations, weights = make_inputs(device, B=2)
    assert_agrees_with_reference([value.to(dtype), locations, weights.to(dtype)], tolerance=TOLERANCE[dtype])


def test_locations_on_cell_borders_and_centres_agree_with_the_reference(device):
    value, locations, weights = make_inputs(device, Q=8, P=4)
    locations = torch.randint(-6, 23, locations.shape, device=device) / 16
    assert_agrees_with_reference([value, locations, weights])


@pytest.mark.parametrize("shapes", [[(3, 5)], [(1, 1)], [(2, 3), (1, 1), (1, 2)]])
@pytest.mark.parametrize(("P", "C"), [(1, 1), (5, 7), (4, 32)])
def test_any_numbers_of_levels_points_and_channels_agree_with_the_reference(device, shapes, P, C):
    assert_agrees_with_reference(make_inputs(device, shapes, H=1, P=P, C=C), shapes)


def test_tiles_of_the_size_used_on_a_gpu_agree_with_the_reference(device, monkeypatch):
    monkeypatch.setattr(triton_ops, "FORWARD_BYTES_PER_LANE", 16)
    monkeypatch.setattr(triton_ops, "BACKWARD_CHANNELS_PER_LANE", 4)
    assert_agrees_with_reference(make_inputs(device, [(2, 3)], Q=5, H=3, P=4, C=16), [(2, 3)])


@pytest.mark.parametrize("shift", [0.0, 0.04, -0.3])
def test_encoder_queries_combine_gradients_of_the_same_cells(device, shift):
    value, locations, weights = make_inputs(device, Q=cells(SHAPES), H=1, P=2)
    # Each cell samples at its own shifted position, so that neighbours share cells.
    for level, (height, width) in enumerate(SHAPES):
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        first = cells(SHAPES[:level])
        centres = torch.stack((x.flatten() / width, y.flatten() / height), -1)
        locations[0, first : first + height * width] = centres[:, None, None, None].to(device) + shift
    locations = locations + 0.01 * torch.randn_like(locations)
    assert_agrees_with_reference([value, locations, weights])


@pytest.mark.parametrize("coordinates", [2, 4])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_attention_from_offsets_agrees_with_the_reference(device, dtype, coordinates):
    value, points, offsets, logits = make_offset_inputs(device, coordinates, B=2)
    assert_agrees_with_reference(
        [value.to(dtype), points, offsets.to(dtype), logits.to(dtype)], tolerance=TOLERANCE[dtype]
    )


@pytest.mark.parametrize("coordinates", [2, 4])
def test_encoder_attention_from_offsets_agrees_with_the_reference(device, coordinates):
    assert_agrees_with_reference(make_offset_inputs(device, coordinates, [(2, 4)], Q=8, H=1, P=2), [(2, 4)])


@pytest.mark.parametrize("coordinates", [2, 4])
def test_attention_from_offsets_agrees_with_attention_from_locations(device, coordinates):
    value, points, offsets, logits = make_offset_inputs(device, coordinates)
    weights = logits.flatten(-2).softmax(-1).view_as(logits)
    expected = deformable_attention_triton(value, SHAPES, sampling_locations(points, offsets, SHAPES), weights)
    actual = deformable_attention_from_offsets_triton(value, SHAPES, points, offsets, logits)
    assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_large_logits_do_not_overflow(device):
    value, points, offsets, logits = make_offset_inputs(device, 2)
    assert_agrees_with_reference([value, points, offsets, logits + 100], tolerance=1e-4)  # exp(100) overflows float32


def test_reference_points_without_gradients_are_supported(device):
    value, points, offsets, logits = make_offset_inputs(device, 2)

    def attend(*tensors):
        return run(lambda v, s, o, w: deformable_attention_from_offsets_triton(v, s, points, o, w), tensors, SHAPES)

    def reference(*tensors):
        return run(lambda v, s, o, w: from_offsets_reference(v, s, points.double(), o, w), tensors, SHAPES)

    tensors = value, offsets, logits
    assert_near(attend(*tensors), reference(*(tensor.double() for tensor in tensors)), 1e-5)


@pytest.mark.parametrize("dtypes", [("bfloat16", "float32", "bfloat16"), ("float32", "float16", "bfloat16")])
def test_inputs_of_different_dtypes_agree_with_the_reference(device, dtypes):
    tensors = [tensor.to(getattr(torch, dtype)) for tensor, dtype in zip(make_inputs(device), dtypes, strict=True)]
    assert_agrees_with_reference(tensors, tolerance=2e-2)


def test_inputs_and_gradients_need_not_be_contiguous(device):
    tensors = make_inputs(device)
    strided = [tensor.transpose(1, 2).contiguous().transpose(1, 2) for tensor in tensors]
    assert not any(tensor.is_contiguous() for tensor in strided)
    grad_out = torch.ones((), device=device, dtype=torch.float64).expand(1, 3, 10)
    actual = run(deformable_attention_triton, strided, SHAPES, grad_out)
    assert_near(actual, run(deformable_attention_triton, tensors, SHAPES, grad_out), 1e-6)


@pytest.mark.parametrize(("B", "Q"), [(0, 3), (2, 0)])
def test_zero_images_and_zero_queries_are_supported(device, B, Q):
    for tensors, function in (
        (make_inputs(device, B=B, Q=Q), deformable_attention_triton),
        (make_offset_inputs(device, 4, B=B, Q=Q), deformable_attention_from_offsets_triton),
    ):
        out, *gradients = run(function, tensors, SHAPES)
        assert out.shape == (B, Q, 10)
        for gradient, tensor in zip(gradients, tensors, strict=True):
            assert_close(gradient, torch.zeros_like(tensor))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30, -1e30])
def test_non_finite_and_huge_locations_count_as_outside(device, bad):
    value, locations, weights = make_inputs(device)
    locations[0, 1, :, 0] = bad
    outside = locations.clone()
    outside[0, 1, :, 0] = -9.0
    actual = run(deformable_attention_triton, (value, locations, weights), SHAPES)
    expected = run(deformable_attention_triton, (value, outside, weights), SHAPES)
    assert_near(actual, expected, 1e-6)


def test_a_nan_offset_affects_only_its_query(device):
    value, points, offsets, logits = make_offset_inputs(device, 4)
    expected = deformable_attention_from_offsets_triton(value, SHAPES, points, offsets, logits)
    offsets[0, 1] = float("nan")
    actual = deformable_attention_from_offsets_triton(value, SHAPES, points, offsets, logits)
    assert_close(actual[:, ::2], expected[:, ::2])
    assert_close(actual[:, 1], torch.zeros_like(actual[:, 1]))


def test_image_sizes_reach_the_kernels_as_floats(device):
    # Triton recompiles a kernel for an int that is 1 or a multiple of 16, and image sizes differ between batches.
    value, locations, _ = make_inputs(device, [(1, 16)])
    heights, widths, *_ = triton_ops._Sizes(value, None, locations, [1, 16]).varying
    assert [type(size) for size in (*heights, *widths)] == [float, float]


def operator_arguments(device, coordinates):
    if coordinates == 0:
        value, samples, weights = make_inputs(device, [(2, 3)], Q=2, H=1)
        points = None
    else:
        value, points, samples, weights = make_offset_inputs(device, coordinates, [(2, 3)], Q=2, H=1)
    tensors = [None if tensor is None else tensor.requires_grad_() for tensor in (value, points, samples, weights)]
    return (*tensors, [2, 3])


@pytest.mark.parametrize("coordinates", [0, 2, 4])
def test_the_operators_pass_opcheck(device, coordinates):
    arguments = operator_arguments(device, coordinates)
    torch.library.opcheck(triton_ops._attend, arguments)
    arguments = [argument.detach() if isinstance(argument, torch.Tensor) else argument for argument in arguments]
    out, log_sums = triton_ops._attend(*arguments)
    for want_points in {False, coordinates > 0}:
        torch.library.opcheck(triton_ops._attend_backward, (out, out, log_sums, *arguments, want_points))


@pytest.mark.parametrize("coordinates", [0, 4])
def test_compiles_without_a_graph_break(device, coordinates):
    function = deformable_attention_from_offsets_triton if coordinates else deformable_attention_triton
    tensors = make_offset_inputs(device, coordinates) if coordinates else make_inputs(device)

    def attend(value, shapes, *rest):
        return 2 * function(value * 0.5, shapes, *rest)

    actual = run(torch.compile(attend, fullgraph=True, backend="aot_eager"), tensors, SHAPES)
    assert_near(actual, run(attend, tensors, SHAPES), 1e-6)


@pytest.mark.gpu
def test_cuda_graphs_capture_the_kernels():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    tensors = make_inputs(torch.device("cuda"))
    # This call compiles the kernels, which is not possible during capture.
    expected = deformable_attention_triton(tensors[0], SHAPES, *tensors[1:])
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = deformable_attention_triton(tensors[0], SHAPES, *tensors[1:])
    out.zero_()
    graph.replay()
    assert_close(out, expected)


def test_unsupported_dtypes_and_points_raise_an_error(device):
    value, points, offsets, logits = make_offset_inputs(device, 2)
    with pytest.raises(ValueError, match="sampling_locations is torch.float64"):
        deformable_attention_triton(value, SHAPES, offsets.double(), logits)
    with pytest.raises(ValueError, match=r"reference_points have shape \(1, 3, 2, 1\)"):
        deformable_attention_from_offsets_triton(value, SHAPES, points[..., :1], offsets, logits)
