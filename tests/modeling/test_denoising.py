import copy
import pickle
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from detrex_lite.modeling import (
    BoxL1Cost,
    BoxL1Loss,
    ContrastiveDenoising,
    CrossEntropyCost,
    CrossEntropyLoss,
    FocalLoss,
    GIoULoss,
    GroupDenoising,
    HungarianMatcher,
    LayerOutput,
    Queries,
    QueryBlock,
    SetCriterion,
    Targets,
    add_indicator,
)
from detrex_lite.modeling.criterion import Comparison, sigmoid_focal_loss
from detrex_lite.modeling.denoising import (
    Denoising,
    Layout,
    number_objects,
    replace_labels,
    shift_and_scale,
    shift_corners,
)
from detrex_lite.structures import box_cxcywh_to_xyxy

from .helpers import random_targets

CHANNELS, CLASSES, QUERIES = 8, 4, 6
KINDS = [GroupDenoising, ContrastiveDenoising]


def build(kind, **arguments):
    torch.manual_seed(0)
    if kind is GroupDenoising:
        arguments = {"num_groups": 3, **arguments}
    else:
        arguments = {"num_pairs": 7, **arguments}
    return kind(num_classes=CLASSES, embed_dim=CHANNELS, **arguments).double()


def without_noise(kind, **arguments):
    return build(kind, label_noise_prob=0.0, box_noise_scale=0.0, **arguments)


def matching(batch, size=QUERIES):
    return QueryBlock("", torch.zeros(batch, size, CHANNELS).double(), torch.full((batch, size, 4), 0.5).double())


def decode(block, layers=2, num_logits=CLASSES, seed=0):
    """Sets of predictions for the block and `QUERIES` matching queries; gradients reach the contents of the queries."""
    queries = Queries([block, matching(len(block.content))])
    generator = torch.Generator().manual_seed(seed)
    content_sum = queries.content.sum(-1, keepdim=True)
    outputs = []
    for _ in range(layers):
        logits, boxes = (
            torch.randn(*queries.content.shape[:2], n, generator=generator, dtype=torch.float64) + content_sum
            for n in (num_logits, 4)
        )
        outputs.append(LayerOutput(logits, boxes.sigmoid(), {}))
    return queries.split(outputs)


def padding_of(targets, number):
    """(B, D) bool for D queries, by a loop over the images: True = padding."""
    slots = max(targets.sizes)
    rounds = number // slots
    return torch.tensor([([False] * size + [True] * (slots - size)) * rounds for size in targets.sizes])


def criterion(loss_class=None):
    return SetCriterion(
        matcher=HungarianMatcher({"bbox": BoxL1Cost()}),
        losses={"loss_class": loss_class or FocalLoss(), "loss_bbox": BoxL1Loss(), "loss_giou": GIoULoss()},
        weights={"loss_class": 1.0, "loss_bbox": 1.0, "loss_giou": 1.0},
    )


# Label noise


def test_labels_are_replaced_uniformly_with_the_given_probability():
    torch.manual_seed(0)
    labels = torch.full((200_000,), 2)
    noised = replace_labels(labels, 0.4, 5)
    # One in five of the drawn labels equals the original label.
    assert (noised != labels).double().mean() == pytest.approx(0.4 * 4 / 5, abs=0.005)
    fractions = torch.bincount(noised, minlength=5) / len(labels)
    assert_close(fractions, torch.tensor([0.08, 0.08, 0.68, 0.08, 0.08]), atol=0.004, rtol=0)
    assert (labels == 2).all()


def test_labels_are_kept_for_probability_zero_and_redrawn_for_one():
    labels = torch.randint(7, (1000,))
    assert_close(replace_labels(labels, 0.0, 7), labels)
    assert (replace_labels(labels, 1.0, 7) != labels).double().mean() > 0.8
    assert (replace_labels(torch.zeros(5, dtype=torch.int64), 1.0, 1) == 0).all()


# Box noise

TWO_BOXES = torch.tensor([[0.5, 0.4, 0.2, 0.1], [0.3, 0.6, 0.1, 0.3]], dtype=torch.float64)


