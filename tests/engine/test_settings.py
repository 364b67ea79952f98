import re

import pytest
from omegaconf import OmegaConf

from detrex_lite.config import ConfigError, get_config
from detrex_lite.engine.settings import Lengths, complete

from .tiny import tiny_config


def faults_of(*overrides, sections=(), change=lambda cfg: None):
    cfg = tiny_config("out", *overrides)
    change(cfg)
    with pytest.raises(ConfigError) as caught:
        complete(cfg, sections)
    return caught.value.faults


def test_missing_keys_get_defaults_in_a_copy_of_the_config():
    cfg = tiny_config("out")
    cfg.train = {"max_iter": 5, "device": "cpu", "amp": {"enabled": True}, "output_dir": "x"}
    before = OmegaConf.to_yaml(cfg.train)
    completed = complete(cfg, sections=("optimizer",)).train
    assert OmegaConf.to_yaml(cfg.train) == before
    assert (completed.max_iter, completed.amp.enabled, completed.amp.dtype, completed.log_period) == (
        5,
        True,
        "bf16",
        20,
    )


def test_the_train_section_has_the_keys_of_detectron2():
    defaults = get_config("common/train.py").train
    assert set(defaults.ddp) == {"broadcast_buffers", "find_unused_parameters", "fp16_compression"}
    assert set(defaults.checkpointer) == {"period", "max_to_keep"}


def test_missing_sections_are_reported():
    def remove(cfg):
        del cfg.optimizer
        del cfg.train

    assert faults_of(sections=("optimizer", "dataloader"), change=remove) == [
        "the config has no 'train'",
        "the config has no 'optimizer'",
    ]


@pytest.mark.parametrize(
    ("overrides", "pattern"),
    [
        (["model=null"], "model=null is not a section"),
        (["train=null"], "train=null is not a section"),
        (["train=5"], "train=5 is not a section"),
        (["train=[1]"], r"train=\[1\] is not a section"),
        (["train=${model}"], r"train='\$\{model\}' must be a dict itself"),
    ],
)
def test_malformed_sections_are_reported(overrides, pattern):
    (fault,) = faults_of(*overrides)
    assert re.match(pattern, fault)


def test_circular_interpolations_are_faults():
    (fault,) = faults_of("train.log_period=${train.log_period}")
    assert fault.startswith("train.log_period: ")


def test_unread_sections_are_faults():
    faults = faults_of("+hooks=[1]", "+optimiser.lr=1")
    assert [fault.partition(":")[0] for fault in faults] == ["hooks", "optimiser"]


def test_all_faults_are_reported_at_once():
    def misspell(cfg):
        cfg.train.max_itr = 5
        cfg.train.amp.enable = True
        cfg.train.ddp = 3
        cfg.model.num_clases = 4

    faults = "\n".join(faults_of(change=misspell))
    assert "train.max_itr is not a key of the engine; did you mean 'max_iter'?" in faults
    assert "train.amp.enable is not a key of the engine; did you mean 'enabled'?" in faults
    assert "train.ddp=3 is not a dict with the keys broadcast_buffers" in faults
    assert "model.num_clases" in faults


@pytest.mark.parametrize(
    ("override", "pattern"),
    [
        ("accumulate_steps=0", "train.accumulate_steps=0 .*whole number from 1"),
        ("log_period=2.5", "train.log_period=2.5 .*whole number from 1"),
        ("max_iter=0", "train.max_iter=0 .*whole number from 1, or null"),
        ("max_epochs=-1", "train.max_epochs=-1 .*number above 0, or null"),
        ("max_epochs=.inf", "train.max_epochs=inf .*number above 0, or null"),
        ("eval_epochs=0", "train.eval_epochs=0 .*number above 0, or null"),
        ("eval_period=-1", "train.eval_period=-1 .*whole number from 0, or null"),
        ("checkpointer.period=x", "train.checkpointer.period='x' .*whole number from 0, or null"),
        (
            "checkpointer.max_to_keep=0",
            "train.checkpointer.max_to_keep=0 .*whole number from 1, or null",
        ),
        ("seed=-1", "train.seed=-1 .*whole number from 0 to 4294901760"),
        ("accelerate_cpu=often", "train.accelerate_cpu='often' .*True or False"),
        ("amp.dtype=bf61", "train.amp.dtype='bf61' .*'bf16'"),
        ("model_ema.decay=1", r"train.model_ema.decay=1 .*number in \[0, 1\)"),
        ("model_ema.decay=high", r"train.model_ema.decay='high' .*number in \[0, 1\)"),
        ("model_ema.warmup=x", "train.model_ema.warmup='x' .*whole number from 0"),
        ("seed=99999999999999999999", "train.seed=99999999999999999999 .*whole number from 0 to 4294901760"),
        (
            "clip_grad={enabled: true, params: {max_norm: big}}",
            "train.clip_grad.params.max_norm='big' .*number above 0",
        ),
        ("best_metric=5", "train.best_metric=5 .*text"),
        ("output_dir=null", "train.output_dir=None .*text"),
        ("wandb.params=5", "train.wandb.params=5 is not a dict"),
        ("amp=null", "train.amp=None is not a dict with the keys enabled, dtype"),
        ("csv=yes", "train.csv='yes' .*True or False"),
        ("hooks=5", "train.hooks=5 .*list"),
        ("log_period=${nope}", "train.log_period: Interpolation key 'nope' not found"),
        (
            "trust_init_checkpoint=${train.csv}",
            r"train.trust_init_checkpoint='\$\{train.csv\}' .*plain value",
        ),
        (
            "trusted=[evil, tests]",
            r"train.trusted=\['evil'\] .*Python config.*--trust evil",
        ),
        ("device=gpu", "train.device='gpu' is not a device"),
    ],
)
def test_invalid_values_of_train_are_faults(override, pattern):
    (fault,) = faults_of(f"train.{override}")
    assert re.match(pattern, fault)


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        (("deterministic=True", "cudnn_benchmark=True"), "which train.deterministic=True excludes"),
        (("fsdp=True", "amp.enabled=True", "amp.dtype=fp16"), "train.amp.dtype=fp16 needs; use bf16"),
        (("fsdp=True", "compile=True"), "train.compile=True does not go together with train.fsdp=True"),
        (("fsdp=True", "static_graph=True"), "train.static_graph=True does not go together with train.fsdp=True"),
        (("static_graph=True", "accumulate_steps=2"), "does not go together with train.accumulate_steps above 1"),
    ],
)
def test_contradictory_settings_are_faults(overrides, fault):
    (actual,) = faults_of(*(f"train.{override}" for override in overrides))
    assert fault in actual


