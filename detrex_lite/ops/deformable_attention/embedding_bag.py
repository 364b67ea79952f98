"""Multi-scale deformable attention on a CPU as one weighted sum of table rows per query and head.

A sample is the bilinear combination of four neighbouring cells, so the result of a query in one head is a weighted sum
of 4 L P rows of a table (tokens x heads, C). `torch.nn.functional.embedding_bag` computes such sums while reading each
row once, whereas grid_sample writes all samples to memory first. The sums are a product with a sparse matrix A that has
one row per query and head. The backward pass follows: the gradient of the table is A^T times the output gradient, and
the gradients of the weights are the products of output gradients and table rows where A is not zero.

Legend: B batch, Q queries, N tokens of all levels, H heads, L levels, P points, C channels of a head.
"""

import itertools
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .table_layout import TableLayout, table_layout

# Number of samples per chunk, so that their indices and weights stay in the cache until they are summed. Measured on
# 5,600 queries of 128 samples: without chunks the index arithmetic took 5 times as long.
SAMPLES_AT_A_TIME = 32767


def deformable_attention_embedding_bag(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """See `multi_scale_deformable_attention`. Half precision is computed in float32."""
    dtype = torch.promote_types(value.dtype, torch.float32)
    sizes = _sizes(spatial_shapes, dtype).repeat_interleave(locations.shape[4], dim=0).flatten()  # (L * P * 2,)
    cells = torch.addcmul(sizes.new_tensor(-0.5), locations.to(dtype).flatten(3), sizes).view(locations.shape)
    return _attend(value, spatial_shapes, cells, weights)


def deformable_attention_from_offsets_embedding_bag(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], reference_points: Tensor, offsets: Tensor, logits: Tensor
) -> Tensor:
    """See `multi_scale_deformable_attention_from_offsets`. Offsets from points are in cells, so they are only added."""
    dtype = torch.promote_types(value.dtype, torch.float32)
    points, reference = offsets.shape[4], reference_points.to(dtype)
    sizes = _sizes(spatial_shapes, dtype)

    def for_each_point(per_level: Tensor) -> Tensor:
        """Repeat (B, Q, L, 2) to (B, Q, 1, L * P * 2): adding long rows is many times faster than adding pairs."""
        return per_level[:, :, None, :, None].expand(-1, -1, -1, -1, points, -1).flatten(3)

    centres = for_each_point(reference[..., :2] * sizes - 0.5)
    cells = offsets.to(dtype).flatten(3)
    if reference.shape[-1] == 4:
        cells = torch.addcmul(centres, cells, for_each_point(reference[..., 2:] * sizes * (0.5 / points)))
    else:
        cells = centres + cells
    weights = logits.flatten(3).softmax(-1).view(logits.shape)
    return _attend(value, spatial_shapes, cells.view(offsets.shape), weights)


def _sizes(spatial_shapes: Sequence[tuple[int, int]], dtype: torch.dtype) -> Tensor:
    """Return the width and height of each level, (L, 2)."""
    return torch.tensor([(width, height) for height, width in spatial_shapes], dtype=dtype)


def _attend(value: Tensor, spatial_shapes: Sequence[tuple[int, int]], cells: Tensor, weights: Tensor) -> Tensor:
    """cells: (B, Q, H, L, P, 2) sampling locations, x first, in cells from the centre of the first cell of a level."""
    flat_shapes = [side for shape in spatial_shapes for side in shape]
    out = _forward(value.to(cells.dtype), cells, weights.to(cells.dtype), flat_shapes)
    return out.to(value.dtype)


# These are registered operators, so that torch.compile treats each as one node and does not trace it.


@torch.library.custom_op("detrex_lite::deformable_attention_cpu", mutates_args=(), device_types="cpu")
def _forward(value: Tensor, cells: Tensor, weights: Tensor, flat_shapes: Sequence[int]) -> Tensor:
    """Attend. value (B, N, H, C), cells (B, Q, H, L, P, 2), weights (B, Q, H, L, P). Returns (B, Q, H * C)."""
    heads, channels = value.shape[2:]
    layout = table_layout(tuple(flat_shapes), heads, weights.shape[-1], value.dtype)
    tables = layout.table(value).flatten(1, 2)
    out = value.new_empty(*weights.shape[:2], heads * channels)
    for image, queries, corners in _corners_in_chunks(cells, weights, layout):
        rows, shares = corners.bags()
        sums = F.embedding_bag(rows, tables[image], mode="sum", per_sample_weights=shares)
        out[image, queries] = sums.view(-1, heads * channels)
    return out


@_forward.register_fake
def _(value: Tensor, cells: Tensor, weights: Tensor, flat_shapes: Sequence[int]) -> Tensor:
    return value.new_empty(*weights.shape[:2], value.shape[2] * value.shape[3])