def test_shift_and_scale_is_uniform_within_its_range():
    torch.manual_seed(0)
    boxes = TWO_BOXES.expand(50_000, 2, 4)
    change = (shift_and_scale(boxes, 0.4) - boxes) / boxes[..., 2:].repeat(1, 1, 2)
    limits = torch.tensor([0.2, 0.2, 0.4, 0.4], dtype=torch.float64)
    relative_change = change / limits  # uniform in -1..1
    assert relative_change.abs().max() <= 1 + 1e-9
    assert_close(relative_change.mean(0), torch.zeros(2, 4, dtype=torch.float64), atol=0.02, rtol=0)
    assert_close(relative_change.var(0), torch.full((2, 4), 1 / 3, dtype=torch.float64), atol=0.01, rtol=0)
    correlation = torch.corrcoef(relative_change.flatten(1).T) - torch.eye(8)
    assert correlation.abs().max() < 0.03


def test_positives_are_inside_and_negatives_outside_the_positive_radius():
    torch.manual_seed(0)
    boxes = TWO_BOXES.expand(50_000, 2, 2, 4).transpose(1, 2)  # repetition, sign, box
    noised = shift_corners(boxes, 0.4, negative=torch.tensor([[[False]], [[True]]]))
    moved = (box_cxcywh_to_xyxy(noised) - box_cxcywh_to_xyxy(boxes)) / (0.5 * boxes[..., 2:].repeat(1, 1, 1, 2))
    positive, negative = (moved / 0.4).unbind(1)
    assert positive.abs().max() < 1 + 1e-9
    assert negative.abs().min() >= 1 - 1e-9
    assert negative.abs().max() < 2 + 1e-9
    for distance in (positive.abs(), negative.abs() - 1):  # uniform in 0..1
        assert_close(distance.mean(0), torch.full((2, 4), 0.5, dtype=torch.float64), atol=0.01, rtol=0)
        assert_close(distance.var(0), torch.full((2, 4), 1 / 12, dtype=torch.float64), atol=0.005, rtol=0)
    for signs in (positive > 0, negative > 0):
        assert_close(signs.double().mean(0), torch.full((2, 4), 0.5, dtype=torch.float64), atol=0.01, rtol=0)


def test_noised_boxes_stay_in_the_image():
    torch.manual_seed(0)
    boxes = torch.tensor([[0.02, 0.98, 0.04, 0.04], [0.5, 0.5, 1.0, 1.0]]).expand(1000, 2, 4)
    for noised in (shift_and_scale(boxes, 1.0), shift_corners(boxes, 1.0, negative=torch.tensor(True))):
        assert noised.min() >= 0
        assert noised.max() <= 1
    # The corners of a negative may cross, which leaves no area; references of the decoder always have an area.
    assert (noised[..., 2:] == 0).any()
    targets = Targets(torch.zeros(50, dtype=torch.int64), boxes[:25].reshape(50, 4).double(), [50])
    block = build(ContrastiveDenoising, box_noise_scale=1.0)(targets)
    assert block.reference.min() >= 0.0009
    assert block.reference.max() <= 0.9991


def test_box_noise_of_scale_zero_keeps_the_boxes():
    assert_close(shift_and_scale(TWO_BOXES, 0.0), TWO_BOXES)
    assert_close(shift_corners(TWO_BOXES, 0.0, negative=torch.tensor(True)), TWO_BOXES)


# Layout


def test_objects_are_numbered_per_image():
    indices, sizes = number_objects([2, 0, 3], limit=3)
    assert indices.tolist() == [[0, 0, 2, 2, 2], [0, 1, 0, 1, 2], [0, 1, 2, 3, 4]]
    assert sizes == [2, 0, 3]
    indices, sizes = number_objects([0, 0], limit=3)
    assert indices.shape == (3, 0)
    assert indices.dtype == torch.int64
    assert sizes == [0, 0]


def test_objects_beyond_the_limit_are_dropped_at_random():
    selected_objects = set()
    for seed in range(20):
        torch.manual_seed(seed)
        indices, sizes = number_objects([1, 5], limit=2)
        assert sizes == [1, 2]
        assert indices[:2].tolist() == [[0, 1, 1], [0, 0, 1]]
        assert indices[2, 0] == 0
        selected_objects |= set(indices[2, 1:].tolist())
        assert len(set(indices[2].tolist())) == 3
    assert selected_objects == {1, 2, 3, 4, 5}


