"""Conditional DETR with a ResNet-50, as detrex has it: differences from DETR."""

from detrex_lite.config import LazyCall as L
from detrex_lite.config import get_config
from detrex_lite.modeling import TopKPostprocessor
from detrex_lite.modeling.single_level import ConditionalDecoder

model = get_config("projects/detr/configs/models/detr_r50.py").model

model.transformer.decoder = L(ConditionalDecoder)(
    layer=get_config("common/layers.py").conditional_decoder,
    num_layers=6,
    relation=None,
    embed_dim="${...embed_dim}",
    temperature=10000,
)
model.num_queries = 300
model.heads.background = False
model.heads.references = True
model.criterion = get_config("common/criterion.py").focal_criterion
model.criterion.weights.loss_class = 2.0
model.postprocessor = L(TopKPostprocessor)(num_detections=300, clip_boxes=True)
# As in detrex, the decoder attends to padding in training. Detections do not depend on padding either way.
model.transformer.mask_memory_padding = False
