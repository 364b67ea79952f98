"""Denoising training: DN-DETR (Li et al., CVPR 2022) and its contrastive form of DINO (Zhang et al., ICLR 2023).

The layout comes from object counts that the host knows: one transfer to the device, no synchronisation.

Legend: B batch, T objects in the batch, D denoising queries, Q matching queries, K classes, C channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...structures import inverse_sigmoid
from ..targets import Targets
from .layout import Layout, number_objects
from .noise import replace_labels, shift_and_scale, shift_corners
from .queries import DenoisingQueries

# More than any image of COCO asks for.
MAX_QUERIES = 1000


def add_indicator(content: Tensor, *, denoising: bool) -> Tensor:
    """Tell denoising queries (1) from matching queries (0) by one more channel, the last.

    Args:
        content: (..., C - 1).
        denoising: of which kind the queries are.

    Returns:
        (..., C).
    """
    return F.pad(content, (0, 1), value=float(denoising))


class Denoising(nn.Module):
    """What both kinds share: layout, label noise and the label embedding. Subclasses say how many groups there are.

    Images with fewer objects than the one with the most have padding in place of denoising queries. In published
    implementations it takes part in self-attention, and in the loss as queries without an object, and so it does here,
    unless `ignore_padding` leaves it out of both: what is learnt of an image then does not depend on how many objects
    the others of its batch have (but for the number of groups), and losses are not the published ones.

    Args:
        label_embedding: the embedding of labels.
        num_classes: K.
        copies: queries for each object in a group; the first one is to give the object back.
        label_noise_prob: the probability that a label is replaced by one drawn from all classes.
        box_noise_scale: how far boxes move, as a share of what they may; 0 for not at all.
        max_queries: the most denoising queries of an image. First groups are left out, then objects, drawn at random.
        ignore_padding: see above.

    Raises:
        ValueError: when an argument is out of its range.
    """

    def __init__(
        self,
        *,
        label_embedding: nn.Embedding,
        num_classes: int,
        copies: int,
        label_noise_prob: float,
        box_noise_scale: float,
        max_queries: int,
        ignore_padding: bool,
    ):
        super().__init__()
        if not 0 <= label_noise_prob <= 1:
            raise ValueError(f"label_noise_prob={label_noise_prob} is no probability (0..1)")
        if box_noise_scale < 0:
            raise ValueError(f"box_noise_scale={box_noise_scale} is negative")
        if max_queries < copies:
            raise ValueError(
                f"max_queries={max_queries}: an object has {copies} queries; denoising=None for none at all"
            )
        self.label_embedding = label_embedding
        self.num_classes = num_classes
        self.copies = copies
        self.label_noise_prob = label_noise_prob
        self.box_noise_scale = box_noise_scale
        self.max_queries = max_queries
        self.ignore_padding = ignore_padding

    def wanted_groups(self, slots: int) -> int:
        """What subclasses write: the number of groups, when the cap allows, of images with at most `slots` objects."""
        raise NotImplementedError(f"{type(self).__name__} must write wanted_groups")

    def noise_boxes(self, boxes: Tensor, copy: Tensor) -> Tensor:
        """What subclasses write: boxes with noise.

        Args:
            boxes: (T, blocks, 4) cxcywh in 0..1.
            copy: (blocks,) which copy in its group each one is, 0..copies-1.
        """
        raise NotImplementedError(f"{type(self).__name__} must write noise_boxes")

    def embed_labels(self, labels: Tensor) -> Tensor:
        """(..., ) classes to (..., C)."""
        return self.label_embedding(labels)

    def forward(self, targets: Targets | None) -> DenoisingQueries | None:
        """Make the denoising queries of a batch.

        Args:
            targets: the batch's objects.

        Returns:
            None in evaluation, and without targets. D = 0 when no image has an object.
        """
        if targets is None or not self.training:
            return None
        layout, targets = self.lay_out(targets)
        labels = targets.labels[:, None].expand(-1, layout.blocks)
        boxes = targets.boxes[:, None].expand(-1, layout.blocks, -1)
        content = self.embed_labels(replace_labels(labels, self.label_noise_prob, self.num_classes))
        copy = torch.arange(layout.blocks, device=boxes.device) % self.copies
        # There and back keeps boxes from having no size, which they are divided by.
        boxes = inverse_sigmoid(self.noise_boxes(boxes, copy)).sigmoid()
        return DenoisingQueries(
            layout.place(content, padding=0.0),
            layout.place(boxes, padding=0.5),
            layout.group_of_queries(),
            layout.padding() if self.ignore_padding else None,
            targets,
            layout,
        )

    def lay_out(self, targets: Targets) -> tuple[Layout, Targets]:
        """Arrange the queries of the objects, and drop the objects that are beyond the cap."""
        indices, sizes = number_objects(targets.sizes, self.max_queries // self.copies)
        image, slot, index = indices.to(targets.labels.device, non_blocking=True)
        if sizes != targets.sizes:
            targets = Targets(targets.labels[index], targets.boxes[index], sizes)
        slots = max(sizes, default=0)
        groups = min(self.wanted_groups(slots), self.max_queries // (self.copies * max(slots, 1)))
        return Layout(image, slot, len(sizes), slots, groups, self.copies), targets


class GroupDenoising(Denoising):
    """DN-DETR's: groups of all objects, each with noise of its own, to be given back.

    The label embedding has a last row "no object", for matching queries that learn no contents of their own, and a
    channel less than queries have: the last one is that of `add_indicator`. What differs from detrex: noise never makes
    a label "no object".

    Args:
        num_classes: K.
        embed_dim: C.
        num_groups: groups of each image.
        label_noise_prob, max_queries, ignore_padding: see `Denoising`.
        box_noise_scale: centres move by at most this share of half the sides, sides change by at most this share.

    Raises:
        ValueError: when an argument is out of its range.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        embed_dim: int = 256,
        num_groups: int = 5,
        label_noise_prob: float = 0.2,
        box_noise_scale: float = 0.4,
        max_queries: int = MAX_QUERIES,
        ignore_padding: bool = False,
    ):
        if num_groups < 1:
            raise ValueError(f"num_groups={num_groups} is less than 1; denoising=None for none at all")
        super().__init__(
            label_embedding=nn.Embedding(num_classes + 1, embed_dim - 1),
            num_classes=num_classes,
            copies=1,
            label_noise_prob=label_noise_prob,
            box_noise_scale=box_noise_scale,
            max_queries=max_queries,
            ignore_padding=ignore_padding,
        )
        self.num_groups = num_groups

    def wanted_groups(self, slots: int) -> int:
        """Always the same number."""
        return self.num_groups

    def noise_boxes(self, boxes: Tensor, copy: Tensor) -> Tensor:
        """Moved and scaled."""
        return shift_and_scale(boxes, self.box_noise_scale)

    def embed_labels(self, labels: Tensor) -> Tensor:
        """See `Denoising.embed_labels`; marked as denoising queries."""
        return add_indicator(self.label_embedding(labels), denoising=True)

    def matching_content(self, num_queries: int) -> Tensor:
        """(Q, C), the content that DN-DETR gives all matching queries: the embedded label "no object"."""
        return add_indicator(self.label_embedding.weight[-1], denoising=False).expand(num_queries, -1)


