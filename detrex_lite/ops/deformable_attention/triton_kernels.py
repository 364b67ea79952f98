"""Triton kernels of deformable attention: one forward and one backward, each for both forms of the operator.

The time is dominated by the gather of 4 cells per sample. A tile is (I queries of one head, P points, C channels) with
channels over neighbouring threads, so that a cell is one contiguous line (64 bytes for 32 channels in bf16) and the
P x 4 lines of a query and level are in flight together. The sum over points is kept in registers until the last level.
Locations and weights are read once, as (I, P) tiles; cells that neighbouring queries share come from L1 and L2. No
tensor of the size of the samples, B x Q x H x L x P x C, is written. Arithmetic is float32 throughout.

The backward pass reads the cells again (cheaper than storing them), reduces over channels for locations and weights,
and adds to the value's gradient by float32 atomics, which are the bottleneck: see `backward_kernel`.

POINT_SIZE determines the contents of `points`, `samples` and `weights`. 0: no points, sampling locations and attention
weights. 2 or 4: reference points or boxes, sampling offsets and attention logits, to which the kernel applies softmax.

Legend: B batch, Q queries, N tokens of all levels, H heads, L levels, P points, C channels of a head, I queries of a
program.
"""

import triton
import triton.language as tl

# Arguments that vary between batches: Triton would otherwise recompile when they are 1 or a multiple of 16.
_VARYING = ("num_queries", "num_tokens")


