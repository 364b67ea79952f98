"""SQR-DAB-DETR with a ResNet-50: in training, each layer of DAB-DETR decodes the results of two layers before.

`model.transformer.decoder.recollection=null` is DAB-DETR. A list says for each layer which stages it decodes;
`model.transformer.decoder.recollection.num_stages=6` is the paper's dense recollection.
`model.transformer.mask_memory_padding=False` reproduces detrex.
"""

from detrex_lite.config import LazyCall as L
from detrex_lite.config import get_config
from detrex_lite.modeling import selective_recollection

model = get_config("projects/dab_detr/configs/models/dab_detr_r50.py").model

model.transformer.decoder.recollection = L(selective_recollection)(num_layers="${..num_layers}", num_stages=2)
