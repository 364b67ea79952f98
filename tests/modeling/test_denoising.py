from contextlib import nullcontext

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
    SetCriterion,
    Targets,
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


def decoded(queries, layers=2, num_logits=CLASSES, seed=0):
    """Outputs of a decoder that had these queries before `QUERIES` others; gradients reach what it had."""
    generator = torch.Generator().manual_seed(seed)
    shape = (layers, len(queries.content), len(queries.layout) + QUERIES)
    logits = torch.randn(*shape, num_logits, generator=generator, dtype=torch.float64)
    boxes = torch.randn(*shape, 4, generator=generator, dtype=torch.float64)
    seen = nn.functional.pad(queries.content, (0, 0, 0, QUERIES)).sum(-1, keepdim=True)
    return logits + seen, (boxes + seen).sigmoid()


def criterion(loss_class=None):
    return SetCriterion(
        matcher=HungarianMatcher({"bbox": BoxL1Cost()}),
        losses={"loss_class": loss_class or FocalLoss(), "loss_bbox": BoxL1Loss(), "loss_giou": GIoULoss()},
        weights={"loss_class": 1.0, "loss_bbox": 1.0, "loss_giou": 1.0},
    )


# Label noise


def test_labels_are_replaced_as_often_as_asked_for_and_evenly():
    torch.manual_seed(0)
    labels = torch.full((200_000,), 2)
    noised = replace_labels(labels, 0.4, 5)
    # One in five of those that are drawn is the label itself.
    assert (noised != labels).double().mean() == pytest.approx(0.4 * 4 / 5, abs=0.005)
    shares = torch.bincount(noised, minlength=5) / len(labels)
    assert_close(shares, torch.tensor([0.08, 0.08, 0.68, 0.08, 0.08]), atol=0.004, rtol=0)
    assert (labels == 2).all()


def test_label_noise_of_no_and_of_full_probability():
    labels = torch.randint(7, (1000,))
    assert_close(replace_labels(labels, 0.0, 7), labels)
    assert (replace_labels(labels, 1.0, 7) != labels).double().mean() > 0.8
    assert (replace_labels(torch.zeros(5, dtype=torch.int64), 1.0, 1) == 0).all()


# Box noise

TWO_BOXES = torch.tensor([[0.5, 0.4, 0.2, 0.1], [0.3, 0.6, 0.1, 0.3]], dtype=torch.float64)


def test_shift_and_scale_stays_within_its_range_and_fills_it_evenly():
    torch.manual_seed(0)
    boxes = TWO_BOXES.expand(50_000, 2, 4)
    change = (shift_and_scale(boxes, 0.4) - boxes) / boxes[..., 2:].repeat(1, 1, 2)
    limits = torch.tensor([0.2, 0.2, 0.4, 0.4], dtype=torch.float64)
    share = change / limits  # even in -1..1
    assert share.abs().max() <= 1 + 1e-9
    assert_close(share.mean(0), torch.zeros(2, 4, dtype=torch.float64), atol=0.02, rtol=0)
    assert_close(share.var(0), torch.full((2, 4), 1 / 3, dtype=torch.float64), atol=0.01, rtol=0)
    correlation = torch.corrcoef(share.flatten(1).T) - torch.eye(8)
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
    for distance in (positive.abs(), negative.abs() - 1):  # even in 0..1
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
    # The corners of a negative may change places, so that no size is left; what a decoder gets has one.
    assert (noised[..., 2:] == 0).any()
    targets = Targets(torch.zeros(50, dtype=torch.int64), boxes[:25].reshape(50, 4).double(), [50])
    queries = build(ContrastiveDenoising, box_noise_scale=1.0)(targets)
    assert queries.boxes.min() >= 0.0009
    assert queries.boxes.max() <= 0.9991


def test_no_box_noise():
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


def test_objects_beyond_the_limit_are_left_out_at_random():
    seen = set()
    for seed in range(20):
        torch.manual_seed(seed)
        indices, sizes = number_objects([1, 5], limit=2)
        assert sizes == [1, 2]
        assert indices[:2].tolist() == [[0, 1, 1], [0, 0, 1]]
        assert indices[2, 0] == 0
        seen |= set(indices[2, 1:].tolist())
        assert len(set(indices[2].tolist())) == 3
    assert seen == {1, 2, 3, 4, 5}


