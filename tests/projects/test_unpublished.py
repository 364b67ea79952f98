"""An unpublished detector needs only a config file to be trained, evaluated, saved and resumed."""

import pytest
import torch
from torch.testing import assert_close

from detrex_lite.config import LazyConfig
from detrex_lite.data import generate_shapes
from detrex_lite.engine import train
from detrex_lite.metrics_file import read_metrics

CONFIG = '''
"""DAB-Deformable-DETR with relations, groups, a one-to-many branch and contrastive denoising."""

from detrex_lite.config import LazyCall as L
from detrex_lite.config import get_config
from detrex_lite.modeling import ContrastiveDenoising, PositionRelation

model = get_config("projects/dab_deformable_detr/configs/models/dab_deformable_detr_r50.py").model
model.merge_with(get_config("common/small_deformable.py").small)
model.num_classes = 3
model.queries.layout.num_groups = 2
model.queries.mixed_selection = True
model.num_queries_one2many = 30
model.transformer.decoder.relation = L(PositionRelation)(num_heads="${...encoder.layer.attn.num_heads}")
model.denoising = L(ContrastiveDenoising)(
    num_classes="${..num_classes}", embed_dim="${..embed_dim}", num_pairs=5, mask_padding=True
)

data = get_config("common/data/shapes.py")
dataset, dataloader = data.dataset, data.dataloader
dataloader.train.total_batch_size = 4
dataloader.train.num_workers = dataloader.test.num_workers = 0

optimizer = get_config("common/optim.py").AdamW
optimizer.lr = 5e-4
lr_multiplier = get_config("common/schedule.py").lr_multiplier_one_cycle
train = get_config("common/train.py").train
train.device = "cpu"
train.max_iter = 4
train.log_period = 1
train.eval_period = 0
train.checkpointer.period = 2
'''
SUFFIXES = {"", "_0", "_1", "_dn", "_dn_0", "_dn_1", "_one2many", "_0_one2many", "_1_one2many", "_enc"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpublished")
    (folder / "config.py").write_text(CONFIG)
    generate_shapes(folder / "shapes", num_train=12, num_val=4, image_size=48)
    return folder


def run(folder, name, *, resume=False):
    cfg = LazyConfig.load(str(folder / "config.py"))
    overrides = [f"train.output_dir={folder / name}", f"dataset.root={folder / 'shapes'}"]
    return train(LazyConfig.apply_overrides(cfg, overrides), resume=resume)


def losses(folder):
    records = read_metrics(folder / "metrics.jsonl")
    return [{name: value for name, value in record.items() if "loss" in name} for record in records]


def test_the_config_is_short():
    assert len(CONFIG.strip().splitlines()) < 40


def test_the_detector_is_trained_evaluated_saved_and_resumed(folder):
    results = run(folder, "uninterrupted")
    assert 0 <= results["bbox"]["AP"] <= 100
    assert {
        name.removeprefix("loss_class") for name in losses(folder / "uninterrupted")[0] if "class" in name
    } == SUFFIXES

    # The folder as it was after the second step.
    interrupted = folder / "interrupted"
    interrupted.mkdir()
    checkpoint = "model_0000002.pth"
    (interrupted / checkpoint).write_bytes((folder / "uninterrupted" / checkpoint).read_bytes())
    (interrupted / "last_checkpoint").write_text(checkpoint)
    run(folder, "interrupted", resume=True)
    assert_close(losses(interrupted)[-2:], losses(folder / "uninterrupted")[-2:], rtol=0, atol=0)
    weights, resumed_weights = (
        torch.load(folder / name / "model_final.pth", weights_only=True)["model"]
        for name in ("uninterrupted", "interrupted")
    )
    assert_close(weights, resumed_weights, rtol=0, atol=0)
