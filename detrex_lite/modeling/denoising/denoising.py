"""Denoising training: DN-DETR (Li et al., CVPR 2022) and its contrastive form of DINO (Zhang et al., ICLR 2023).

The layout is computed from object counts on the host, with one transfer to the device and no synchronisation.

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

# Larger than any image of COCO needs.
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
    """Base class of denoising: layout, label noise and label embedding.

    Images with fewer objects than the image with the most are padded with denoising queries that have no object. In the
    published implementations these take part in self-attention. DINO and detrex's DN-DETR include them in the loss as
    background; DN-DETR's authors exclude them.

    Args:
        label_embedding: the embedding of labels.
        num_classes: K.
        copies: number of queries per object in a group; the first one is trained to reconstruct the object.
        label_noise_prob: the probability that a label is replaced by one drawn from all classes.
        box_noise_scale: the magnitude of box noise, relative to the limit; 0 for no noise.
        max_queries: the largest number of denoising queries of an image. Groups are dropped first, then randomly drawn
            objects.
        padding_in_loss: whether padded queries count as background in the class losses.
        mask_padding: exclude padded queries from self-attention. The training signal of an image then does not depend
            on the number of objects in the other images of the batch, except for the number of groups.
        embed_padding: give padded queries the last row of the label embedding as content, which is not trained, and
            boxes of zero size in the image's corner, as RT-DETR; otherwise zero contents, and boxes at the image's
            centre.
        eps: smallest size of boxes, and smallest margin around them, as a fraction of the image's sides.

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
            raise ValueError(f"label_noise_prob={label_noise_prob} must be a probability in 0..1")
        if box_noise_scale < 0:
            raise ValueError(f"box_noise_scale={box_noise_scale} is negative")
        if max_queries < copies:
            raise ValueError(
                f"max_queries={max_queries}: it must be at least {copies}, the queries per object; denoising=None "
                "disables denoising"
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
        """C, the channels of the contents."""
        return self.label_embedding.embedding_dim

    def wanted_groups(self, slots: int) -> int:
        """Abstract. Return the number of groups, before the limit, for images with at most `slots` objects."""
        raise NotImplementedError(f"{type(self).__name__} must implement wanted_groups")

    def noise_boxes(self, boxes: Tensor, copy: Tensor) -> Tensor:
        """Abstract. Add noise to boxes.

        Args:
            boxes: (T, blocks, 4) cxcywh in 0..1.
            copy: (blocks,) index of each block's copy in its group, 0..copies-1.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement noise_boxes")

    def embed_labels(self, labels: Tensor) -> Tensor:
        """Embed classes, (...), to (..., C)."""
        return self.label_embedding(labels)

    def forward(self, targets: Targets) -> QueryBlock:
        """Make the denoising queries of a batch. They attend to the matching queries, but not vice versa.

        Args:
            targets: the objects of the batch.

        Returns:
            A block of D queries; D is 0 when there are no objects.
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
            # The round trip keeps the sides of boxes above zero, since boxes are divided by them.
            inverse_sigmoid(boxes, self.eps).sigmoid(),
            sees=(FINAL,),
            mask=mask | padding[:, None] if padding is not None and self.mask_padding else mask,
            targets=targets,
            match=layout.match()._replace(sizes=[size * layout.groups for size in targets.sizes]),
            repeats=layout.groups,
            query_weight=None if padding is None or self.padding_in_loss else (~padding).to(boxes.dtype),
        )

    def lay_out(self, targets: Targets) -> tuple[Layout, Targets]:
        """Lay out the queries of the objects, and drop the objects beyond the limit."""
        indices, sizes = number_objects(targets.sizes, self.max_queries // self.copies)
        image, slot, index = indices.to(targets.labels.device, non_blocking=True)
        if sizes != targets.sizes:
            targets = targets.selected(index, sizes)
        slots = max(sizes, default=0)
        groups = min(self.wanted_groups(slots), self.max_queries // (self.copies * max(slots, 1)))
        return Layout(image, slot, len(sizes), slots, groups, self.copies), targets


class GroupDenoising(Denoising):
    """DN-DETR's denoising: a fixed number of groups of all objects, each with different noise, to be reconstructed.

    The label embedding has "no object" as its last row, which is the content of matching queries without learned
    contents. It has one channel less than queries; the last channel is that of `add_indicator`. Unlike in detrex, noise
    never replaces a label by "no object", as in the authors' code.

    Args:
        num_classes: K.
        embed_dim: C.
        num_groups: number of groups of each image.
        label_noise_prob, max_queries, padding_in_loss, mask_padding: see `Denoising`.
        box_noise_scale: centres move by at most this fraction of half the sides, and sides change by at most this
            fraction.

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
            raise ValueError(f"num_groups={num_groups} is below 1; denoising=None disables denoising")
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
        """C, the channels of the contents, the last of which is the indicator."""
        return self.label_embedding.embedding_dim + 1

    def wanted_groups(self, slots: int) -> int:
        """Return the fixed number of groups."""
        return self.num_groups

    def noise_boxes(self, boxes: Tensor, copy: Tensor) -> Tensor:
        """Change centres and sides uniformly within their range; see `shift_and_scale`."""
        return shift_and_scale(boxes, self.box_noise_scale)

    def embed_labels(self, labels: Tensor) -> Tensor:
        """See `Denoising.embed_labels`; adds the indicator of denoising queries."""
        return add_indicator(self.label_embedding(labels), denoising=True)

    def matching_content(self) -> Tensor:
        """Return the content of all matching queries in DN-DETR, (C,): the embedded label "no object"."""
        return add_indicator(self.label_embedding.weight[-1], denoising=False)


class PositiveDenoising(Denoising):
    """Mask DINO's denoising: only positives, with DN-DETR's noise, in as many groups as fit.

    Args:
        num_classes: K.
        embed_dim: C.
        num_positives: limit of each image's positives: as many groups as fit into it are used, at least one.
        label_noise_prob, max_queries, padding_in_loss, mask_padding, eps: see `Denoising`.
        box_noise_scale: centres move by at most this fraction of half the sides, and sides change by at most this
            fraction.

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
            raise ValueError(f"num_positives={num_positives} is below 1; denoising=None disables denoising")
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
        """Return the number of groups that fit into the number of positives, at least one."""
        return max(self.num_positives // max(slots, 1), 1)

    def noise_boxes(self, boxes: Tensor, copy: Tensor) -> Tensor:
        """Change centres and sides uniformly within their range; see `shift_and_scale`."""
        return shift_and_scale(boxes, self.box_noise_scale)


class ContrastiveDenoising(Denoising):
    """DINO's denoising: per object a nearby positive, to be reconstructed, and a farther negative, to be background.

    Args:
        num_classes: K.
        embed_dim: C.
        num_pairs: limit of each image's positives, and of its negatives: as many groups as fit into it are used, at
            least one. DINO's `dn_number`.
        label_noise_prob: see `Denoising`; DINO's `label_noise_ratio` is twice this.
        box_noise_scale: corner noise s as a fraction of half the box's sides: positives move by less than s, negatives
            by s to 2s.
        with_negatives: whether there are negatives; False for positives alone.
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
            raise ValueError(f"num_pairs={num_pairs} is below 1; denoising=None disables denoising")
        super().__init__(
            # The row of padding is initialised with zeros.
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
        """Return the number of groups that fit into the number of pairs, at least one."""
        return max(self.num_pairs // max(slots, 1), 1)

    def noise_boxes(self, boxes: Tensor, copy: Tensor) -> Tensor:
        """Move the corners of positives less than those of negatives; see `shift_corners`."""
        return shift_corners(boxes, self.box_noise_scale, negative=copy[:, None] == 1)