@torch.library.custom_op("detrex_lite::deformable_attention_cpu_backward", mutates_args=(), device_types="cpu")
def _backward(
    gradient: Tensor, value: Tensor, cells: Tensor, weights: Tensor, flat_shapes: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """gradient: (B, Q, H * C), of the result. Returns the gradients of value, cells and weights."""
    heads, channels = value.shape[2:]
    layout = table_layout(tuple(flat_shapes), heads, weights.shape[-1], value.dtype)
    tables = layout.table(value).flatten(1, 2)
    gradient = gradient.unflatten(2, (heads, channels)).flatten(1, 2).contiguous()  # a row for each query and head
    samples = weights.shape[3] * weights.shape[4]
    all_rows = torch.empty(*weights.shape[:3], 4, samples, dtype=torch.int32)
    all_shares = value.new_empty(all_rows.shape)
    cell_gradient, weight_gradient = cells.new_empty(cells.shape), weights.new_empty(weights.shape)
    for image, queries, corners in _corners_in_chunks(cells, weights, layout, (all_rows, all_shares)):
        part = slice(queries.start * heads, queries.stop * heads)
        products = _sampled_products(corners.bags()[0], gradient[image, part], tables[image])
        corners.gradients(products, layout, cell_gradient[image, queries], weight_gradient[image, queries])
    table_gradient = _scatter(
        all_rows.flatten(3).flatten(1, 2), all_shares.flatten(3).flatten(1, 2), gradient, tables.shape[1]
    )
    return layout.value(table_gradient.unflatten(1, (-1, heads))), cell_gradient, weight_gradient


@_backward.register_fake
def _(gradient: Tensor, value: Tensor, cells: Tensor, weights: Tensor, flat_shapes: Sequence[int]) -> tuple:
    return value.new_empty(value.shape), cells.new_empty(cells.shape), weights.new_empty(weights.shape)


def _save(ctx, inputs: tuple, output: Tensor) -> None:
    value, cells, weights, flat_shapes = inputs
    ctx.save_for_backward(value, cells, weights)
    ctx.flat_shapes = flat_shapes


def _differentiate(ctx, gradient: Tensor) -> tuple:
    return *_backward(gradient, *ctx.saved_tensors, ctx.flat_shapes), None


_forward.register_autograd(_differentiate, setup_context=_save)


class _Corners(NamedTuple):
    """The four cells around each sample of a chunk of q queries, and the position of the sample between them.

    Corners are ordered top left, top right, bottom left, bottom right.
    """

    rows: Tensor  # (q, H, 4, L * P) int32, row indices in the image's part of the table
    shares: Tensor  # (q, H, 4, L * P) bilinear weights times attention weights
    x: Tensor  # (q, H * L * P) distance from the left cells, in cells
    y: Tensor  # (q, H * L * P) distance from the upper cells, in cells
    cells: Tensor  # (q, H * L * P, 2) sampling locations in cells
    weights: Tensor  # (q, H * L * P)

    def bags(self) -> tuple[Tensor, Tensor]:
        """Return rows and shares as (q * H, 4 * L * P)."""
        return self.rows.view(-1, self.rows[0, 0].numel()), self.shares.view(-1, self.shares[0, 0].numel())

    def gradients(self, products: Tensor, layout: TableLayout, cell_gradient: Tensor, weight_gradient: Tensor) -> None:
        """Write the gradients of cells and weights from those of `shares`, (q * H, 4 * L * P), for this chunk."""
        top_left, top_right, bottom_left, bottom_right = (
            corner.reshape(self.x.shape) for corner in products.view(self.shares.shape).unbind(2)
        )
        top_step, bottom_step = top_right.sub_(top_left), bottom_right.sub_(bottom_left)
        top, bottom = top_left.addcmul_(self.x, top_step), bottom_left.addcmul_(self.x, bottom_step)
        step_x, step_y = torch.lerp(top_step, bottom_step, self.y), bottom.sub_(top)
        torch.addcmul(top, self.y, step_y, out=weight_gradient.view(self.x.shape))
        cell_gradient = cell_gradient.view(self.cells.shape)
        for axis, (step, size) in enumerate(((step_x, layout.widths), (step_y, layout.heights))):
            inside = (self.cells[..., axis] > -1) & (self.cells[..., axis] < size)  # the gradient outside is zero
            torch.mul(step, self.weights * inside, out=cell_gradient[..., axis])


def _corners_in_chunks(
    cells: Tensor, weights: Tensor, layout: TableLayout, out: tuple[Tensor, Tensor] | None = None
) -> Iterator[tuple[int, slice, _Corners]]:
    """Iterate over chunks of queries, as (index of the image, slice of its queries, their corners).

    Args:
        cells: (B, Q, H, L, P, 2).
        weights: (B, Q, H, L, P).
        layout: of the table.
        out: buffers (B, Q, H, 4, L * P) for the rows and shares of all chunks; None allocates them for each chunk.
    """
    images, queries, heads = weights.shape[:3]
    cells, weights = cells.flatten(3, 4), weights.flatten(3)  # (B, Q, H, L * P, ...)
    step = max(1, SAMPLES_AT_A_TIME // max(1, heads * weights.shape[3]))
    for image, start in itertools.product(range(images), range(0, queries, step)):
        part = slice(start, min(start + step, queries))
        if out is None:
            shape = (part.stop - start, heads, 4, weights.shape[3])
            rows, shares = torch.empty(shape, dtype=torch.int32), weights.new_empty(shape)
        else:
            rows, shares = out[0][image, part], out[1][image, part]
        yield image, part, _corners(cells[image, part], weights[image, part], layout, rows, shares)


def _corners(cells: Tensor, weights: Tensor, layout: TableLayout, rows: Tensor, shares: Tensor) -> _Corners:
    """Compute the corners of q queries.

    Args:
        cells: (q, H, L * P, 2).
        weights: (q, H, L * P).
        layout: of the table.
        rows, shares: (q, H, 4, L * P) output buffers.
    """
    heads, per_head = weights.shape[1], weights.shape
    cells, weights = cells.reshape(len(cells), -1, 2), weights.reshape(len(weights), -1)
    x, left = _split(cells[..., 0], layout.widths)
    y, top = _split(cells[..., 1], layout.heights)

    row = torch.addcmul(layout.bases, left.int(), layout.heads).addcmul_(top.int(), layout.below)
    # A NaN is converted to an arbitrary integer, which is clamped to the table; its NaN weights make the sum NaN.
    row.clamp_(0, layout.last)
    for corner, left_row in ((0, row), (2, row + layout.below)):
        rows[:, :, corner] = left_row.view(per_head)
        torch.add(left_row.view(per_head), heads, out=rows[:, :, corner + 1])

    bottom_weights = weights * y
    for corner, row_weights in ((0, weights - bottom_weights), (2, bottom_weights)):
        right = torch.mul(row_weights.view(per_head), x.view(per_head), out=shares[:, :, corner + 1])
        torch.sub(row_weights.view(per_head), right, out=shares[:, :, corner])
    return _Corners(rows, shares, x, y, cells, weights)


def _split(coordinates: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Split coordinates along an axis, in cells, into (fraction, integer part)."""
    # Everything further outside than one cell is zero as well.
    coordinates = torch.clamp(coordinates, min=sizes.new_tensor(-1.0), max=sizes)
    cell = coordinates.floor()
    return coordinates.sub_(cell), cell


def _sampled_products(rows: Tensor, gradient: Tensor, table: Tensor) -> Tensor:
    """Multiply the gradient of each bag by the table rows of the bag.

    The result equals embedding_bag's gradient of the weights, in a third of the time.

    Args:
        rows: (bags, n) row indices.
        gradient: (bags, C).
        table: (rows of the table, C).

    Returns:
        (bags, n).
    """
    bags, per_bag = rows.shape
    if per_bag > len(table):
        # torch limits the entries of a sparse matrix to its number of elements, but here indices may repeat.
        table = F.pad(table, (0, 0, 0, per_bag - len(table)))
    first = torch.arange(0, bags * per_bag + 1, per_bag, dtype=torch.int32)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse")  # the warning that the format is in beta
        pattern = torch.sparse_csr_tensor(
            first, rows.flatten(), gradient.new_zeros(rows.numel()), (bags, len(table)), check_invariants=False
        )
        return torch.sparse.sampled_addmm(pattern, gradient, table.t(), beta=0.0).values().view(rows.shape)


def _scatter(rows: Tensor, shares: Tensor, gradient: Tensor, num_rows: int) -> Tensor:
    """Add the gradient of each bag, times its shares, to the rows of its image in the table.

    This is a product with a sparse matrix. It takes a thirtieth of the time of embedding_bag's gradient, which sorts
    the indices, and the order of the additions is deterministic. SciPy uses one thread and releases the GIL, so each
    image gets a thread.

    Args:
        rows, shares: (B, bags, n); rows count from the first row of the image.
        gradient: (B, bags, C).
        num_rows: number of rows per image.

    Returns:
        (B, num_rows, C).
    """
    from scipy.sparse import csr_array  # takes long to import, and only training on a CPU needs it

    images, bags, per_bag = rows.shape
    first = torch.arange(0, bags * per_bag + 1, per_bag, dtype=torch.int32).numpy()
    out = gradient.new_empty(images, num_rows, gradient.shape[2])

    def scatter(image: int) -> None:
        entries = (shares[image].view(-1).numpy(), rows[image].view(-1).numpy(), first)
        matrix = csr_array(entries, shape=(bags, num_rows))
        out[image] = torch.from_numpy(matrix.T @ gradient[image].numpy())

    with ThreadPoolExecutor(max(1, min(images, torch.get_num_threads()))) as pool:
        list(pool.map(scatter, range(images)))
    return out
