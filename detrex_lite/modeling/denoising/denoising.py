"""Denoising training: DN-DETR (Li et al., CVPR 2022) and its contrastive form of DINO (Zhang et al., ICLR 2023).

The layout comes from object counts that the host knows: one transfer to the device, no synchronisation.

Legend: B batch, T objects in the batch, D denoising queries, Q matching queries, K classes, C channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...structures import inverse_sigmoid
from ..predictions import FINAL
from ..queries import QueryBlock
from ..targets import Targets
from .layout import Layout, number_objects
from .noise import replace_labels, shift_and_scale, shift_corners

SUFFIX = "_dn*"

# More than any image of COCO asks for.
MAX_QUERIES = 1000


def add_indicator(content: Tensor, *, denoising: bool) -> Tensor:
    """Append a channel that is 1 for denoising queries and 0 for matching queries.

    Args:
        content: (..., C - 1).
        denoising: which kind of queries these are.

    Returns:
        (..., C).
    """
    return F.pad(content, (0, 1), value=float(denoising))


class Denoising(nn.Module):
    """The part that both kinds of denoising share: layout, label noise and the label embedding.

    Images with fewer objects than the one with the most are padded with denoising queries of no object. The published
    implementations let them take part in self-attention. DINO has them in its loss, as background; DN-DETR's authors
    leave them out, detrex does not.

    Args:
        label_embedding: the embedding of labels.
        num_classes: K.
        copies: queries for each object in a group; the first one is to reconstruct the object.
        label_noise_prob: the probability that a label is replaced by one drawn from all classes.
        box_noise_scale: how far boxes move, as a share of what they may; 0 for not at all.
        max_queries: the most denoising queries of an image. First groups are left out, then objects, drawn at random.
        padding_in_loss: whether padded queries are in the losses that queries have, as background.
        mask_padding: exclude padded queries from self-attention. What is learned of an image then does not depend on
            how many objects the other images of its batch have, but for the number of groups.
        embed_padding: padded queries have the last row of the label embedding as their content, which is not trained,
            and boxes of no size in the image's corner, as RT-DETR's; otherwise contents of zero, and boxes in its
            middle.
        eps: boxes and what is left beside them have at least this share of the image's sides.

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
        padding_in_loss: bool,
        mask_padding: bool,
        embed_padding: bool = False,
        eps: float = 1e-3,
    ):
        super().__init__()
        if not 0 <= label_noise_prob <= 1:
            raise ValueError(f"label_noise_prob={label_noise_prob} is not a probability (0..1)")
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
        self.padding_in_loss = padding_in_loss
        self.mask_padding = mask_padding
        self.embed_padding = embed_padding
        self.eps = eps

    @property
    def embed_dim(self) -> int:
        """C, of the contents."""
        return self.label_embedding.embedding_dim

    def wanted_groups(self, slots: int) -> int:
        """Abstract. The number of groups, when the cap allows, of images with at most `slots` objects."""
        raise NotImplementedError(f"{type(self).__name__} must implement wanted_groups")

    def noise_boxes(self, boxes: Tensor, copy: Tensor) -> Tensor:
        """Abstract. Boxes with noise.

        Args:
            boxes: (T, blocks, 4) cxcywh in 0..1.
            copy: (blocks,) which copy in its group each one is, 0..copies-1.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement noise_boxes")

    def embed_labels(self, labels: Tensor) -> Tensor:
        """(..., ) classes to (..., C)."""
        return self.label_embedding(labels)

    def forward(self, targets: Targets) -> QueryBlock:
        """Make the denoising queries of a batch. They see the matching queries, which do not see them.

        Args:
            targets: the batch's objects.

        Returns:
            A block of D queries; D is 0 when no image has an object.
        """
        layout, targets = self.lay_out(targets)
        labels = targets.labels[:, None].expand(-1, layout.blocks)
        boxes = targets.boxes[:, None].expand(-1, layout.blocks, -1)
        content = self.embed_labels(replace_labels(labels, self.label_noise_prob, self.num_classes))
        copy = torch.arange(layout.blocks, device=boxes.device) % self.copies
        boxes = layout.place(self.noise_boxes(boxes, copy), padding=0.0 if self.embed_padding else 0.5)
        content = layout.place(content, padding=0.0)
        if self.embed_padding:
            content = torch.where(layout.padding()[..., None], self.label_embedding.weight[-1].detach(), content)
        padding = None if self.padding_in_loss and not self.mask_padding else layout.padding()
        mask = layout.between_groups()
        return QueryBlock(
            SUFFIX,
            content,
            # There and back keeps boxes from having no size, which they are divided by.
            inverse_sigmoid(boxes, self.eps).sigmoid(),
            sees=(FINAL,),
            mask=mask | padding[:, None] if padding is not None and self.mask_padding else mask,
            targets=targets,
            match=layout.match()._replace(sizes=[size * layout.groups for size in targets.sizes]),
            repeats=layout.groups,
            query_weight=None if padding is None or self.padding_in_loss else (~padding).to(boxes.dtype),
        )

    def lay_out(self, targets: Targets) -> tuple[Layout, Targets]:
        """Arrange the queries of the objects, and drop the objects that are beyond the cap."""
        indices, sizes = number_objects(targets.sizes, self.max_queries // self.copies)
        image, slot, index = indices.to(targets.labels.device, non_blocking=True)
        if sizes != targets.sizes:
            targets = targets.selected(index, sizes)
        slots = max(sizes, default=0)
        groups = min(self.wanted_groups(slots), self.max_queries // (self.copies * max(slots, 1)))
        return Layout(image, slot, len(sizes), slots, groups, self.copies), targets


class GroupDenoising(Denoising):
    """DN-DETR's: groups of all objects, each with noise of its own, to be reconstructed.

    The label embedding has a last row "no object", for matching queries that learn no contents of their own, and a
    channel less than queries have: the last one is that of `add_indicator`. What differs from detrex: noise never makes
    a label "no object", as in the authors' code.

    Args:
        num_classes: K.
        embed_dim: C.
        num_groups: groups of each image.
        label_noise_prob, max_queries, padding_in_loss, mask_padding: see `Denoising`.
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
        padding_in_loss: bool = False,
        mask_padding: bool = False,
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
            padding_in_loss=padding_in_loss,
            mask_padding=mask_padding,
        )
        self.num_groups = num_groups

    @property
    def embed_dim(self) -> int:
        """C, of the contents, whose last channel is the indicator."""
        return self.label_embedding.embedding_dim + 1

    def wanted_groups(self, slots: int) -> int:
        """The same number for all images."""
        return self.num_groups

    def noise_boxes(self, boxes: Tensor, copy: Tensor) -> Tensor:
        """Centres and sides change evenly within their range, see `shift_and_scale`."""
        return shift_and_scale(boxes, self.box_noise_scale)

    def embed_labels(self, labels: Tensor) -> Tensor:
        """See `Denoising.embed_labels`; marked as denoising queries."""
        return add_indicator(self.label_embedding(labels), denoising=True)

    def matching_content(self) -> Tensor:
        """(C,), the content that DN-DETR gives all matching queries: the embedded label "no object"."""
        return add_indicator(self.label_embedding.weight[-1], denoising=False)


