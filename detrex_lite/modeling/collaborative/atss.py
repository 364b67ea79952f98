"""ATSS as an auxiliary head that trains an encoder (Zhang et al., CVPR 2020; Co-DETR, Zong et al., ICCV 2023).

Legend: B batch, L levels, N anchors of all levels, K classes, C channels, P positive anchors.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...distributed import mean_over_processes
from ...structures import generalized_box_iou
from ..criterion import sigmoid_focal_loss
from ..heads import PRIOR_PROBABILITY
from ..multi_scale import flatten_maps
from ..targets import Targets
from .assignment import NEITHER, assign_atss
from .pyramid import Candidates, HeadResult, Pyramid, decode_boxes, first_objects, per_anchor

STDS = (0.1, 0.1, 0.2, 0.2)


class ATSSHead(nn.Module):
    """A dense head with one square anchor per cell, which predicts classes, boxes and the centerness of anchors.

    Args:
        embed_dim: C.
        num_classes: K.
        num_feature_levels: number of levels of the encoder; the head reads one more.
        num_convs: number of convolutions before the class and box predictions.
        anchor_scale: side of an anchor in strides.
        num_candidates: number of candidate anchors of an object on each level, see `assign_atss`.
        giou_weight: weight of the box loss; the losses of classes and centerness have weight 1.
        alpha, gamma: of the focal loss.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        num_classes: int,
        num_feature_levels: int,
        num_convs: int = 1,
        anchor_scale: float = 8.0,
        num_candidates: int = 9,
        giou_weight: float = 2.0,
        alpha: float = 0.25,
        gamma: float = 2.0,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.anchor_scale = anchor_scale
        self.num_candidates = num_candidates
        self.giou_weight = giou_weight
        self.alpha = alpha
        self.gamma = gamma
        self.class_tower = _tower(embed_dim, num_convs)
        self.box_tower = _tower(embed_dim, num_convs)
        self.class_embed = nn.Conv2d(embed_dim, num_classes, 3, padding=1)
        self.bbox_embed = nn.Conv2d(embed_dim, 4, 3, padding=1)
        self.centerness_embed = nn.Conv2d(embed_dim, 1, 3, padding=1)
        self.box_scales = nn.Parameter(torch.ones(num_feature_levels + 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw normally distributed weights and set a low prior for objects (Lin et al., ICCV 2017, section 4.1)."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        assert self.class_embed.bias is not None
        nn.init.constant_(self.class_embed.bias, -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))

    def forward(self, pyramid: Pyramid, targets: Targets) -> HeadResult:
        """Compute the losses "class", "giou" and "centerness", with all anchors as candidates.

        Args:
            pyramid: maps (B, C, h, w) of `num_feature_levels + 1` levels.
            targets: the objects of the batch.
        """
        logits, offsets, central = self.read(pyramid)
        anchors, objects = pyramid.anchors([self.anchor_scale], [1.0]), pyramid.objects(targets)
        with torch.no_grad():
            assigned_per_image = [
                assign_atss(anchors, anchors.inside(size), boxes, self.num_candidates)
                for size, boxes in zip(pyramid.image_sizes, objects, strict=True)
            ]
        cells = flatten_maps(list(pyramid.maps))
        candidates = [
            Candidates(anchors.boxes, assigned, features)
            for assigned, features in zip(assigned_per_image, cells, strict=True)
        ]
        assigned = torch.stack(assigned_per_image)
        image, cell = (assigned >= 0).nonzero(as_tuple=True)
        target = assigned[image, cell] + first_objects(targets, assigned.device)[image]
        number = (assigned >= 0).sum(1).clamp(min=1).sum().to(logits.dtype)
        number = mean_over_processes(number).clamp(min=1)
        class_targets = torch.zeros_like(logits)
        class_targets[image, cell, targets.labels[target]] = 1.0
        of_classes = sigmoid_focal_loss(logits, class_targets, self.alpha, self.gamma).sum(-1)
        predicted = decode_boxes(offsets[image, cell], anchors.boxes[cell], STDS)
        boxes = torch.cat(objects)[target]
        quality = centerness(anchors.centres()[cell], boxes)
        of_boxes = (1 - generalized_box_iou(predicted, boxes)) * quality
        of_centres = F.binary_cross_entropy_with_logits(central[image, cell, 0], quality, reduction="sum")
        losses = {
            "class": of_classes.masked_fill(assigned == NEITHER, 0.0).sum() / number,
            "giou": self.giou_weight * of_boxes.sum() / mean_over_processes(quality.sum()).clamp(min=1),
            "centerness": of_centres / number,
        }
        return HeadResult(losses, candidates)

    def read(self, pyramid: Pyramid) -> tuple[Tensor, Tensor, Tensor]:
        """Predict class logits (B, N, K), box offsets (B, N, 4) and centerness logits (B, N, 1)."""
        if len(pyramid.maps) != len(self.box_scales):
            raise ValueError(
                f"ATSSHead was given {len(pyramid.maps)} maps: num_feature_levels must be {len(pyramid.maps) - 1}, "
                f"not {len(self.box_scales) - 1}"
            )
        logits, offsets, central = [], [], []
        for feature_map, scale in zip(pyramid.maps, self.box_scales, strict=True):
            hidden = self.box_tower(feature_map)
            logits.append(self.class_embed(self.class_tower(feature_map)))
            offsets.append(self.bbox_embed(hidden) * scale)
            central.append(self.centerness_embed(hidden))
        return per_anchor(logits, self.num_classes), per_anchor(offsets, 4), per_anchor(central, 1)


def centerness(points: Tensor, boxes: Tensor) -> Tensor:
    """Compute how central points are in the boxes that contain them (Tian et al., "FCOS", ICCV 2019, eq. 3).

    Args:
        points: (P, 2), x first.
        boxes: (P, 4) xyxy.

    Returns:
        (P,), 1 at the centre, 0 at the border.
    """
    to_low, to_high = points - boxes[:, :2], boxes[:, 2:] - points
    return (torch.minimum(to_low, to_high) / torch.maximum(to_low, to_high)).prod(-1).sqrt()


def _tower(embed_dim: int, num_convs: int) -> nn.Sequential:
    convs: list[nn.Module] = []
    for _ in range(num_convs):
        convs += [nn.Conv2d(embed_dim, embed_dim, 3, padding=1, bias=False), nn.GroupNorm(32, embed_dim), nn.ReLU()]
    return nn.Sequential(*convs)