@triton.jit
def _program_position(num_queries, H: tl.constexpr, QUERIES: tl.constexpr):
    """Return the image, head and first query of a program. Heads vary fastest, since they read the same lines."""
    program = tl.program_id(0)
    block = program // H
    blocks = tl.cdiv(num_queries, QUERIES)
    batch = (block // blocks).to(tl.int64)  # all images together may have more elements than int32 can count
    return batch, program % H, (block % blocks) * QUERIES


@triton.jit
def _pixels(points, samples, query, sample, valid, level: tl.constexpr, height, width, L: tl.constexpr,
            P: tl.constexpr, POINT_SIZE: tl.constexpr):  # fmt: skip
    """Compute sampling locations x and y, (I, P), in cells from the first centre, and cells per unit of `samples`.

    Masked loads give -1, which lies outside every map in each of the three forms.
    """
    x = tl.load(samples + sample * 2, mask=valid, other=-1.0).to(tl.float32)
    y = tl.load(samples + sample * 2 + 1, mask=valid, other=-1.0).to(tl.float32)
    center_x, center_y = 0.0, 0.0
    scale_x, scale_y = width, height
    if POINT_SIZE > 0:
        scale_x, scale_y = 1.0, 1.0
        point = points + (query * L + level) * POINT_SIZE + tl.zeros_like(sample)
        center_x = tl.load(point, mask=valid, other=-1.0).to(tl.float32) * width
        center_y = tl.load(point + 1, mask=valid, other=-1.0).to(tl.float32) * height
        if POINT_SIZE == 4:
            scale_x = tl.load(point + 2, mask=valid, other=0.0).to(tl.float32) * (0.5 / P) * width
            scale_y = tl.load(point + 3, mask=valid, other=0.0).to(tl.float32) * (0.5 / P) * height
    return center_x + x * scale_x - 0.5, center_y + y * scale_y - 0.5, scale_x, scale_y


@triton.jit
def _window(x, y, height, width):
    """Return the upper left of the four cells around x, y, and the weights of the right and lower cells; all (I, P).

    Before the conversion to int, locations far outside are clamped to just outside, and so are NaNs, which compare
    false. (`tl.clamp` and `tl.maximum` treat NaN differently in Triton's interpreter and compiler.)
    """
    x, y = tl.where(x > -2.0, x, -2.0), tl.where(y > -2.0, y, -2.0)
    x, y = tl.where(x < width, x, width), tl.where(y < height, y, height)
    left, top = tl.floor(x), tl.floor(y)
    return left.to(tl.int32), top.to(tl.int32), x - left, y - top


@triton.jit
def _inside(index, size):
    """Test 0 <= index < size in one comparison."""
    return index.to(tl.uint32, bitcast=True) < size.to(tl.uint32, bitcast=True)


@triton.jit
def _cell_pointers(base, row, column, width, channel, H: tl.constexpr, C: tl.constexpr):
    """Return (I, P, C) pointers to cells of a level from `base` on; neighbours are H * C and width * H * C away."""
    return base + ((row * width + column) * (H * C))[:, :, None] + channel


@triton.jit
def _load_cell(pointers, row, column, height, width, channel_mask):
    """Load the channels of cells, (I, P, C), zero outside."""
    mask = (_inside(row, height) & _inside(column, width))[:, :, None] & channel_mask
    return tl.load(pointers, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _add_cell(pointers, addend, active, row, column, height, width, channel_mask):
    """Add (I, P, C) to cells inside the map where `active`, (I, P) bool."""
    mask = (_inside(row, height) & _inside(column, width) & active)[:, :, None] & channel_mask
    tl.atomic_add(pointers, addend, mask=mask, sem="relaxed")


@triton.jit
def _add_window(grad_level, left_upper, right_upper, left_lower, right_lower, left_active, right_active,
                top, left, height, width, channel, H: tl.constexpr, C: tl.constexpr):  # fmt: skip
    """Add four (I, P, C) tiles to the four cells of windows; each column only where it is active, (I, P) bool."""
    pointers = _cell_pointers(grad_level, top, left, width, channel, H, C)
    _add_cell(pointers, left_upper, left_active, top, left, height, width, channel < C)
    _add_cell(pointers + H * C, right_upper, right_active, top, left + 1, height, width, channel < C)
    pointers += width * (H * C)
    _add_cell(pointers, left_lower, left_active, top + 1, left, height, width, channel < C)
    _add_cell(pointers + H * C, right_lower, right_active, top + 1, left + 1, height, width, channel < C)


@triton.jit
def _advance_window(left, right, part, right_share, same, slid):
    """Update the pending sums of a row of two cells, (I, P, C) each, after a step that adds `part`.

    Where the window is the `same`, the sums accumulate; where it `slid`, the old right cell becomes the left one.
    """
    same, slid, right_share = same[:, :, None], slid[:, :, None], right_share[:, :, None]
    left = tl.where(same, left, tl.where(slid, right, 0.0)) + part * (1 - right_share)
    right = tl.where(same, right, 0.0) + part * right_share
    return left, right


@triton.jit
def _products(level_value, gradient, top, left, height, width, channel, H: tl.constexpr, C: tl.constexpr):
    """Compute inner products of the four cells of windows with the output's gradient (I, P, C): four (I, P)."""
    pointers = _cell_pointers(level_value, top, left, width, channel, H, C)
    left_upper = _load_cell(pointers, top, left, height, width, channel < C)
    right_upper = _load_cell(pointers + H * C, top, left + 1, height, width, channel < C)
    pointers += width * (H * C)
    left_lower = _load_cell(pointers, top + 1, left, height, width, channel < C)
    right_lower = _load_cell(pointers + H * C, top + 1, left + 1, height, width, channel < C)
    return (
        tl.sum(left_upper * gradient, axis=2),
        tl.sum(right_upper * gradient, axis=2),
        tl.sum(left_lower * gradient, axis=2),
        tl.sum(right_lower * gradient, axis=2),
    )


@triton.jit
def _softmax_terms(logits, query, head, num_queries, H: tl.constexpr, LP: tl.constexpr, BLOCK_LP: tl.constexpr):
    """Return the maximum of the L x P logits of each query, and the sum of exponentials relative to it, (I, 1) each."""
    index = tl.arange(0, BLOCK_LP)[None, :]
    offset = (query * H + head) * LP + index
    logit = tl.load(logits + offset, mask=(query < num_queries) & (index < LP), other=0.0).to(tl.float32)
    logit = tl.where(index < LP, logit, float("-inf"))
    largest = tl.max(logit, axis=1)[:, None]
    return largest, tl.sum(tl.exp(logit - largest), axis=1)[:, None]


@triton.jit(do_not_specialize=_VARYING)
def forward_kernel(out, log_sums, value, points, samples, weights, heights, widths, num_queries, num_tokens,
                   H: tl.constexpr, L: tl.constexpr, P: tl.constexpr, C: tl.constexpr, POINT_SIZE: tl.constexpr,
                   BLOCK_Q: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
                   BLOCK_LP: tl.constexpr):  # fmt: skip
    """Write out (B, Q, H, C) and, for logits, their log-sum-exp for the backward pass, log_sums (B, Q, H) float32.

    heights, widths: tuples of L floats. They are floats because Triton recompiles for each int that is 1 or a multiple
    of 16, which cannot be disabled inside tuples, and image sizes vary from batch to batch.
    """
    batch, head, first = _program_position(num_queries, H, BLOCK_Q)
    query = (first + tl.arange(0, BLOCK_Q))[:, None]  # (I, 1)
    point = tl.arange(0, BLOCK_P)[None, :]  # (1, P)
    channel = tl.arange(0, BLOCK_C)[None, None, :]
    valid = (query < num_queries) & (point < P)
    value += (batch * num_tokens * H + head) * C
    points += batch * num_queries * (L * POINT_SIZE)
    samples += batch * num_queries * (H * L * P * 2)
    weights += batch * num_queries * (H * L * P)
    if POINT_SIZE > 0:
        largest, total = _softmax_terms(weights, query, head, num_queries, H, L * P, BLOCK_LP)
        log_sum = log_sums + (batch * num_queries + query) * H + head
        tl.store(log_sum, largest + tl.log(total), mask=query < num_queries)
    summed = tl.zeros((BLOCK_Q, BLOCK_P, BLOCK_C), tl.float32)
    for level in tl.static_range(L):
        height, width = tl.cast(heights[level], tl.int32), tl.cast(widths[level], tl.int32)
        sample = ((query * H + head) * L + level) * P + point
        x, y, _, _ = _pixels(
            points, samples, query, sample, valid, level, heights[level], widths[level], L, P, POINT_SIZE
        )
        weight = tl.load(weights + sample, mask=valid, other=0.0).to(tl.float32)
        if POINT_SIZE > 0:
            weight = tl.exp(weight - largest)
        left, top, right_share, lower_share = _window(x, y, heights[level], widths[level])
        pointers = _cell_pointers(value, top, left, width, channel, H, C)
        sampled = tl.zeros((BLOCK_Q, BLOCK_P, BLOCK_C), tl.float32)
        for lower in tl.static_range(2):
            row_share = lower_share if lower else 1 - lower_share
            for right in tl.static_range(2):
                share = row_share * (right_share if right else 1 - right_share)
                cell = _load_cell(pointers + right * (H * C), top + lower, left + right, height, width, channel < C)
                sampled += cell * share[:, :, None]
            pointers += width * (H * C)
        summed += sampled * weight[:, :, None]
        value += height * width * (H * C)
    result = tl.sum(summed, axis=1)
    if POINT_SIZE > 0:
        result = result / total
    channel = tl.arange(0, BLOCK_C)[None, :]
    target = out + ((batch * num_queries + query) * H + head) * C + channel
    tl.store(target, result.to(out.dtype.element_ty), mask=(query < num_queries) & (channel < C))


@triton.jit
def _add_point_gradients(grad_points, samples, grad_x, grad_y, query, sample, valid, num_queries, level: tl.constexpr,
                         height, width, L: tl.constexpr, P: tl.constexpr, POINT_SIZE: tl.constexpr):  # fmt: skip
    """Add the gradients of reference points, summed over points here, and over heads by atomics."""
    target = grad_points + (query * L + level) * POINT_SIZE
    mask = query < num_queries
    tl.atomic_add(target, tl.sum(grad_x, axis=1)[:, None] * width, mask=mask, sem="relaxed")
    tl.atomic_add(target + 1, tl.sum(grad_y, axis=1)[:, None] * height, mask=mask, sem="relaxed")
    if POINT_SIZE == 4:
        x = tl.load(samples + sample * 2, mask=valid, other=0.0).to(tl.float32)
        y = tl.load(samples + sample * 2 + 1, mask=valid, other=0.0).to(tl.float32)
        wide = tl.sum(grad_x * x, axis=1)[:, None] * (0.5 / P) * width
        high = tl.sum(grad_y * y, axis=1)[:, None] * (0.5 / P) * height
        tl.atomic_add(target + 2, wide, mask=mask, sem="relaxed")
        tl.atomic_add(target + 3, high, mask=mask, sem="relaxed")


@triton.jit(do_not_specialize=_VARYING)
def backward_kernel(grad_value, grad_points, grad_samples, grad_weights, grad_out, out, log_sums,
                    value, points, samples, weights, heights, widths, num_queries, num_tokens,
                    H: tl.constexpr, L: tl.constexpr, P: tl.constexpr, C: tl.constexpr, POINT_SIZE: tl.constexpr,
                    POINT_GRADIENTS: tl.constexpr, RUN: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_P: tl.constexpr,
                    BLOCK_C: tl.constexpr):  # fmt: skip
    """Compute the gradients of all inputs; grad_value and grad_points are float32 and must be zeroed by the caller.

    Atomics on the value's gradient are the bottleneck: there are 4 per sample and channel, and the coarser the level,
    the more of them hit the same cell. In an encoder the queries are cells in raster order, so consecutive queries
    sample the same four cells (on coarse levels) or four cells one column further right (on the finest). Each row of a
    tile therefore walks along RUN queries and keeps the sums of the last four cells in registers; it adds a column of
    two cells to memory only when the window leaves it. Counted for RUN = 8 on levels 100x167 to 13x21: 40 % of the
    atomics remain when all queries have equal offsets, as in a new model; 60 and 77 % when offsets vary by 1/4 and 1/2
    cell; nearly all when they vary by 1.
    """
    batch, head, first = _program_position(num_queries, H, BLOCK_Q * RUN)
    first_query = (first + tl.arange(0, BLOCK_Q) * RUN)[:, None]
    point = tl.arange(0, BLOCK_P)[None, :]
    channel = tl.arange(0, BLOCK_C)[None, None, :]
    value += (batch * num_tokens * H + head) * C
    grad_value += (batch * num_tokens * H + head) * C
    points += batch * num_queries * (L * POINT_SIZE)
    grad_points += batch * num_queries * (L * POINT_SIZE)
    samples += batch * num_queries * (H * L * P * 2)
    grad_samples += batch * num_queries * (H * L * P * 2)
    weights += batch * num_queries * (H * L * P)
    grad_weights += batch * num_queries * (H * L * P)
    log_sums += batch * num_queries * H
    out += batch * num_queries * (H * C)
    grad_out += batch * num_queries * (H * C)
    # Every (I, P, C) tile has the full shape, even where all points share a line: Triton gives a different shape a
    # different layout over threads, and converts between layouts through shared memory.
    any_point = tl.zeros((BLOCK_Q, BLOCK_P, BLOCK_C), tl.int32)
    everywhere = tl.full((BLOCK_Q, BLOCK_P), True, tl.int1)
    for level in tl.static_range(L):
        height, width = tl.cast(heights[level], tl.int32), tl.cast(widths[level], tl.int32)
        # The current window: its upper left cell, and the pending sums of its four cells.
        walk_left = tl.full((BLOCK_Q, BLOCK_P), -2, tl.int32)
        walk_top = tl.full((BLOCK_Q, BLOCK_P), -2, tl.int32)
        left_upper = tl.zeros((BLOCK_Q, BLOCK_P, BLOCK_C), tl.float32)
        left_lower, right_upper, right_lower = left_upper, left_upper, left_upper
        for step in range(RUN):
            query = first_query + step
            valid = (query < num_queries) & (point < P)
            sample = ((query * H + head) * L + level) * P + point
            line = (query[:, :, None] * H + head) * C + channel + any_point
            line_mask = valid[:, :, None] & (channel < C)
            gradient = tl.load(grad_out + line, mask=line_mask, other=0.0).to(tl.float32)
            x, y, scale_x, scale_y = _pixels(
                points, samples, query, sample, valid, level, heights[level], widths[level], L, P, POINT_SIZE
            )
            left, top, right_share, lower_share = _window(x, y, heights[level], widths[level])
            left_share, upper_share = 1 - right_share, 1 - lower_share

            product_00, product_01, product_10, product_11 = _products(
                value, gradient, top, left, height, width, channel, H, C
            )
            upper_product = left_share * product_00 + right_share * product_01
            lower_product = left_share * product_10 + right_share * product_11
            grad_weight = upper_share * upper_product + lower_share * lower_product
            weight = tl.load(weights + sample, mask=valid, other=0.0).to(tl.float32)
            if POINT_SIZE > 0:
                # Gradient of softmax: a (d - sum of a d over all samples); the sum is the output times its gradient.
                log_sum = tl.load(log_sums + query * H + head + tl.zeros_like(sample), mask=valid, other=0.0)
                weight = tl.exp(weight - log_sum)
                output = tl.load(out + line, mask=line_mask, other=0.0).to(tl.float32)
                grad_weight = weight * (grad_weight - tl.sum(output * gradient, axis=2))
            grad_x = weight * (upper_share * (product_01 - product_00) + lower_share * (product_11 - product_10))
            grad_y = weight * (lower_product - upper_product)
            tl.store(grad_weights + sample, grad_weight.to(grad_weights.dtype.element_ty), mask=valid)
            sample_dtype = grad_samples.dtype.element_ty
            tl.store(grad_samples + sample * 2, (grad_x * scale_x).to(sample_dtype), mask=valid)
            tl.store(grad_samples + sample * 2 + 1, (grad_y * scale_y).to(sample_dtype), mask=valid)
            if POINT_GRADIENTS:
                _add_point_gradients(grad_points, samples, grad_x, grad_y, query, sample, valid, num_queries, level,
                                     heights[level], widths[level], L, P, POINT_SIZE)  # fmt: skip

            same = (left == walk_left) & (top == walk_top)
            slid = (left == walk_left + 1) & (top == walk_top)
            _add_window(grad_value, left_upper, right_upper, left_lower, right_lower, ~same, ~(same | slid),
                        walk_top, walk_left, height, width, channel, H, C)  # fmt: skip
            upper_part = gradient * (weight * upper_share)[:, :, None]
            lower_part = gradient * (weight * lower_share)[:, :, None]
            left_upper, right_upper = _advance_window(left_upper, right_upper, upper_part, right_share, same, slid)
            left_lower, right_lower = _advance_window(left_lower, right_lower, lower_part, right_share, same, slid)
            walk_left, walk_top = left, top
        _add_window(grad_value, left_upper, right_upper, left_lower, right_lower, everywhere, everywhere,
                    walk_top, walk_left, height, width, channel, H, C)  # fmt: skip
        value += height * width * (H * C)
        grad_value += height * width * (H * C)