class PositiveDenoising(Denoising):
    """Mask DINO's: positives alone, with DN-DETR's noise, in as many groups as there is room for.

    Args:
        num_classes: K.
        embed_dim: C.
        num_positives: of each image: there are as many groups as this has room for, but at least one.
        label_noise_prob, max_queries, padding_in_loss, mask_padding, eps: see `Denoising`.
        box_noise_scale: centres move by at most this share of half the sides, sides change by at most this share.

    Raises:
        ValueError: when an argument is out of its range.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        embed_dim: int = 256,
        num_positives: int = 100,
        label_noise_prob: float = 0.2,
        box_noise_scale: float = 0.4,
        max_queries: int = MAX_QUERIES,
        padding_in_loss: bool = True,
        mask_padding: bool = False,
        eps: float = 1e-5,
    ):
        if num_positives < 1:
            raise ValueError(f"num_positives={num_positives} is less than 1; denoising=None for none at all")
        super().__init__(
            label_embedding=nn.Embedding(num_classes, embed_dim),
            num_classes=num_classes,
            copies=1,
            label_noise_prob=label_noise_prob,
            box_noise_scale=box_noise_scale,
            max_queries=max_queries,
            padding_in_loss=padding_in_loss,
            mask_padding=mask_padding,
            eps=eps,
        )
        self.num_positives = num_positives

    def wanted_groups(self, slots: int) -> int:
        """As many groups as there is room for in the number of positives, at least one."""
        return max(self.num_positives // max(slots, 1), 1)

    def noise_boxes(self, boxes: Tensor, copy: Tensor) -> Tensor:
        """Centres and sides change evenly within their range, see `shift_and_scale`."""
        return shift_and_scale(boxes, self.box_noise_scale)


class ContrastiveDenoising(Denoising):
    """DINO's: for each object a positive near it, to be reconstructed, and a negative farther off, to be background.

    Args:
        num_classes: K.
        embed_dim: C.
        num_pairs: positives of each image, and as many negatives: there are as many groups as this has room for, but
            at least one. DINO's `dn_number`.
        label_noise_prob: see `Denoising`; DINO's `label_noise_ratio` is twice this.
        box_noise_scale: corner noise s as a fraction of half the box's sides: positives move by less than s, negatives
            by s to 2s.
        with_negatives: False for positives alone.
        max_queries, padding_in_loss, mask_padding, embed_padding, eps: see `Denoising`.

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
        with_negatives: bool = True,
        max_queries: int = MAX_QUERIES,
        padding_in_loss: bool = True,
        mask_padding: bool = False,
        embed_padding: bool = False,
        eps: float = 1e-3,
    ):
        if num_pairs < 1:
            raise ValueError(f"num_pairs={num_pairs} is less than 1; denoising=None for none at all")
        super().__init__(
            # The row of padding begins with zeros.
            label_embedding=nn.Embedding(
                num_classes + embed_padding, embed_dim, padding_idx=num_classes if embed_padding else None
            ),
            num_classes=num_classes,
            copies=2 if with_negatives else 1,
            label_noise_prob=label_noise_prob,
            box_noise_scale=box_noise_scale,
            max_queries=max_queries,
            padding_in_loss=padding_in_loss,
            mask_padding=mask_padding,
            embed_padding=embed_padding,
            eps=eps,
        )
        self.num_pairs = num_pairs

    def wanted_groups(self, slots: int) -> int:
        """As many groups as there is room for in the number of pairs, at least one."""
        return max(self.num_pairs // max(slots, 1), 1)

    def noise_boxes(self, boxes: Tensor, copy: Tensor) -> Tensor:
        """Corners of positives move less than those of negatives, see `shift_corners`."""
        return shift_corners(boxes, self.box_noise_scale, negative=copy[:, None] == 1)