def test_queries_of_two_boxes_match_a_layout_written_by_hand():
    labels, boxes = torch.tensor([3, 1]), TWO_BOXES
    denoising = without_noise(ContrastiveDenoising, num_pairs=4)
    rows = denoising.label_embedding.weight
    block = denoising(Targets(labels, boxes, [2]))
    assert block.content.shape == (1, 8, CHANNELS)  # two groups of two positives and two negatives
    assert_close(block.content[0], rows[[3, 1, 3, 1, 3, 1, 3, 1]])
    assert_close(block.reference[0], boxes.repeat(4, 1))
    assert block.match.image.tolist() == [0, 0, 0, 0]
    assert block.match.query.tolist() == [0, 1, 4, 5]
    assert block.match.target.tolist() == [0, 1, 0, 1]
    assert (block.suffix, block.repeats, block.position) == ("_dn*", 2, None)
    same_group = torch.ones(4, 4, dtype=torch.bool)
    sees = torch.block_diag(same_group, same_group, torch.ones(1, 1, dtype=torch.bool))
    sees[:8, 8] = True  # denoising queries see matching queries
    assert_close(~Queries([block, matching(1, 1)]).attn_mask, sees)

    denoising = without_noise(GroupDenoising, num_groups=2)
    rows = denoising.label_embedding.weight
    block = denoising(Targets(labels, boxes, [1, 1]))
    assert block.content.shape == (2, 2, CHANNELS)
    for image, label in enumerate(labels):
        assert_close(block.content[image, :, :-1], rows[label].expand(2, -1))
        assert_close(block.reference[image], boxes[image].expand(2, -1))
    assert (block.content[..., -1] == 1).all()
    match = zip(*(x.tolist() for x in block.match[:3]), strict=True)
    assert list(match) == [(0, 0, 0), (1, 0, 1), (0, 1, 0), (1, 1, 1)]
    mask = Queries([block, matching(2, 1)]).attn_mask
    assert_close(mask, torch.tensor([[False, True, False], [True, False, False], [True, True, False]]))
    assert_close(denoising.matching_content(), torch.cat([rows[CLASSES], rows.new_zeros(1)]))