def test_two_boxes_by_hand():
    labels, boxes = torch.tensor([3, 1]), TWO_BOXES
    denoising = without_noise(ContrastiveDenoising, num_pairs=4)
    rows = denoising.label_embedding.weight
    queries = denoising(Targets(labels, boxes, [2]))
    assert queries.content.shape == (1, 8, CHANNELS)  # two groups of two positives and two negatives
    assert_close(queries.content[0], rows[[3, 1, 3, 1, 3, 1, 3, 1]])
    assert_close(queries.boxes[0], boxes.repeat(4, 1))
    match = queries.layout.match()
    assert match.image.tolist() == [0, 0, 0, 0]
    assert match.query.tolist() == [0, 1, 4, 5]
    assert match.target.tolist() == [0, 1, 0, 1]
    own = torch.ones(4, 4, dtype=torch.bool)
    sees = torch.block_diag(own, own, torch.ones(1, 1, dtype=torch.bool))
    sees[:8, 8] = True  # denoising queries see matching queries
    assert_close(~queries.attn_mask(1), sees)

    denoising = without_noise(GroupDenoising, num_groups=2)
    rows = denoising.label_embedding.weight
    queries = denoising(Targets(labels, boxes, [1, 1]))
    assert queries.content.shape == (2, 2, CHANNELS)
    for image, label in enumerate(labels):
        assert_close(queries.content[image, :, :-1], rows[label].expand(2, -1))
        assert_close(queries.boxes[image], boxes[image].expand(2, -1))
    assert (queries.content[..., -1] == 1).all()
    match = queries.layout.match()
    assert list(zip(*(x.tolist() for x in match), strict=True)) == [(0, 0, 0), (1, 0, 1), (0, 1, 0), (1, 1, 1)]
    assert_close(queries.attn_mask(1), torch.tensor([[False, True, False], [True, False, False], [True, True, False]]))
    content = denoising.matching_content(5)
    assert_close(content, torch.cat([rows[CLASSES], rows.new_zeros(1)]).expand(5, -1))


