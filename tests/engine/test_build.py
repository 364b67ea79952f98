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


def kinds(model):
    return {name: type(module).__name__ for name, module in model.named_modules() if "Norm" in type(module).__name__}


def test_batch_norms_that_are_trained_are_synchronised_and_frozen_ones_are_left(caplog):
    caplog.set_level("INFO")
    backbone = ResNet(depth=18, norm="BN", freeze_at=2, out_features=["res3"])
    before = backbone.state_dict()
    build.synchronise_batch_norms(backbone)
    assert {kind for name, kind in kinds(backbone).items() if name.startswith("layer2")} == {"SyncBatchNorm"}
    assert {kind for name, kind in kinds(backbone).items() if not name.startswith("layer2")} == {"BatchNorm2d"}
    torch.testing.assert_close(backbone.state_dict(), before)
    assert "5 batch norms take their statistics from all processes" in caplog.text
    backbone.train()
    assert not backbone.bn1.training


def test_frozen_norms_are_nothing_to_synchronise(caplog):
    caplog.set_level("INFO")
    backbone = ResNet(depth=18, out_features=["res2"])
    before = kinds(backbone)
    build.synchronise_batch_norms(backbone)
    assert kinds(backbone) == before
    assert "0 batch norms" in caplog.text


@pytest.mark.parametrize(("asked", "expected"), [(True, "SyncBatchNorm"), (False, "BatchNorm1d")])
def test_batch_norms_are_synchronised_when_several_processes_ask(tmp_path, monkeypatch, asked, expected):
    monkeypatch.setattr("detrex_lite.engine.settings._wrong_together", lambda train: ())  # which asks for a GPU
    cfg = complete(tiny_config(tmp_path, f"train.sync_batch_norm={asked}"), ())
    cfg.model._target_ = "tests.engine.test_build.Normalised"
    assert kinds(Run(cfg, tmp_path, resume=False).model)["norm"] == "BatchNorm1d"
    monkeypatch.setattr("detrex_lite.distributed.is_distributed", lambda: True)
    monkeypatch.setattr("detrex_lite.distributed.all_gather_objects", lambda mine: [mine, mine])
    monkeypatch.setattr("detrex_lite.distributed.rank", lambda: 0)
    monkeypatch.setattr("detrex_lite.distributed.from_main_process", lambda compute: compute())
    assert kinds(Run(cfg, tmp_path, resume=False).model)["norm"] == expected


def test_activations_of_transformer_layers_are_checkpointed_when_asked(tmp_path):
    cfg = complete(tiny_config(tmp_path, "train.activation_checkpointing=True"), ())
    cfg.model._target_ = "tests.engine.test_build.Layered"
    assert Run(cfg, tmp_path, resume=False).model.layer.activation_checkpointing
    cfg.train.activation_checkpointing = False
    assert not Run(cfg, tmp_path, resume=False).model.layer.activation_checkpointing
    with pytest.raises(ConfigError, match="activation_checkpointing=True: Linear has no transformer layers"):
        build.checkpoint_activations(nn.Linear(1, 1))


def exchanged(model):
    return {name for name, module in model.named_modules() if type(module).__name__.startswith("Accelerated")}


def test_blocks_are_accelerated_on_a_cpu_unless_they_are_not_to_be(tmp_path):
    cfg = complete(tiny_config(tmp_path), ())
    cfg.model._target_ = "tests.engine.test_build.Layered"
    model = Run(cfg, tmp_path, resume=False).model
    assert exchanged(model) >= {"backbone", "dropout", "head", "layer.attentions.0", "layer.ffns.0"}
    assert exchanged(ModelEma(model, decay=0.5).module) == exchanged(model)
    assert build.checkpoint_activations(model) is None
    cfg.train.accelerate_cpu = False
    plain = Run(cfg, tmp_path, resume=False).model
    assert not exchanged(plain)
    plain.load_state_dict(model.state_dict())
    build.to_device(plain, complete(tiny_config(tmp_path), ()).train, torch.device("meta"))
    assert not exchanged(plain)


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
    """`broadcast_buffers` by the name that this torch has for it."""
    given = {}

    def ddp(model, **settings):
        given.update(settings)
        return model

    parameters = [inspect.Parameter(one, inspect.Parameter.KEYWORD_ONLY) for one in ("static_graph", name)]
    ddp.__signature__ = inspect.Signature(parameters)
    monkeypatch.setattr("detrex_lite.distributed.is_distributed", lambda: True)
    monkeypatch.setattr(nn.parallel, "DistributedDataParallel", ddp)
    model = nn.Linear(1, 1)
    train = tiny_config(tmp_path, "train.static_graph=True", "train.ddp.broadcast_buffers=True").train
    assert build.wrap_for_training(model, train) is model
    assert given == {"device_ids": None, "find_unused_parameters": False, "static_graph": True, name: True}