def test_the_indicator_marks_denoising_queries():
    content = torch.randn(2, 3, 4)
    for denoising in (False, True):
        marked = add_indicator(content, denoising=denoising)
        assert_close(marked[..., :-1], content)
        assert (marked[..., -1] == float(denoising)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_matched_queries_hold_their_objects_and_padding_is_neutral(kind):
    targets = random_targets([3, 0, 1])
    denoising = without_noise(kind)
    block = denoising(targets)
    match = block.match
    assert len(match.image) == block.repeats * 4
    assert_close(block.reference[match.image, match.query], targets.boxes[match.target])
    content = denoising.embed_labels(targets.labels)
    assert_close(block.content[match.image, match.query], content[match.target])
    padding = block.content.abs().sum(-1) == 0
    assert padding.sum(1).tolist() == [0, block.size, block.size * 2 // 3]
    assert_close(padding, padding_of(targets, block.size))
    assert (block.reference[padding] == 0.5).all()
    layout, _ = denoising.lay_out(targets)
    assert_close(layout.padding(), padding)
    values = torch.rand(4, layout.blocks, 2)
    placed = layout.place(values, padding=1.0)
    assert_close(placed.unflatten(1, (layout.blocks, 3)).transpose(1, 2)[layout.image, layout.slot], values)
    assert (placed[padding] == 1).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mask_padding", [False, True])
@pytest.mark.parametrize("padding_in_loss", [False, True])
def test_the_attention_mask_separates_groups_and_hides_denoising_queries(kind, mask_padding, padding_in_loss):
    targets = random_targets([2, 1])
    block = build(kind, mask_padding=mask_padding, padding_in_loss=padding_in_loss)(targets)
    number, groups = block.size, block.repeats
    sees = ~Queries([block, matching(2)]).attn_mask.expand(2, -1, -1)
    assert groups > 1
    group = torch.arange(number) // (number // groups)
    assert not sees[:, number:, :number].any(), "a matching query sees a denoising query"
    assert not sees[:, :number, :number][:, group != group[:, None]].any(), "groups see each other"
    assert sees[:, :, number:].all(), "matching queries are not seen"
    inside = sees[:, :number, :number][:, group == group[:, None]]
    if not mask_padding:
        assert inside.all()
        assert block.mask.dim() == 2
        return
    padding = padding_of(targets, block.size)
    assert padding.any()
    for image in range(2):
        assert_close(sees[image, :number, :number], (group == group[:, None]) & ~padding[image])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mask_padding", [False, True])
def test_an_image_depends_on_the_rest_of_the_batch_only_if_padding_is_attended_to(kind, mask_padding):
    arguments = {"num_pairs": 1} if kind is ContrastiveDenoising else {}  # the number of groups follows the batch
    denoising = without_noise(kind, mask_padding=mask_padding, **arguments)
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(CHANNELS, 1, batch_first=True).double()
    results = []
    targets = random_targets([1, 4])
    for batch in (targets.selected(torch.tensor([0, 1]), [1, 1]), targets):
        block = denoising(batch)
        queries = Queries([block, matching(2)])
        mask = queries.attn_mask.expand(2, -1, -1)
        attended, _ = attention(queries.content, queries.content, queries.content, attn_mask=mask)
        is_first_image = block.match.image == 0
        results.append(attended[0, block.match.query[is_first_image]])
    if mask_padding:
        assert_close(*results)
    else:
        assert (results[0] - results[1]).abs().max() > 1e-3


def test_the_number_of_groups_follows_from_the_number_of_objects():
    assert build(GroupDenoising, num_groups=5)(random_targets([40])).repeats == 5
    for objects, groups in {1: 100, 3: 33, 60: 1, 100: 1, 300: 1}.items():
        block = build(ContrastiveDenoising, num_pairs=100)(random_targets([objects, 1]))
        assert block.repeats == groups
        assert block.size == 2 * groups * objects
        positives_only = build(ContrastiveDenoising, num_pairs=100, with_negatives=False)(random_targets([objects, 1]))
        assert (positives_only.repeats, positives_only.size) == (groups, groups * objects)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cap", [2, 3, 7, 12, 19, 50])
def test_max_queries_limits_objects_and_groups(kind, cap):
    targets = random_targets([5, 2, 0])
    uncapped, denoising = without_noise(kind), without_noise(kind, max_queries=cap)
    block = denoising(targets)
    per_object = denoising.copies
    assert 0 < block.size <= cap
    assert block.targets.sizes == [min(size, cap // per_object) for size in targets.sizes]
    assert block.repeats == min(uncapped(targets).repeats, max(cap // (per_object * 5), 1))
    match = block.match
    assert_close(block.reference[match.image, match.query], block.targets.boxes[match.target])
    assert all(any(torch.equal(box, target_box) for target_box in targets.boxes) for box in block.targets.boxes)
    outputs = decode(block)
    assert all(torch.isfinite(loss) for loss in criterion()(outputs, targets).values())
    assert outputs["_dn"].repeats * len(block.targets) == len(match.query)


def test_objects_dropped_by_max_queries_lose_all_their_fields():
    targets = replace(random_targets([5, 1]), extra={"masks": torch.arange(6.0)[:, None]})
    block = without_noise(GroupDenoising, max_queries=2)(targets)
    assert block.targets.sizes == [2, 1]
    for box, mask in zip(block.targets.boxes, block.targets.extra["masks"], strict=True):
        assert_close(targets.boxes[int(mask)], box)
    assert build(GroupDenoising)(targets).targets is targets


# Losses


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padding_in_loss", [False, True])
@pytest.mark.parametrize("mask_padding", [False, True])
@pytest.mark.parametrize("sizes", [[0, 0], [2, 0], [9, 1]])  # nine objects exceed the number of matching queries
def test_losses_and_gradients_are_finite_for_any_number_of_objects(kind, padding_in_loss, mask_padding, sizes):
    denoising = build(kind, padding_in_loss=padding_in_loss, mask_padding=mask_padding)
    targets = random_targets(sizes)
    block = denoising(targets)
    assert block.content.dtype == block.reference.dtype == torch.float64
    assert (block.size > 0) == any(sizes)
    with pytest.warns(UserWarning, match="objects, but there are") if sizes[0] > QUERIES else nullcontext():
        losses = criterion()(decode(block), targets)
    names = {f"loss_{part}{suffix}" for part in ("class", "bbox", "giou") for suffix in ("", "_0", "_dn", "_dn_0")}
    assert set(losses) == names
    sum(losses.values()).backward()
    assert torch.isfinite(denoising.label_embedding.weight.grad).all()
    for name, loss in losses.items():
        assert torch.isfinite(loss)
        if "_dn" in name:
            assert (loss > 0) == (sum(sizes) > 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padding_in_loss", [None, False, True])
def test_denoising_losses_follow_their_formulas(kind, padding_in_loss):
    targets = random_targets([3, 1])
    denoising = build(kind, **({} if padding_in_loss is None else {"padding_in_loss": padding_in_loss}))
    if padding_in_loss is None:  # DINO counts padding in the loss, DN-DETR does not
        padding_in_loss = kind is ContrastiveDenoising
    block = denoising(targets)
    outputs = decode(block, layers=1)
    losses = criterion()(outputs, targets)
    logits, boxes = outputs["_dn"].logits, outputs["_dn"].boxes
    groups, copies, slots = block.repeats, denoising.copies, 3
    class_targets, box_l1 = torch.zeros(2, block.size, CLASSES, dtype=torch.float64), 0.0
    counts = torch.zeros(2, block.size, 1, dtype=torch.float64)
    for group in range(groups):
        for image, size in enumerate(targets.sizes):
            for slot in range(slots):
                query, target = group * copies * slots + slot, image * 3 + slot
                for part in range(copies):
                    counts[image, query + part * slots] = slot < size or padding_in_loss
                if slot < size:
                    class_targets[image, query, targets.labels[target]] = 1
                    box_l1 += (boxes[image, query] - targets.boxes[target]).abs().sum()
    # Negatives, and padding if it counts, are background; losses are divided by the objects of all groups.
    focal = sigmoid_focal_loss(logits, class_targets, 0.25, 2.0) * counts
    assert_close(losses["loss_class_dn"], focal.sum() / (4 * groups))
    assert_close(losses["loss_bbox_dn"], box_l1 / (4 * groups))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", [FocalLoss(), CrossEntropyLoss()], ids=lambda x: type(x).__name__)
def test_padding_counts_in_the_loss_only_on_request(kind, loss):
    arguments = {"num_pairs": 1} if kind is ContrastiveDenoising else {}
    targets = random_targets([1, 4])
    compare = criterion(loss)

    def losses_of(padding_in_loss, change, targets=targets):
        outputs = decode(without_noise(kind, padding_in_loss=padding_in_loss, **arguments)(targets))
        if change:
            for name in ("_dn", "_dn_0"):
                logits = outputs[name].logits.clone()
                logits[padding_of(targets, logits.shape[1])] = torch.tensor([30.0, -30, -30, -30]).double()
                outputs[name] = replace(outputs[name], logits=logits)
        return compare(outputs, targets)

    without_padding = losses_of(False, False)
    for name, expected in losses_of(False, True).items():
        assert_close(expected, without_padding[name])
    # With padding, only the class loss differs: it treats padding as background.
    with_padding = losses_of(True, False)
    for suffix in ("_dn", "_dn_0"):
        assert_close(with_padding[f"loss_bbox{suffix}"], without_padding[f"loss_bbox{suffix}"])
        assert_close(with_padding[f"loss_giou{suffix}"], without_padding[f"loss_giou{suffix}"])
        assert with_padding[f"loss_class{suffix}"] != without_padding[f"loss_class{suffix}"]
        assert losses_of(True, True)[f"loss_class{suffix}"] > 2 * with_padding[f"loss_class{suffix}"]
    # A batch without padding has the same losses either way.
    full = random_targets([2, 2])
    losses_of_full_batch = (losses_of(flag, False, full) for flag in (False, True))
    for actual, expected in zip(*(losses.values() for losses in losses_of_full_batch), strict=True):
        assert_close(actual, expected)


def test_cross_entropy_of_no_queries_is_zero():
    targets = random_targets([0, 0])
    by_cross_entropy = criterion(CrossEntropyLoss())
    by_cross_entropy.matcher = HungarianMatcher({"class": CrossEntropyCost()})
    losses = by_cross_entropy(decode(build(GroupDenoising)(targets), num_logits=CLASSES + 1), targets)
    assert losses["loss_class_dn"] == 0
    assert losses["loss_class"] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_the_same_noise(kind):
    denoising, targets = build(kind, label_noise_prob=0.5, box_noise_scale=0.4), random_targets([3, 2])

    def draw(seed):
        torch.manual_seed(seed)
        return denoising(targets)

    assert_close(draw(1).reference, draw(1).reference, rtol=0, atol=0)
    assert_close(draw(1).content, draw(1).content, rtol=0, atol=0)
    assert not torch.equal(draw(1).reference, draw(2).reference)
    assert not torch.equal(draw(1).content, draw(2).content)
    rounds = draw(1).reference[0].unflatten(0, (-1, 3))
    assert len({tuple(boxes.flatten().tolist()) for boxes in rounds}) == len(rounds), "groups share their noise"


@pytest.mark.parametrize("kind", KINDS)
def test_targets_are_not_modified(kind):
    targets = random_targets([3, 2])
    labels, boxes = targets.labels.clone(), targets.boxes.clone()
    block = build(kind, label_noise_prob=1.0, box_noise_scale=1.0)(targets)
    assert_close(targets.labels, labels, rtol=0, atol=0)
    assert_close(targets.boxes, boxes, rtol=0, atol=0)
    assert not block.reference.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_of_half_precision_models_are_float32(kind):
    block = build(kind).to(torch.bfloat16)(random_targets([3, 1], dtype=torch.float32))
    assert block.content.dtype == torch.bfloat16
    assert block.reference.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_copies_give_the_same_queries(kind):
    denoising, targets = build(kind), random_targets([3, 2])
    for copied in (copy.deepcopy(denoising), pickle.loads(pickle.dumps(denoising))):
        torch.manual_seed(3)
        expected = denoising(targets)
        torch.manual_seed(3)
        actual = copied(targets)
        assert_close(actual.content, expected.content, rtol=0, atol=0)
        assert_close(actual.reference, expected.reference, rtol=0, atol=0)


class TransfersToMeta(TorchDispatchMode):
    """Counts transfers from the CPU to the meta device, where reading a value raises an error."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.device.type == "meta":
            self.count += any(isinstance(x, torch.Tensor) and x.device.type == "cpu" and x.dim() > 0 for x in args)
        return result


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("cap", [4, 1000])
def test_denoising_needs_one_transfer_and_no_synchronisation(kind, padding, cap):
    denoising = build(kind, mask_padding=padding, padding_in_loss=not padding, max_queries=cap).to("meta")
    targets = random_targets([3, 0, 5])
    targets = Targets(targets.labels.to("meta"), targets.boxes.to("meta"), targets.sizes)
    with TransfersToMeta() as transfers:
        block = denoising(targets)
        queries = Queries([block, QueryBlock("", *(torch.zeros(3, 6, n, device="meta") for n in (CHANNELS, 4)))])
        shape = queries.content.shape[:2]
        logits, boxes = (torch.zeros(*shape, n, dtype=torch.float64, device="meta") for n in (CLASSES, 4))
        predictions = queries.split([LayerOutput(logits, boxes, {})])["_dn"]
        comparison = Comparison.of({"_dn": predictions}, {"_dn": predictions.match}, block.targets)
        for loss in criterion().losses.values():
            comparison.sums(loss(comparison))
    assert transfers.count == 1


def test_invalid_arguments_raise_an_error():
    for kind in KINDS:
        with pytest.raises(ValueError, match="label_noise_prob=1.5"):
            build(kind, label_noise_prob=1.5)
        with pytest.raises(ValueError, match="box_noise_scale=-1.*negative"):
            build(kind, box_noise_scale=-1)
        with pytest.raises(ValueError, match="max_queries=0"):
            build(kind, max_queries=0)
    with pytest.raises(ValueError, match="num_groups=0.*below 1"):
        build(GroupDenoising, num_groups=0)
    with pytest.raises(ValueError, match="num_pairs=0.*below 1"):
        build(ContrastiveDenoising, num_pairs=0)


def test_missing_abstract_methods_are_named():
    kind = Denoising(
        label_embedding=nn.Embedding(2, 4),
        num_classes=2,
        copies=1,
        label_noise_prob=0.0,
        box_noise_scale=0.0,
        max_queries=10,
        padding_in_loss=True,
        mask_padding=False,
    )
    with pytest.raises(NotImplementedError, match="Denoising must implement wanted_groups"):
        kind(random_targets([1]))
    with pytest.raises(NotImplementedError, match="Denoising must implement noise_boxes"):
        kind.noise_boxes(TWO_BOXES, torch.zeros(1))


def test_the_size_of_a_layout_needs_no_tensor():
    objects = torch.zeros(0, dtype=torch.int64)
    assert len(Layout(objects, objects, batch=2, slots=3, groups=4, copies=2)) == 24
