"""Co-DINO with a ResNet-50 and four feature levels: differences from DINO.

Each idea has a switch: `model.collaboration=null`; `model.collaboration.queries=null` keeps the heads on the encoder;
`~model.collaboration.heads.atss ~model.collaboration.queries.atss` removes a head.
"""

from detrex_lite.config import LazyCall as L
from detrex_lite.config import get_config
from detrex_lite.modeling import QualityFocalLoss, SoftNMS

model = get_config("projects/dino/configs/models/dino_r50.py").model

model.backbone.freeze_at = 2
model.neck.bias = False
model.position_embedding.temperature = 20
model.position_embedding.offset = 0.0
model.queries.normal_init = True
model.collaboration = get_config("common/collaboration.py").collaboration
model.criterion.losses.loss_class = L(QualityFocalLoss)(gamma=2.0)
model.criterion.losses.loss_giou.eps = 0.0
model.criterion.matcher.costs.giou.eps = 0.0
model.postprocessor.num_detections = 900
model.postprocessor.suppression = L(SoftNMS)(iou_threshold=0.8, num_detections=300)
