import inspect

import pytest
import torch
from torch import nn

from detrex_lite.config import ConfigError
from detrex_lite.engine import build
from detrex_lite.engine.loop.ema import ModelEma
from detrex_lite.engine.run import Run
from detrex_lite.engine.settings import complete
from detrex_lite.layers import FFN, BaseTransformerLayer, MultiheadAttention
from detrex_lite.modeling import ResNet

from .tiny import TinyDetector, tiny_config


def norm_classes(model):
    return {name: type(module).__name__ for name, module in model.named_modules() if "Norm" in type(module).__name__}


def test_only_trained_batch_norms_are_synchronised(caplog):
    caplog.set_level("INFO")
    backbone = ResNet(depth=18, norm="BN", freeze_at=2, out_features=["res3"])
    before = backbone.state_dict()
    build.synchronise_batch_norms(backbone)
    assert {kind for name, kind in norm_classes(backbone).items() if name.startswith("layer2")} == {"SyncBatchNorm"}
    assert {kind for name, kind in norm_classes(backbone).items() if not name.startswith("layer2")} == {"BatchNorm2d"}
    torch.testing.assert_close(backbone.state_dict(), before)
    assert "5 batch norms take their statistics from all processes" in caplog.text
    backbone.train()
    assert not backbone.bn1.training


def test_frozen_norms_are_not_synchronised(caplog):
    caplog.set_level("INFO")
    backbone = ResNet(depth=18, out_features=["res2"])
    before = norm_classes(backbone)
    build.synchronise_batch_norms(backbone)
    assert norm_classes(backbone) == before
    assert "0 batch norms" in caplog.text


@pytest.mark.parametrize(("sync_batch_norm", "expected"), [(True, "SyncBatchNorm"), (False, "BatchNorm1d")])
def test_sync_batch_norm_applies_to_several_processes_only(tmp_path, monkeypatch, sync_batch_norm, expected):
    monkeypatch.setattr("detrex_lite.engine.settings._wrong_together", lambda train: ())  # the setting requires a GPU
    cfg = complete(tiny_config(tmp_path, f"train.sync_batch_norm={sync_batch_norm}"), ())
    cfg.model._target_ = "tests.engine.test_build.Normalised"
    assert norm_classes(Run(cfg, tmp_path, resume=False).model)["norm"] == "BatchNorm1d"
    monkeypatch.setattr("detrex_lite.distributed.is_distributed", lambda: True)
    monkeypatch.setattr("detrex_lite.distributed.all_gather_objects", lambda value: [value, value])
    monkeypatch.setattr("detrex_lite.distributed.rank", lambda: 0)
    monkeypatch.setattr("detrex_lite.distributed.from_main_process", lambda compute: compute())
    assert norm_classes(Run(cfg, tmp_path, resume=False).model)["norm"] == expected


def test_activation_checkpointing_is_set_on_transformer_layers(tmp_path):
    cfg = complete(tiny_config(tmp_path, "train.activation_checkpointing=True"), ())
    cfg.model._target_ = "tests.engine.test_build.Layered"
    assert Run(cfg, tmp_path, resume=False).model.layer.activation_checkpointing
    cfg.train.activation_checkpointing = False
    assert not Run(cfg, tmp_path, resume=False).model.layer.activation_checkpointing
    with pytest.raises(ConfigError, match="activation_checkpointing=True: Linear .*transformer layers"):
        build.checkpoint_activations(nn.Linear(1, 1))


def accelerated_blocks(model):
    return {name for name, module in model.named_modules() if type(module).__name__.startswith("Accelerated")}


def test_blocks_are_accelerated_on_a_cpu_unless_accelerate_cpu_is_off(tmp_path):
    cfg = complete(tiny_config(tmp_path), ())
    cfg.model._target_ = "tests.engine.test_build.Layered"
    model = Run(cfg, tmp_path, resume=False).model
    assert accelerated_blocks(model) >= {"backbone", "dropout", "head", "layer.attentions.0", "layer.ffns.0"}
    assert accelerated_blocks(ModelEma(model, decay=0.5).module) == accelerated_blocks(model)
    assert build.checkpoint_activations(model) is None
    cfg.train.accelerate_cpu = False
    plain = Run(cfg, tmp_path, resume=False).model
    assert not accelerated_blocks(plain)
    plain.load_state_dict(model.state_dict())
    build.to_device(plain, complete(tiny_config(tmp_path), ()).train, torch.device("meta"))
    assert not accelerated_blocks(plain)


class Layered(TinyDetector):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.layer = BaseTransformerLayer(
            attn=MultiheadAttention(8, 2), ffn=FFN(8, 8), norm=nn.LayerNorm(8), operation_order=("self_attn", "ffn")
        )


class Normalised(TinyDetector):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.norm = nn.BatchNorm1d(8)


@pytest.mark.parametrize("name", ["forward_sync_buffers", "broadcast_buffers"])
def test_ddp_gets_the_settings_of_the_config(tmp_path, monkeypatch, name):
    """torch has renamed the argument `broadcast_buffers`; `name` is its name in the installed version."""
    received_settings = {}

    def ddp(model, **settings):
        received_settings.update(settings)
        return model

    parameters = [inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY) for key in ("static_graph", name)]
    ddp.__signature__ = inspect.Signature(parameters)
    monkeypatch.setattr("detrex_lite.distributed.is_distributed", lambda: True)
    monkeypatch.setattr(nn.parallel, "DistributedDataParallel", ddp)
    model = nn.Linear(1, 1)
    train = tiny_config(tmp_path, "train.static_graph=True", "train.ddp.broadcast_buffers=True").train
    assert build.wrap_for_training(model, train) is model
    assert received_settings == {"device_ids": None, "find_unused_parameters": False, "static_graph": True, name: True}
