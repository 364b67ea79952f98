"""Base class of detectors whose transformer reads one feature map, such as DETR."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from ...errors import did_you_mean
from ...structures import ImageBatch, Instances
from ..decoder import Memory
from ..denoising import GroupDenoising
from ..detector import Detector, ImagePreprocessor, Outputs, PanopticPostprocessor, channels_of_positions, require_equal
from ..heads import DetectionHeads
from ..masks import MASK_LOGITS
from ..predictions import LayerOutput, Predictions
from ..targets import Targets
from .mask_head import HIDDEN, AttentionMaskHead
from .queries import LearnedAnchors, LearnedPoints, LearnedQueries
from .transformer import SingleLevelTransformer


class SingleLevelDetector(Detector):
    """The parts, in the order in which images pass through them; subclasses implement `predict` and `decode`.

    Args:
        backbone: maps images (B, 3, H, W) to a dict of feature maps.
        in_feature: the feature map that the transformer reads.
        in_channels: maps the backbone's feature names to channels, as `resnet_channels` computes them.
        position_embedding: maps a padding mask (B, h, w) to positions (B, C, h, w), or (B, 2 C, h, w) with separate
            positions of x and y.
        transformer: encoder and decoder.
        queries: source of the decoder's initial queries.
        heads: predict classes and boxes from queries.
        denoising: makes denoising queries in training, for queries that are boxes; None for no denoising.
        mask_head: predicts the masks of the last layer's queries, which `heads.extra.hidden` returns unchanged
            (`torch.nn.Identity`); None for boxes alone.
        freeze_detector: train only the mask head, starting from the weights of a detector.
        embed_dim: C, of the transformer.
        num_classes: K.
        num_queries: Q, more than the number of objects in any image; None for the value of `queries`.
        input_norm: norm of the projected feature map; None for none.
        num_patterns: P learned contents for each query that is a box or a point; None for the value of `queries`.
        aux_loss: whether to supervise every decoder layer.
        preprocess, criterion, postprocessor, panoptic_postprocessor, batch_invariant_eval: see `Detector`.

    Raises:
        ValueError: when the backbone has no map of that name, or the parts contradict each other.
    """

    makes_masks = False  # whether `decode` calls `with_masks`

    def __init__(
        self,
        *,
        backbone: nn.Module,
        in_feature: str,
        in_channels: Mapping[str, int],
        position_embedding: nn.Module,
        transformer: SingleLevelTransformer,
        queries: LearnedQueries | LearnedAnchors | LearnedPoints,
        heads: DetectionHeads,
        denoising: GroupDenoising | None = None,
        input_norm: nn.Module | None = None,
        mask_head: AttentionMaskHead | None = None,
        freeze_detector: bool = False,
        embed_dim: int,
        num_classes: int,
        num_queries: int | None = None,
        num_patterns: int | None = None,
        aux_loss: bool = True,
        preprocess: ImagePreprocessor,
        criterion: nn.Module,
        postprocessor: Callable[[Predictions, Sequence[tuple[int, int]]], list[Instances]],
        panoptic_postprocessor: PanopticPostprocessor | None = None,
        batch_invariant_eval: bool = True,
    ):
        super().__init__(
            num_classes=num_classes,
            preprocess=preprocess,
            criterion=criterion,
            postprocessor=postprocessor,
            panoptic_postprocessor=panoptic_postprocessor,
            batch_invariant_eval=batch_invariant_eval,
        )
        if in_feature not in in_channels:
            raise ValueError(f"the backbone has no feature map {in_feature!r}{did_you_mean(in_feature, in_channels)}")
        require_equal("num_classes", model=num_classes, heads=heads.num_classes)
        require_equal(
            "embed_dim",
            model=embed_dim,
            heads=heads.embed_dim,
            denoising=None if denoising is None else denoising.embed_dim,
            sampler=None if transformer.sampler is None else transformer.sampler.embed_dim,
            position_embedding=channels_of_positions(position_embedding),
            mask_head=None if mask_head is None else mask_head.embed_dim,
        )
        require_equal("num_queries", model=num_queries, queries=queries.layout.num_queries)
        require_equal("num_patterns", model=num_patterns, queries=queries.num_patterns)
        require_equal("number of decoder layers", decoder=transformer.decoder.num_layers, heads=heads.num_layers)
        if denoising is not None and not isinstance(queries, LearnedAnchors):
            raise ValueError(f"denoising needs queries that are boxes, LearnedAnchors, got {type(queries).__name__}")
        if denoising is not None and not isinstance(denoising, GroupDenoising):
            raise ValueError(f"denoising is a {type(denoising).__name__}; one feature map needs GroupDenoising")
        self.backbone = backbone
        self.in_feature = in_feature
        projection = nn.Conv2d(in_channels[in_feature], embed_dim, kernel_size=1)
        self.input_proj = projection if input_norm is None else nn.Sequential(projection, input_norm)
        self.position_embedding = position_embedding
        self.transformer = transformer
        self.queries = queries
        self.heads = heads
        self.denoising = denoising
        self.aux_loss = aux_loss
        self._check_masks(mask_head, freeze_detector)
        if freeze_detector:
            self.requires_grad_(False)
        self.mask_head = mask_head

    def _check_masks(self, mask_head: AttentionMaskHead | None, freeze_detector: bool) -> None:
        if mask_head is None:
            if freeze_detector:
                raise ValueError("freeze_detector=True needs a mask_head: otherwise nothing would be trained")
            return
        if not self.makes_masks:
            raise ValueError(f"{type(self).__name__} does not predict masks: mask_head must be None")
        if self.transformer.sampler is not None:
            raise ValueError("a mask_head needs all cells of the map, but transformer.sampler drops some of them")
        if HIDDEN not in self.heads.extra_embed:
            raise ValueError(f"the mask_head reads heads.extra.{HIDDEN}: set it to torch.nn.Identity")

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """See `Detector.feature_maps`: the transformer's map (B, C, h, w), and those of the mask head."""
        maps = self.backbone(images)
        pyramid = () if self.mask_head is None else self.mask_head.in_features
        return [self.input_proj(maps[self.in_feature]), *(maps[name] for name in pyramid)]

    def positions(self, feature: ImageBatch) -> Tensor:
        """Return the positions of a map's cells: (B, C, h, w), or (1, C, h, w) if images share them."""
        return self.position_embedding(feature.mask_or_zeros(), dtype=feature.tensor.dtype)

    def losses(self, outputs: Mapping[str, Predictions], targets: Targets) -> dict[str, Tensor]:
        """See `Detector.losses`; these are the losses of the transformer's sampler of tokens, if any."""
        return dict(outputs.extra.get("losses", {})) if isinstance(outputs, Outputs) else {}

    def map_and_positions(self, images: ImageBatch) -> tuple[ImageBatch, Tensor]:
        """Return the padded map (B, C, h, w) and its positions, see `positions`."""
        (feature,) = self.extract_features(images)
        return feature, self.positions(feature)

    def with_masks(
        self, layers: Sequence[LayerOutput], memory: Memory, feature: ImageBatch, pyramid: Sequence[ImageBatch]
    ) -> list[LayerOutput]:
        """Add masks to the last layer's output, if there is a mask head.

        Args:
            layers: the outputs of the layers.
            memory: the encoder's output.
            feature: the map that was encoded.
            pyramid: the maps of the mask head.
        """
        if self.mask_head is None:
            return list(layers)
        encoded = memory.tokens.mT.unflatten(2, tuple(feature.tensor.shape[-2:]))
        masks = self.mask_head(layers[-1].extra[HIDDEN], encoded, feature, pyramid)
        last = layers[-1]._replace(extra={**_without_hidden(layers[-1]), MASK_LOGITS: masks.tensor})
        return [*(layer._replace(extra=_without_hidden(layer)) for layer in layers[:-1]), last]


def _without_hidden(layer: LayerOutput) -> dict[str, Tensor]:
    return {name: value for name, value in layer.extra.items() if name != HIDDEN}
