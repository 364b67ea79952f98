"""Focus-DETR (Zheng et al., ICCV 2023, figure 2): DINO whose encoder refines foreground tokens only.

The project's README lists the differences from detrex.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from detrex_lite.modeling import (
    LayerOutput,
    Memory,
    Outputs,
    Predictions,
    Queries,
    QueryBlock,
    Targets,
    TokenLevels,
    flatten_maps,
)
from detrex_lite.modeling.deformable import AnchorQueries, MultiScaleDetector, SparseEncoder
from detrex_lite.structures import ImageBatch


class FocusDETR(MultiScaleDetector):
    """DINO with a sparse encoder.

    Its parts are those of DINO, except for one:

    - `transformer.encoder`: a `SparseEncoder`. It computes foreground scores from tokens that go through the same
      projection as those that propose boxes, and its layers rank tokens by the class head for proposals.

    `with_box_refine` and `as_two_stage` are True.
    """

    queries: AnchorQueries  # the foreground scores share their projection of tokens

    def predict(self, images: ImageBatch, targets: Targets | None = None) -> Outputs:
        """See `Detector.predict`; with targets, also returns "_dn", "_enc" and the foreground scores."""
        noised = None if self.denoising is None or targets is None else self.denoising(targets)
        queries, layers, proposals, scores = self.decode(images, noised, training=targets is not None)
        named = queries.split(layers, aux_loss=self.aux_loss)
        if proposals is not None:
            named["_enc"] = proposals
        return Outputs(named, scores=scores, image_sizes=images.image_sizes)

    def losses(self, outputs: Mapping[str, Predictions], targets: Targets) -> dict[str, Tensor]:
        """See `Detector.losses`: the loss of the foreground scores."""
        assert isinstance(outputs, Outputs)
        foreground = self._sparse_encoder().foreground
        return {"select_loss": foreground.loss(outputs.extra["scores"], targets, outputs.extra["image_sizes"])}

    def decode(
        self, images: ImageBatch, noised: QueryBlock | None = None, *, training: bool = False
    ) -> tuple[Queries, list[LayerOutput], Predictions | None, list[Tensor]]:
        """See `Detector.decode`; returns queries, outputs of layers, trained proposals, and foreground scores."""
        maps, positions = self.maps_and_positions(images)
        if maps[0].as_published or all(level.mask is None for level in maps):
            memory, scores = self.encode_sparsely(maps, positions)
        else:
            memory, scores = self.encode_by_size(maps, positions), []
        selected, proposals = self.queries(memory, self.heads, training=training)
        queries = Queries([noised, *selected])
        layers = self.transformer.decoder(queries, memory, self.heads, training=training)
        return queries, layers, proposals, scores

    def encode_sparsely(self, maps: Sequence[ImageBatch], positions: Sequence[Tensor]) -> tuple[Memory, list[Tensor]]:
        """The encoded tokens, and maps (B, 1, h, w) of foreground scores."""
        encoder = self._sparse_encoder()
        tokens, pos, levels = self.transformer.flatten(maps, positions)
        assert pos is not None
        projected = self.queries.proposals(Memory(tokens + pos, None, levels.padding, levels)).tokens
        scores = encoder.foreground(projected, levels)
        tokens = encoder(
            tokens,
            pos=pos,
            levels=levels,
            scores=torch.cat([level.flatten(1) for level in scores], dim=1),
            class_score=self.heads.score_tokens,
        )
        return Memory(tokens, None, levels.padding, levels), scores

    def encode_by_size(self, maps: Sequence[ImageBatch], positions: Sequence[Tensor]) -> Memory:
        """The encoded tokens, where images of each size are encoded separately.

        In a padded batch, the number of refined tokens would depend on the largest image, and scores on the padding.
        """
        groups: dict[tuple[tuple[int, int], ...], list[int]] = {}
        for image in range(len(maps[0])):
            groups.setdefault(tuple(level.image_sizes[image] for level in maps), []).append(image)
        encoded: list[list[Tensor]] = [[] for _ in range(len(maps[0]))]
        for sizes, members in groups.items():
            cropped, pos = [], []
            for level, (height, width), position in zip(maps, sizes, positions, strict=True):
                tensor = level.tensor[members, :, :height, :width]
                cropped.append(ImageBatch(tensor, [(height, width)] * len(members), None))
                pos.append(position.expand(len(maps[0]), -1, -1, -1)[members, :, :height, :width])
            memory, _ = self.encode_sparsely(cropped, pos)
            level_maps = memory.require_levels().maps(memory.tokens)
            for number, image in enumerate(members):
                encoded[image] = [level[number] for level in level_maps]
        padded = [ImageBatch.from_images(list(level)) for level in zip(*encoded, strict=True)]
        levels = TokenLevels.from_maps(padded)
        return Memory(flatten_maps([level.tensor for level in padded]), None, levels.padding, levels)

    def _sparse_encoder(self) -> SparseEncoder:
        encoder = self.transformer.encoder
        if not isinstance(encoder, SparseEncoder) or not self.queries.as_two_stage:
            raise ValueError(
                "FocusDETR needs a SparseEncoder, and as_two_stage=True, because the heads of proposals rank tokens; "
                f"got {type(encoder).__name__} and as_two_stage={self.queries.as_two_stage}. DINO takes other encoders"
            )
        return encoder
