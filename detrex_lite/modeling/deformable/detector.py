"""Base class of detectors whose transformer reads several feature levels, such as Deformable DETR."""

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
    """The parts, in the order in which images pass through them; subclasses implement `predict` and `decode`.

    Facts that several parts need are defined once in a config, as keys of `model` that the parts refer to.
    Contradicting parts are rejected; None accepts the values of the parts.

    Args:
        backbone: maps images (B, 3, H, W) to a dict of feature maps.
        neck: maps that dict to L maps (B, C, h, w), finest first.
        position_embedding: maps a padding mask (B, h, w) to positions (B, C, h, w), for the encoder; None without an
            encoder.
        transformer: encoder and decoder.
        queries: source of the decoder's initial queries.
        heads: predict classes and boxes from queries and, with two stages, from the encoder's tokens.
        denoising: makes denoising queries in training, for queries that are boxes; None for no denoising.
        collaboration: auxiliary heads of other detectors, which train the encoder and give the decoder further queries,
            for detectors that call `collaborate`; None for none.
        mask_branch: computes the features of masks; None for boxes alone.
        branch: further queries for training, in a separate decoder pass, for detectors with `runs_branch`; None for
            none.
        embed_dim: C, of the transformer.
        num_classes: K.
        num_queries: Q, more than the number of objects in any image.
        num_queries_one2many: number of queries of a one-to-many branch in training.
        with_box_refine: whether each layer refines the boxes of the previous layer.
        as_two_stage: whether queries are the encoder's best proposals; needs `with_box_refine`.
        share_heads: whether all decoder layers share their heads.
        num_mask_points: number of points of mask losses and costs, which refer to it; None in detectors without masks.
        aux_loss: whether to supervise every decoder layer.
        preprocess, criterion, postprocessor, panoptic_postprocessor, batch_invariant_eval: see `Detector`.

    Raises:
        ValueError: when the parts contradict each other.
    """

    runs_branch = False  # whether `predict` and `decode` support `branch`
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
            "number of groups with separate encoder heads",
            queries=queries.encoder_groups,
            **{"heads.encoder_groups": heads.encoder_groups},
        )
        require_equal("share_heads", model=share_heads, heads=heads.share_heads)
        require_equal("number of decoder layers", decoder=decoder.num_layers, heads=heads.num_layers)
        if (mask_branch is None) != (MASK_EMBEDDING not in heads.extra_embed):
            given, missing = "mask_branch", f"heads.extra.{MASK_EMBEDDING}"
            given, missing = (missing, given) if mask_branch is None else (given, missing)
            raise ValueError(f"{given} is given alone: masks are products of both, so set {missing} too, or neither")
        if mask_branch is None and num_mask_points is not None:
            raise ValueError(f"num_mask_points={num_mask_points} is for detectors with a mask_branch")
        if (position_embedding is None) != (transformer.encoder is None):
            given = "position_embedding" if transformer.encoder is None else "transformer.encoder"
            raise ValueError(
                f"{given} is given alone: only an encoder uses positions, and it needs them; set both or neither"
            )
        if queries.as_two_stage and not heads.with_box_refine:
            raise ValueError("as_two_stage=True needs with_box_refine=True: proposals are boxes that layers refine")
        if branch is not None:
            if not self.runs_branch:
                raise ValueError(f"{type(self).__name__} does not support a branch of further queries: set branch=None")
            branch.join(queries, heads)
        if denoising is not None and isinstance(queries, DeformableQueries):
            raise ValueError("denoising needs queries that are boxes: AnchorQueries or GroupedAnchorQueries")
        if collaboration is not None:
            if not self.collaborates:
                raise ValueError(f"{type(self).__name__} does not support collaborative heads: set collaboration=None")
            require_equal(
                "presence of query positions (only DeformableQueries have them)",
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
        """Drop the parts that only training needs.

        These are denoising, collaborative heads, the branch, and decoder layers and heads that only training runs.
        """
        self.denoising = None
        self.collaboration = None
        self.branch = None
        decoder = self.transformer.decoder
        decoder.layers = decoder.layers[: decoder.num_eval_layers]
        if not decoder.scores_every_layer:
            self.heads.keep_last_layer(decoder.num_layers)

    def feature_maps(self, images: Tensor) -> Sequence[Tensor]:
        """See `Detector.feature_maps`: L maps (B, C, h, w), followed by the map that the mask branch reads, if any."""
        features = self.backbone(images)
        if self.mask_branch is None:
            return self.neck(features)
        return [*self.neck(features), self.mask_branch.lateral(features[self.mask_branch.in_feature])]

    def positions(self, maps: Sequence[ImageBatch]) -> list[Tensor]:
        """Return the positions of L maps for the encoder: (B or 1, C, h, w) each; empty without an encoder."""
        if self.position_embedding is None:
            return []
        return [self.position_embedding(level.mask_or_zeros(), dtype=level.tensor.dtype) for level in maps]

    def maps_and_positions(self, images: ImageBatch) -> tuple[list[ImageBatch], list[Tensor]]:
        """Return L padded maps (B, C, h, w), finest first, and their positions, for detectors with a custom encoder.

        Raises:
            ValueError: when there is a mask branch, which only `encode` supports.
        """
        if self.mask_branch is not None:
            raise ValueError(f"{type(self).__name__} does not predict masks: mask_branch must be None")
        maps = self.extract_features(images)
        return maps, self.positions(maps)

    def encode(self, images: ImageBatch) -> Memory:
        """Run backbone, neck, positions, encoder and the mask branch."""
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
        """Train collaborative heads, and the decoder by queries made of their positives (Co-DETR).

        Args:
            named: the detector's sets of predictions.
            memory: the encoder's output.
            images: the batch.
            targets: the objects; None when losses are not computed.

        Returns:
            The sets and those of the positive queries, such as "_atss", "_0_atss", ...; `losses` returns the losses of
            the heads. Without targets or collaborative heads, `named` itself.
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
        """See `Detector.losses`; these are the losses of collaborative heads."""
        return outputs.extra.get("head_losses", {}) if isinstance(outputs, Outputs) else {}
