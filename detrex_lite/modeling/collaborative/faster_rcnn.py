"""Faster R-CNN as an auxiliary head that trains an encoder (Ren et al., NeurIPS 2015; Co-DETR, Zong et al., ICCV 2023).

Legend: B batch, L levels, N anchors of all levels, K classes, C channels, R regions of all images.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import roi_align

from ...ops.nms import nms_mask
from ...structures import generalized_box_iou, pairwise_iou
from ..targets import Targets
from .assignment import assign_by_overlap, sample
from .pyramid import Anchors, Candidates, HeadResult, Pyramid, decode_boxes, encode_boxes, first_objects, per_anchor

PROPOSAL_STDS = (1.0, 1.0, 1.0, 1.0)
REGION_STDS = (0.1, 0.1, 0.2, 0.2)
# Regions with sides of at least this many strides of the finest level are pooled from a coarser level.
FINEST_SCALE = 14.0


class FasterRCNNHead(nn.Module):
    """A region proposal network, and a second stage that classifies a sample of the regions and refines their boxes.

    Args:
        embed_dim: C.
        num_classes: K.
        hidden_dim: channels of the two linear layers of the second stage.
        anchor_scale: side of the smallest anchors in strides; there are two larger ones in each octave.
        ratios: height over width of anchors.
        num_before_nms: number of proposals of each level before non-maximum suppression.
        num_proposals: number of proposals of each image after it.
        nms_threshold: the largest IoU of two proposals of a level.
        rpn_samples: number of sampled anchors of an image in the losses of the first stage, at most half of them
            positive.
        roi_samples: number of sampled regions of an image in the losses of the second stage, at most a quarter of them
            positive.
        roi_size: side of pooled regions in cells.
        giou_weight: weight of the box loss of the second stage; all other losses have weight 1.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        num_classes: int,
        hidden_dim: int = 1024,
        anchor_scale: float = 4.0,
        ratios: Sequence[float] = (0.5, 1.0, 2.0),
        num_before_nms: int = 4000,
        num_proposals: int = 1000,
        nms_threshold: float = 0.7,
        rpn_samples: int = 256,
        roi_samples: int = 512,
        roi_size: int = 7,
        giou_weight: float = 10.0,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.scales = [anchor_scale * 2 ** (part / 3) for part in range(3)]
        self.ratios = list(ratios)
        self.num_before_nms = num_before_nms
        self.num_proposals = num_proposals
        self.nms_threshold = nms_threshold
        self.rpn_samples = rpn_samples
        self.roi_samples = roi_samples
        self.roi_size = roi_size
        self.giou_weight = giou_weight
        self.rpn = RPNHead(embed_dim, len(self.scales) * len(self.ratios))
        self.box_head = TwoMLPHead(embed_dim * roi_size**2, hidden_dim)
        self.class_embed = nn.Linear(hidden_dim, num_classes + 1)
        self.bbox_embed = nn.Linear(hidden_dim, num_classes * 4)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as mmdetection: Xavier-uniform hidden layers, and normally distributed predictions near 0."""
        for layer in (self.box_head.fc6, self.box_head.fc7):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer, std in ((self.class_embed, 0.01), (self.bbox_embed, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, pyramid: Pyramid, targets: Targets) -> HeadResult:
        """Compute the losses "rpn_class", "rpn_bbox", "class" and "giou", with the sampled regions as candidates.

        Args:
            pyramid: maps (B, C, h, w); the second stage does not read the coarsest one.
            targets: the objects of the batch.
        """
        logits, offsets = self.rpn(list(pyramid.maps))
        logits, offsets = per_anchor(logits, 1)[..., 0], per_anchor(offsets, 4)
        anchors, objects = pyramid.anchors(self.scales, self.ratios), pyramid.objects(targets)
        losses = self.proposal_losses(logits, offsets, anchors, pyramid.image_sizes, objects)
        with torch.no_grad():
            sampled = [
                self.sample_regions(self.propose(scores, changes, anchors, size), boxes)
                for scores, changes, size, boxes in zip(logits, offsets, pyramid.image_sizes, objects, strict=True)
            ]
        regions, assigned = (torch.cat(part) for part in zip(*sampled, strict=True))
        sizes = [len(boxes) for boxes, _ in sampled]
        image = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)).to(regions.device, non_blocking=True)
        pooled = self.pool(pyramid, regions, image)
        positive = (assigned >= 0).nonzero()[:, 0]
        target = assigned[positive] + first_objects(targets, assigned.device)[image[positive]]
        losses |= self.region_losses(pooled, regions, positive, targets.labels[target], torch.cat(objects)[target])
        features = pooled.mean(dim=(2, 3)).split(sizes)
        candidates = [
            Candidates(*regions_and_assigned, region_features)
            for regions_and_assigned, region_features in zip(sampled, features, strict=True)
        ]
        return HeadResult(losses, candidates)

    def proposal_losses(
        self,
        logits: Tensor,
        offsets: Tensor,
        anchors: Anchors,
        image_sizes: Sequence[tuple[int, int]],
        objects: Sequence[Tensor],
    ) -> dict[str, Tensor]:
        """Compute the objectness cross-entropy and the L1 loss of offsets, divided by the number of sampled anchors.

        Args:
            logits: (B, N).
            offsets: (B, N, 4).
            anchors: the N anchors.
            image_sizes: (height, width) in pixels.
            objects: (T, 4) xyxy of each image.
        """
        of_classes, of_boxes, number = logits.new_zeros(()), logits.new_zeros(()), 0
        for scores, changes, size, boxes in zip(logits, offsets, image_sizes, objects, strict=True):
            (inside,) = anchors.inside(size).nonzero(as_tuple=True)
            inside_boxes = anchors.boxes[inside]
            assigned = assign_by_overlap(pairwise_iou(boxes, inside_boxes), positive=0.7, negative=0.3, best_from=0.3)
            positive, negative = sample(assigned, self.rpn_samples, 0.5)
            chosen = inside[torch.cat([positive, negative])]
            is_object = torch.arange(len(chosen), device=chosen.device) < len(positive)
            of_classes = of_classes + F.binary_cross_entropy_with_logits(
                scores[chosen], is_object.to(scores.dtype), reduction="sum"
            )
            target_offsets = encode_boxes(boxes[assigned[positive]], inside_boxes[positive], PROPOSAL_STDS)
            of_boxes = of_boxes + (changes[inside[positive]] - target_offsets).abs().sum()
            number += max(len(positive), 1) + max(len(negative), 1)
        return {"rpn_class": of_classes / number, "rpn_bbox": of_boxes / number}

    def propose(self, logits: Tensor, offsets: Tensor, anchors: Anchors, image_size: tuple[int, int]) -> Tensor:
        """Propose the regions of an image that may contain objects.

        Args:
            logits: (N,).
            offsets: (N, 4).
            anchors: the N anchors.
            image_size: (height, width) in pixels.

        Returns:
            (n, 4) xyxy in pixels, clipped to the image, best first.
        """
        best, level_of, first = [], [], 0
        for level, scores in enumerate(logits.split(anchors.sizes)):
            chosen = scores.topk(min(self.num_before_nms, len(scores))).indices + first
            best.append(chosen)
            level_of.append(torch.full_like(chosen, level))
            first += len(scores)
        index, levels = torch.cat(best), torch.cat(level_of)
        boxes = decode_boxes(offsets[index], anchors.boxes[index], PROPOSAL_STDS)
        height, width = image_size
        boxes = torch.stack([boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)], dim=-1).flatten(1)
        (proper,) = (boxes[:, 2:] > boxes[:, :2]).all(-1).nonzero(as_tuple=True)
        boxes, scores, levels = boxes[proper], logits[index][proper], levels[proper]
        (kept,) = nms_mask(boxes[None], scores[None], self.nms_threshold, levels[None])[0].nonzero(as_tuple=True)
        return boxes[kept[scores[kept].topk(min(self.num_proposals, len(kept))).indices]]

    def sample_regions(self, proposals: Tensor, objects: Tensor) -> tuple[Tensor, Tensor]:
        """Sample the regions that train the second stage from the proposals and the objects.

        Args:
            proposals: (n, 4) xyxy.
            objects: (T, 4) xyxy.

        Returns:
            (R, 4) xyxy, positives first, and (R,) the index of the object that each region is assigned to.
        """
        regions = torch.cat([objects, proposals])
        assigned = assign_by_overlap(pairwise_iou(objects, regions), positive=0.5, negative=0.5)
        chosen = torch.cat(sample(assigned, self.roi_samples, 0.25))
        return regions[chosen], assigned[chosen]

    def region_losses(
        self, pooled: Tensor, regions: Tensor, positive: Tensor, labels: Tensor, boxes: Tensor
    ) -> dict[str, Tensor]:
        """Compute the cross-entropy of classes and the GIoU loss of positives, divided by the number of regions.

        Args:
            pooled: (R, C, size, size).
            regions: (R, 4) xyxy.
            positive: (P,) indices of the regions that are assigned to objects; the other regions are background.
            labels: (P,) classes of these objects.
            boxes: (P, 4) xyxy boxes of these objects.
        """
        hidden = self.box_head(pooled.to(self.class_embed.weight.dtype))
        classes, offsets = (head(hidden).to(regions.dtype) for head in (self.class_embed, self.bbox_embed))
        class_targets = torch.full((len(regions),), self.num_classes, device=labels.device).index_put(
            (positive,), labels
        )
        of_class = offsets.unflatten(1, (self.num_classes, 4))[positive, labels]
        predicted = decode_boxes(of_class, regions[positive], REGION_STDS)
        number = max(len(regions), 1)
        return {
            "class": F.cross_entropy(classes, class_targets, reduction="sum") / number,
            "giou": self.giou_weight * (1 - generalized_box_iou(predicted, boxes)).sum() / number,
        }

    def pool(self, pyramid: Pyramid, regions: Tensor, image: Tensor) -> Tensor:
        """Pool regions from the level that fits their size, except the coarsest (Lin et al., "FPN", CVPR 2017, eq. 1).

        Args:
            pyramid: maps (B, C, h, w).
            regions: (R, 4) xyxy.
            image: (R,) index of the image of each region.

        Returns:
            (R, C, size, size).
        """
        maps = [feature_map.to(pyramid.dtype) for feature_map in pyramid.maps[:-1]]
        levels = roi_levels(regions, FINEST_SCALE * pyramid.strides[0], len(maps))
        rows = torch.cat([image[:, None].to(regions.dtype), regions], dim=1)
        pooled = maps[0].new_zeros(len(rows), maps[0].shape[1], self.roi_size, self.roi_size)
        for level, (feature_map, stride) in enumerate(zip(maps, pyramid.strides, strict=False)):
            (selected,) = (levels == level).nonzero(as_tuple=True)
            read = roi_align(feature_map, rows[selected], self.roi_size, spatial_scale=1 / stride, aligned=True)
            pooled = pooled.index_put((selected,), read.to(pooled.dtype))
        return pooled


def roi_levels(regions: Tensor, finest_scale: float, num_levels: int) -> Tensor:
    """Choose the level of each region: the finest below twice `finest_scale`, then one level per doubling.

    Args:
        regions: (R, 4) xyxy in pixels.
        finest_scale: square root of an area in pixels.
        num_levels: number of maps.

    Returns:
        (R,) levels in 0..num_levels - 1.
    """
    width, height = (regions[:, 2:] - regions[:, :2]).unbind(-1)
    return ((width * height).sqrt() / finest_scale + 1e-6).log2().floor().clamp(0, num_levels - 1).long()