def test_synchronised_batch_norms_need_gpus(monkeypatch):
    # A single process accepts the setting.
    assert complete(tiny_config("out", "train.sync_batch_norm=True"), ()).train.sync_batch_norm
    monkeypatch.setattr("detrex_lite.distributed.is_distributed", lambda: True)
    (fault,) = faults_of("train.sync_batch_norm=True")
    assert "train.sync_batch_norm=True needs GPUs" in fault


def test_sharding_needs_a_torch_with_fully_shard(monkeypatch):
    monkeypatch.delattr("torch.distributed.fsdp.fully_shard")
    assert "train.fsdp=True needs torch 2.6 or newer" in faults_of("train.fsdp=True")[0]


def test_clipping_needs_a_positive_norm():
    faults = faults_of("train.clip_grad.enabled=True", "train.clip_grad.params.max_norm=0")
    assert faults == ["train.clip_grad.params.max_norm=0 must be a number above 0"]


def test_cuda_without_a_gpu_is_a_fault(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (fault,) = faults_of("train.device=cuda")
    assert "no CUDA GPU here; use train.device=cpu" in fault


def test_mlflow_must_be_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    faults = faults_of("train.mlflow.enabled=True", "+train.mlflow.params.run_name=first")
    assert faults == ["train.mlflow.enabled=True needs MLflow: pip install mlflow"]


def test_wandb_must_be_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    faults = faults_of("train.wandb.enabled=True", "+train.wandb.params.entity=me")
    assert faults == ["train.wandb.enabled=True needs Weights & Biases: pip install wandb"]


def lengths(batches_per_epoch, **values):
    section = get_config("common/train.py").train
    section.eval_period, section.checkpointer.period = 0, 0
    for key, value in values.items():
        OmegaConf.update(section, key, value)
    return Lengths.of(section, batches_per_epoch)


def test_epochs_become_steps():
    result = lengths(10, max_epochs=3, eval_epochs=1, checkpoint_epochs=0.5, accumulate_steps=4)
    assert result == Lengths(max_iter=8, eval_period=3, checkpoint_period=2, epoch=2.5)


def test_the_shorter_of_steps_and_epochs_is_used():
    result = lengths(10, max_epochs=3, max_iter=7, eval_epochs=1, eval_period=20)
    assert (result.max_iter, result.eval_period, result.checkpoint_period) == (7, 10, 0)


def test_steps_that_cut_epochs_short_are_reported(caplog):
    assert lengths(10, max_epochs=3, max_iter=7, eval_epochs=1, eval_period=10).max_iter == 7
    (message,) = caplog.messages
    assert message.startswith("train.max_epochs=3 would be 30 steps, but train.max_iter=7")


def test_epochs_that_are_a_whole_number_of_steps_are_not_rounded_up():
    assert lengths(3, max_epochs=0.1 * 3 / 0.1).max_iter == 9


def test_a_run_without_a_length_raises():
    with pytest.raises(ConfigError, match=r"set train\.max_epochs or train\.max_iter"):
        lengths(10)


def test_epochs_of_a_loader_without_a_length_raise():
    with pytest.raises(ConfigError, match=r"train\.max_epochs, train\.eval_epochs: the training loader"):
        lengths(None, max_epochs=3, eval_epochs=1)
    assert lengths(None, max_iter=3).epoch is None


def test_one_gpu_for_several_processes_is_a_fault(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("detrex_lite.distributed.is_distributed", lambda: True)
    monkeypatch.setattr("detrex_lite.distributed.world_size", lambda: 2)
    (fault,) = faults_of("train.device=cuda:0")
    assert "train.device='cuda:0' is one GPU for 2 processes" in fault
    (fault,) = faults_of("train.device=cuda", "train.seed=-1")
    assert "train.seed" in fault


@pytest.mark.parametrize(
    ("override", "advice"),
    [
        ("optimizer.lr=auto", "--find-lr"),
        ("+dataloader.train.total_batch_size=auto", "--find-batch-size"),
        ("+dataloader.train.total_batch_size=-1", "--find-batch-size"),
        ("train.max_epochs=Auto", "train.patience"),
        ("train.device=auto", "leave it out"),
    ],
)
def test_auto_values_are_answered_with_the_flag_that_finds_them(override, advice):
    [fault] = faults_of(override)
    assert override.lstrip("+") in fault
    assert advice in fault


def test_keys_of_other_toolkits_suggest_ours():
    [fault] = faults_of("+train.early_stopping=3")
    assert "did you mean 'train.patience'" in fault