class ContrastiveDenoising(Denoising):
    """DINO's: each object has a positive near it, to be given back, and a negative a little farther off, to be refused.

    Args:
        num_classes: K.
        embed_dim: C.
        num_pairs: positives of each image, and as many negatives: there are as many groups as this has room for, but
            at least one. DINO's `dn_number`.
        label_noise_prob: see `Denoising`; DINO's `label_noise_ratio` is twice this.
        box_noise_scale: corners of positives move by less than this many half sides, of negatives by that to twice
            that.
        max_queries, ignore_padding: see `Denoising`.

    Raises:
        ValueError: when an argument is out of its range.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        embed_dim: int = 256,
        num_pairs: int = 100,
        label_noise_prob: float = 0.25,
        box_noise_scale: float = 1.0,
        max_queries: int = MAX_QUERIES,
        ignore_padding: bool = False,
    ):
        if num_pairs < 1:
            raise ValueError(f"num_pairs={num_pairs} is less than 1; denoising=None for none at all")
        super().__init__(
            label_embedding=nn.Embedding(num_classes, embed_dim),
            num_classes=num_classes,
            copies=2,
            label_noise_prob=label_noise_prob,
            box_noise_scale=box_noise_scale,
            max_queries=max_queries,
            ignore_padding=ignore_padding,
        )
        self.num_pairs = num_pairs

    def wanted_groups(self, slots: int) -> int:
        """As many as have room for the pairs."""
        return max(self.num_pairs // max(slots, 1), 1)

    def noise_boxes(self, boxes: Tensor, copy: Tensor) -> Tensor:
        """Positives a little, negatives more."""
        return shift_corners(boxes, self.box_noise_scale, negative=copy[:, None] == 1)
