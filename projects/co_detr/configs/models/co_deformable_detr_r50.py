"""Co-Deformable-DETR with a ResNet-50: H-Deformable DETR of its repository, with other heads, without its branch."""

from detrex_lite.config import get_config

model = get_config("projects/h_deformable_detr/configs/models/h_deformable_detr_r50_paper.py").model

model.num_queries_one2many = 0
model.neck.bias = False
model.collaboration = get_config("common/collaboration.py").collaboration
for _queries in (model.collaboration.queries.rcnn, model.collaboration.queries.atss):
    _queries.with_positions = True
    _queries.with_features = True
