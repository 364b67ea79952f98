"""What detectors share whose transformer reads several feature levels, as Deformable DETR's does."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from ...structures import ImageBatch, Instances
from ..collaborative import CollaborativeHeads
from ..decoder import Memory
from ..denoising import Denoising
from ..detector import (
    Detector,
    ImagePreprocessor,
    Outputs,
    PanopticPostprocessor,
    channels_of_positions,
    require_equal,
    without_padding,
)
from ..heads import DetectionHeads
from ..mask_branch import MaskBranch
from ..masks import MASK_EMBEDDING
from ..predictions import MaskFeatures, Predictions
from ..queries import Queries
from ..targets import Targets
from .branches import ProposalBranch
from .grouped_queries import GroupedAnchorQueries
from .queries import AnchorQueries, DeformableQueries
from .transformer import MultiScaleTransformer


class MultiScaleDetector(Detector):
    """The parts, in the order in which images go through them; subclasses say how in `predict` and `decode`.

    A config says the facts that several parts need once, as keys of `model` to which the parts refer. Parts that say
    something else are refused; None leaves a fact to the parts.

    Args:
        backbone: images (B, 3, H, W) to a dict of feature maps.
        neck: that dict to L maps (B, C, h, w), finest first.
        position_embedding: padding mask (B, h, w) to positions (B, C, h, w), for the encoder; None without an encoder.
        transformer: encoder and decoder.
        queries: where the decoder's queries begin.
        heads: read classes and boxes from queries, and with two stages from the encoder's tokens.
        denoising: makes denoising queries in training, for queries that are boxes; None for none.
        collaboration: heads of other detectors, which train the encoder and give the decoder further queries; for
            detectors that call `collaborate`. None for none.
        mask_branch: makes the features that masks are read from; None for boxes alone.
        branch: further queries for training, in a pass of their own; None for none. Only detectors that say so by
            `runs_branch` take one.
        embed_dim: C, of the transformer.
        num_classes: K.
        num_queries: Q, more than an image will have objects.
        num_queries_one2many: queries of a one-to-many branch in training.
        with_box_refine: each layer refines the boxes of the one before.
        as_two_stage: queries are the encoder's best proposals; needs `with_box_refine`.
        share_heads: all decoder layers have the same heads.
        num_mask_points: points of mask losses and costs, to which they refer; None in detectors without masks.
        aux_loss: supervise every decoder layer.
        preprocess, criterion, postprocessor, panoptic_postprocessor, batch_invariant_eval: see `Detector`.

    Raises:
        ValueError: when the parts contradict each other.
    """

    runs_branch = False  # whether `predict` and `decode` know `branch`
    collaborates = False  # whether `predict` calls `collaborate`

    def __init__(
        self,
        *,
        backbone: nn.Module,
        neck: nn.Module,
        position_embedding: nn.Module | None,
        transformer: MultiScaleTransformer,
        queries: DeformableQueries | AnchorQueries | GroupedAnchorQueries,
        heads: DetectionHeads,
        denoising: Denoising | None = None,
        collaboration: CollaborativeHeads | None = None,
        mask_branch: MaskBranch | None = None,
        branch: ProposalBranch | None = None,
        embed_dim: int | None = None,
        num_classes: int,
        num_queries: int | None = None,
        num_queries_one2many: int | None = None,
        with_box_refine: bool | None = None,
        as_two_stage: bool | None = None,
        share_heads: bool | None = None,
        num_mask_points: int | None = None,
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
        layout, decoder = queries.layout, transformer.decoder
        require_equal("num_classes", model=num_classes, heads=heads.num_classes)
        require_equal("num_queries", model=num_queries, queries=layout.num_queries)
        require_equal(
            "num_queries_one2many",
            model=num_queries_one2many,
            queries=queries.num_queries_one2many + (0 if branch is None else branch.num_queries_one2many),
        )
        require_equal(
            "embed_dim",
            model=embed_dim,
            transformer=transformer.embed_dim,
            heads=heads.embed_dim,
            denoising=None if denoising is None else denoising.embed_dim,
            collaboration=None if collaboration is None else collaboration.embed_dim,
            position_embedding=None if position_embedding is None else channels_of_positions(position_embedding),
            mask_branch=None if mask_branch is None else mask_branch.embed_dim,
        )
        require_equal("with_box_refine", model=with_box_refine, heads=heads.with_box_refine)
        require_equal(
            "as_two_stage",
            model=as_two_stage,
            queries=queries.as_two_stage,
            **{"heads.for_encoder": heads.for_encoder},
        )
        require_equal(
            "number of groups with encoder heads of their own",
            queries=queries.encoder_groups,
            **{"heads.encoder_groups": heads.encoder_groups},
        )
        require_equal("share_heads", model=share_heads, heads=heads.share_heads)
        require_equal("number of decoder layers", decoder=decoder.num_layers, heads=heads.num_layers)
        if (mask_branch is None) != (MASK_EMBEDDING not in heads.extra_embed):
            given, other = "mask_branch", f"heads.extra.{MASK_EMBEDDING}"
            given, other = (other, given) if mask_branch is None else (given, other)
            raise ValueError(f"{given} is given alone: masks are products of both, set {other} too, or none")
        if mask_branch is None and num_mask_points is not None:
            raise ValueError(f"num_mask_points={num_mask_points} is for detectors with a mask_branch")
        if (position_embedding is None) != (transformer.encoder is None):
            given = "position_embedding" if transformer.encoder is None else "transformer.encoder"
            raise ValueError(
                f"{given} is given alone: positions are for the encoder, which needs them; set both or none"
            )
        if queries.as_two_stage and not heads.with_box_refine:
            raise ValueError("as_two_stage=True needs with_box_refine=True: proposals are boxes that layers refine")
        if branch is not None:
            if not self.runs_branch:
                raise ValueError(f"{type(self).__name__} has no branch of further queries: branch must be None")
            branch.join(queries, heads)
        if denoising is not None and isinstance(queries, DeformableQueries):
            raise ValueError("denoising needs queries that are boxes: AnchorQueries or GroupedAnchorQueries")
        if collaboration is not None:
            if not self.collaborates:
                raise ValueError(
                    f"{type(self).__name__} has no place for collaborative heads: collaboration must be None"
                )
            require_equal(
                "whether queries have positions, which DeformableQueries have and others have not",
                queries=isinstance(queries, DeformableQueries),
                collaboration=collaboration.with_positions,
            )
        self.backbone = backbone
        self.neck = neck
        self.position_embedding = position_embedding
        self.transformer = transformer
        self.queries = queries
        self.heads = heads
        self.denoising = denoising
        self.collaboration = collaboration
        self.mask_branch = mask_branch
        self.branch = branch if branch is not None and branch.num_queries else None
        self.aux_loss = aux_loss

    def convert_to_deploy(self) -> None:
        """Drop what detections do without.

        Denoising, collaborative heads, the branch, decoder layers that only training runs, and heads that it reads.
        """
        self.denoising = None
        self.collaboration = None
        self.branch = None
        decoder = self.transformer.decoder
        decoder.layers = decoder.layers[: decoder.num_eval_layers]
        if not decoder.scores_every_layer:
            self.heads.keep_last_layer(decoder.num_layers)

    def feature_maps(self, images: Tensor) -> Sequence[Tensor]:
        """See `Detector.feature_maps`: L maps (B, C, h, w), and the map that the mask branch joins with them."""
        features = self.backbone(images)
        if self.mask_branch is None:
            return self.neck(features)
        return [*self.neck(features), self.mask_branch.lateral(features[self.mask_branch.in_feature])]

    def positions(self, maps: Sequence[ImageBatch]) -> list[Tensor]:
        """Of the cells of L maps, for the encoder: (B or 1, C, h, w) each; none without an encoder."""
        if self.position_embedding is None:
            return []
        return [self.position_embedding(level.mask_or_zeros(), dtype=level.tensor.dtype) for level in maps]

    def maps_and_positions(self, images: ImageBatch) -> tuple[list[ImageBatch], list[Tensor]]:
        """L padded maps (B, C, h, w), finest first, and their positions, for detectors that encode in another way.

        Raises:
            ValueError: when there is a mask branch, which only `encode` runs.
        """
        if self.mask_branch is not None:
            raise ValueError(f"{type(self).__name__} makes no masks: mask_branch must be None")
        maps = self.extract_features(images)
        return maps, self.positions(maps)

    def encode(self, images: ImageBatch) -> Memory:
        """Backbone, neck, positions and encoder, and the features of masks."""
        maps = self.extract_features(images)
        if self.mask_branch is None:
            return self.transformer.encode(maps, self.positions(maps))
        *maps, lateral = maps
        memory = self.transformer.encode(maps, self.positions(maps))
        encoded = memory.require_levels().maps(memory.tokens)[-1 if self.transformer.coarsest_first else 0]
        finest = ImageBatch(encoded, maps[0].image_sizes, maps[0].mask, as_published=maps[0].as_published)
        features = without_padding(self.mask_branch, lateral, finest)
        return memory._replace(mask_features=MaskFeatures(features.tensor, self.mask_branch.stride, features.mask))

    def collaborate(
        self, named: Mapping[str, Predictions], memory: Memory, images: ImageBatch, targets: Targets | None
    ) -> Mapping[str, Predictions]:
        """Train collaborative heads beside the decoder, and its layers by what they find (Co-DETR).

        Args:
            named: the detector's sets of predictions.
            memory: what the encoder gave.
            images: the batch.
            targets: the objects, where losses are wanted.

        Returns:
            The same and the sets of the positive queries, such as "_atss", "_0_atss", ..; the heads' own losses come
            from `losses`. Without targets or collaborative heads `named` itself.
        """
        if self.collaboration is None or targets is None:
            return named
        maps = memory.require_levels().maps(memory.tokens)
        if self.transformer.coarsest_first:
            maps = maps[::-1]
        blocks, losses = self.collaboration(maps, images.image_sizes, targets)
        if blocks:
            queries = Queries(blocks)
            layers = self.transformer.decoder(queries, memory, self.heads)
            named = {**named, **queries.split(layers, aux_loss=self.aux_loss)}
        return Outputs(named, head_losses=losses)

    def losses(self, outputs: Mapping[str, Predictions], targets: Targets) -> dict[str, Tensor]:
        """See `Detector.losses`: those of collaborative heads."""
        return outputs.extra.get("head_losses", {}) if isinstance(outputs, Outputs) else {}
