"""DINO with a ResNet-50 and selective query recollection, also of denoising queries."""

from detrex_lite.config import LazyCall as L
from detrex_lite.config import get_config
from detrex_lite.modeling import selective_recollection

model = get_config("projects/dino/configs/models/dino_r50.py").model

model.transformer.decoder.recollection = L(selective_recollection)(num_layers="${..num_layers}", num_stages=2)