@pytest.mark.parametrize("kind", KINDS)
def test_matched_queries_are_those_of_their_objects_and_padding_is_neutral(kind):
    targets = random_targets([3, 0, 1])
    denoising = without_noise(kind)
    queries = denoising(targets)
    match = queries.layout.match()
    assert len(match.image) == queries.layout.groups * 4
    assert_close(queries.boxes[match.image, match.query], targets.boxes[match.target])
    content = denoising.embed_labels(targets.labels)
    assert_close(queries.content[match.image, match.query], content[match.target])
    padding = queries.content.abs().sum(-1) == 0
    assert padding.sum(1).tolist() == [0, len(queries.layout), len(queries.layout) * 2 // 3]
    assert (queries.boxes[padding] == 0.5).all()
    values = torch.rand(4, queries.layout.blocks, 2)
    assert_close(queries.layout.take(queries.layout.place(values, padding=1.0)), values)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ignore_padding", [False, True])
def test_who_sees_whom(kind, ignore_padding):
    queries = build(kind, ignore_padding=ignore_padding)(random_targets([2, 1]))
    number, groups = len(queries.layout), queries.layout.groups
    sees = ~queries.attn_mask(QUERIES).expand(2, -1, -1)
    assert groups > 1
    group = torch.arange(number) // (number // groups)
    assert not sees[:, number:, :number].any(), "a matching query sees a denoising query"
    assert not sees[:, :number, :number][:, group != group[:, None]].any(), "groups see each other"
    assert sees[:, :, number:].all(), "matching queries are not seen"
    inside = sees[:, :number, :number][:, group == group[:, None]]
    if not ignore_padding:
        assert inside.all()
        return
    padding = queries.content.abs().sum(-1) == 0
    assert padding.any()
    for image in range(2):
        assert not sees[image][:, :number][:, padding[image]].any()
        assert_close(sees[image, :number, :number], (group == group[:, None]) & ~padding[image])


def test_the_number_of_groups():
    assert build(GroupDenoising, num_groups=5)(random_targets([40])).layout.groups == 5
    for objects, groups in {1: 100, 3: 33, 60: 1, 100: 1, 300: 1}.items():
        queries = build(ContrastiveDenoising, num_pairs=100)(random_targets([objects, 1]))
        assert queries.layout.groups == groups
        assert queries.content.shape[1] == len(queries.layout) == 2 * groups * objects


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cap", [2, 3, 7, 12, 19, 50])
def test_the_cap(kind, cap):
    targets = random_targets([5, 2, 0])
    free, denoising = without_noise(kind), without_noise(kind, max_queries=cap)
    queries = denoising(targets)
    per_object = denoising.copies
    assert 0 < queries.content.shape[1] <= cap
    assert queries.targets.sizes == [min(size, cap // per_object) for size in targets.sizes]
    assert queries.layout.groups == min(free(targets).layout.groups, max(cap // (per_object * 5), 1))
    match = queries.layout.match()
    assert_close(queries.boxes[match.image, match.query], queries.targets.boxes[match.target])
    assert all(any(torch.equal(box, other) for other in targets.boxes) for box in queries.targets.boxes)
    outputs = queries.name_layers(*decoded(queries))
    assert all(torch.isfinite(loss) for loss in criterion()(outputs, targets).values())
    assert outputs["_dn"].repeats * len(queries.targets) == len(match.query)


# What becomes of them


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ignore_padding", [False, True])
@pytest.mark.parametrize("sizes", [[0, 0], [2, 0], [9, 1]])  # nine are more than there are matching queries
def test_losses_and_gradients_whatever_the_number_of_objects(kind, ignore_padding, sizes):
    denoising = build(kind, ignore_padding=ignore_padding)
    targets = random_targets(sizes)
    queries = denoising(targets)
    assert queries.content.dtype == queries.boxes.dtype == torch.float64
    with pytest.warns(UserWarning, match="raise model.num_queries") if sizes[0] > QUERIES else nullcontext():
        losses = criterion()(queries.name_layers(*decoded(queries)), targets)
    names = {f"loss_{part}{suffix}" for part in ("class", "bbox", "giou") for suffix in ("", "_0", "_dn", "_dn_0")}
    assert set(losses) == names
    sum(losses.values()).backward()
    assert torch.isfinite(denoising.label_embedding.weight.grad).all()
    for name, loss in losses.items():
        assert torch.isfinite(loss)
        if "_dn" in name:
            assert (loss > 0) == (sum(sizes) > 0)


@pytest.mark.parametrize("kind", KINDS)
def test_denoising_losses_by_their_formulas(kind):
    targets = random_targets([3, 1])
    queries = build(kind)(targets)
    logits, boxes = decoded(queries, layers=1)
    losses = criterion()(queries.name_layers(logits, boxes), targets)
    groups, copies, slots = queries.layout.groups, queries.layout.copies, 3
    wanted, box_l1 = torch.zeros(2, len(queries.layout), CLASSES, dtype=torch.float64), 0.0
    for group in range(groups):
        for image, size in enumerate(targets.sizes):
            for slot in range(size):
                query, target = group * copies * slots + slot, image * 3 + slot
                wanted[image, query, targets.labels[target]] = 1
                box_l1 += (boxes[0, image, query] - targets.boxes[target]).abs().sum()
    # Negatives and padding are queries without an object; all is per object and group.
    focal = sigmoid_focal_loss(logits[0, :, : len(queries.layout)], wanted, 0.25, 2.0)
    assert_close(losses["loss_class_dn"], focal.sum() / (4 * groups))
    assert_close(losses["loss_bbox_dn"], box_l1 / (4 * groups))


@pytest.mark.parametrize("kind", KINDS)
def test_padding_has_no_part_in_the_loss_when_it_is_ignored(kind):
    arguments = {"num_pairs": 1} if kind is ContrastiveDenoising else {}  # the number of groups follows the batch
    targets = random_targets([1, 4])
    denoising = without_noise(kind, ignore_padding=True, **arguments)
    queries = denoising(targets)
    logits, boxes = decoded(queries)
    real = queries.content.abs().sum(-1) != 0
    noisy = logits.clone()
    noisy[:, :, : len(queries.layout)][:, ~real] = 1e4  # what padding gets has no part in the loss
    want = criterion()(queries.name_layers(logits, boxes), targets)
    got = criterion()(queries.name_layers(noisy, boxes), targets)
    for name in want:
        assert_close(got[name], want[name])
    assert_close(queries.name_layers(logits, boxes)["_dn"].logits.shape[1], int(real.sum()))
    # Against the default: the same but for the class loss, which counts padding as queries without an object.
    default = without_noise(kind, **arguments)(targets)
    other = criterion()(default.name_layers(logits, boxes), targets)
    for suffix in ("_dn", "_dn_0"):
        assert_close(other[f"loss_bbox{suffix}"], want[f"loss_bbox{suffix}"])
        assert_close(other[f"loss_giou{suffix}"], want[f"loss_giou{suffix}"])
        assert other[f"loss_class{suffix}"] > want[f"loss_class{suffix}"]
    # Without padding, both are the same.
    full = random_targets([2, 2])
    one, two = (without_noise(kind, ignore_padding=flag)(full) for flag in (False, True))
    for got, want in zip(*(criterion()(x.name_layers(*decoded(x)), full).values() for x in (one, two)), strict=True):
        assert_close(got, want)


def test_cross_entropy_of_no_queries_is_zero():
    queries = build(GroupDenoising)(random_targets([0, 0]))
    by_cross_entropy = criterion(CrossEntropyLoss())
    by_cross_entropy.matcher = HungarianMatcher({"class": CrossEntropyCost()})
    losses = by_cross_entropy(queries.name_layers(*decoded(queries, num_logits=CLASSES + 1)), random_targets([0, 0]))
    assert losses["loss_class_dn"] == 0
    assert losses["loss_class"] > 0


def test_aux_loss_can_be_off():
    queries = build(GroupDenoising)(random_targets([1]))
    assert list(queries.name_layers(*decoded(queries), aux_loss=False)) == ["", "_dn"]


@pytest.mark.parametrize("kind", KINDS)
def test_off_in_evaluation_and_without_targets(kind):
    denoising = build(kind)
    assert denoising(None) is None
    assert denoising.eval()(random_targets([1])) is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_the_same_noise(kind):
    denoising, targets = build(kind, label_noise_prob=0.5, box_noise_scale=0.4), random_targets([3, 2])

    def draw(seed):
        torch.manual_seed(seed)
        return denoising(targets)

    assert_close(draw(1).boxes, draw(1).boxes, rtol=0, atol=0)
    assert_close(draw(1).content, draw(1).content, rtol=0, atol=0)
    assert not torch.equal(draw(1).boxes, draw(2).boxes)
    assert not torch.equal(draw(1).content, draw(2).content)
    blocks = draw(1).boxes[0].unflatten(0, (-1, 3))
    assert len({tuple(block.flatten().tolist()) for block in blocks}) == len(blocks), "groups share their noise"


@pytest.mark.parametrize("kind", KINDS)
def test_targets_are_left_alone(kind):
    targets = random_targets([3, 2])
    labels, boxes = targets.labels.clone(), targets.boxes.clone()
    build(kind, label_noise_prob=1.0, box_noise_scale=1.0)(targets)
    assert_close(targets.labels, labels, rtol=0, atol=0)
    assert_close(targets.boxes, boxes, rtol=0, atol=0)


class TransfersToMeta(TorchDispatchMode):
    """Counts what is brought from the CPU to the meta device, which holds no values: reading any is an error."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.device.type == "meta":
            self.count += any(isinstance(x, torch.Tensor) and x.device.type == "cpu" and x.dim() > 0 for x in args)
        return result


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ignore_padding", [False, True])
@pytest.mark.parametrize("cap", [4, 1000])
def test_one_transfer_and_no_synchronisation(kind, ignore_padding, cap):
    denoising = build(kind, ignore_padding=ignore_padding, max_queries=cap).to("meta")
    targets = random_targets([3, 0, 5])
    targets = Targets(targets.labels.to("meta"), targets.boxes.to("meta"), targets.sizes)
    with TransfersToMeta() as transfers:
        queries = denoising(targets)
        length = len(queries.layout) + QUERIES
        logits, boxes = (torch.zeros(2, 3, length, n, dtype=torch.float64, device="meta") for n in (CLASSES, 4))
        predictions = queries.name_layers(logits, boxes)["_dn"]
        numbers = torch.full((1,), 8.0, device="meta")
        comparison = Comparison.of([predictions], [predictions.match], queries.targets, numbers)
        for loss in criterion().losses.values():
            loss(comparison)
    assert transfers.count == 1


def test_faulty_arguments():
    for kind in KINDS:
        with pytest.raises(ValueError, match="label_noise_prob=1.5 is no probability"):
            build(kind, label_noise_prob=1.5)
        with pytest.raises(ValueError, match="box_noise_scale=-1 is negative"):
            build(kind, box_noise_scale=-1)
        with pytest.raises(ValueError, match="max_queries=0: an object has"):
            build(kind, max_queries=0)
    with pytest.raises(ValueError, match="num_groups=0 is less than 1"):
        build(GroupDenoising, num_groups=0)
    with pytest.raises(ValueError, match="num_pairs=0 is less than 1"):
        build(ContrastiveDenoising, num_pairs=0)


def test_a_kind_of_its_own_says_what_is_missing():
    kind = Denoising(
        label_embedding=nn.Embedding(2, 4),
        num_classes=2,
        copies=1,
        label_noise_prob=0.0,
        box_noise_scale=0.0,
        max_queries=10,
        ignore_padding=False,
    )
    with pytest.raises(NotImplementedError, match="Denoising must write wanted_groups"):
        kind(random_targets([1]))
    with pytest.raises(NotImplementedError, match="Denoising must write noise_boxes"):
        kind.noise_boxes(TWO_BOXES, torch.zeros(1))


def test_layout_needs_no_tensor_to_know_its_size():
    objects = torch.zeros(0, dtype=torch.int64)
    assert len(Layout(objects, objects, batch=2, slots=3, groups=4, copies=2)) == 24
