import pytest
from omegaconf import OmegaConf

from detrex_lite import cli
from detrex_lite.checkpoint import CheckpointError
from detrex_lite.commands.configs import plan_of
from detrex_lite.config import ConfigError, get_config, instantiate
from detrex_lite.config import LazyCall as L
from detrex_lite.config.trusted import untrusted
from detrex_lite.data import DatasetError
from detrex_lite.engine import clear_errors, device_of

from .tiny import CONFIG_FILE


def parse(*arguments):
    return cli.parser_of("train").parse(["--config-file", str(CONFIG_FILE), *arguments])


def test_flags_of_detectron2_are_accepted():
    args = parse("--num-gpus", "2", "--num-machines", "3", "--machine-rank", "1", "--dist-url", "tcp://a:1", "--resume")
    assert (args.num_gpus, args.num_machines, args.machine_rank, args.dist_url) == (2, 3, 1, "tcp://a:1")
    assert (args.resume, args.eval_only, args.opts) == (True, False, [])


def test_num_processes_is_a_synonym_of_num_gpus():
    assert parse("--num-processes", "3").num_gpus == 3


def test_overrides_are_accepted_before_and_after_flags():
    args = parse("train.max_iter=3", "--eval-only", "model.num_classes=5")
    assert args.eval_only
    cfg = plan_of(args).cfg
    assert (cfg.train.max_iter, cfg.model.num_classes) == (3, 5)


def test_a_config_file_is_required(capsys):
    with pytest.raises(SystemExit):
        cli.parser_of("train").parse([])
    assert "--config-file" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ConfigError(["one", "two"]), CheckpointError("one")])
def test_errors_for_users_end_with_their_message_and_status_2(capsys, error):
    with pytest.raises(SystemExit) as exit_info, clear_errors():
        raise error
    assert exit_info.value.code == 2
    assert capsys.readouterr().err == f"error: {error}\n"


def test_other_errors_keep_their_traceback():
    with pytest.raises(ValueError, match="a bug"), clear_errors():
        raise ValueError("a bug")


def add_letter(width):
    return width + "a"


def test_an_error_in_a_constructor_shows_the_line_of_code(capsys):
    with pytest.raises(SystemExit) as exit_info, clear_errors():
        instantiate(L(add_letter)(width=1))
    assert exit_info.value.code == 2
    assert 'return width + "a"' in capsys.readouterr().err


def test_traceback_flag_shows_the_whole_traceback(capsys):
    assert parse("--traceback").traceback
    with pytest.raises(SystemExit), clear_errors(with_traceback=True):
        raise ConfigError("one")
    assert capsys.readouterr().err.startswith("Traceback")


def test_trust_flag_adds_trusted_packages(monkeypatch):
    monkeypatch.setattr("detrex_lite.config.trusted._added", {"tests"})
    args = parse("--trust", "mine", "--trust", "other.part")
    assert untrusted(["mine", "other.part"]) == ["mine", "other.part"]
    plan_of(args)
    assert untrusted(["mine", "other.part"]) == []


@pytest.mark.parametrize("train", [None, 5, {}, {"device": None}, {"device": "${nope}"}])
def test_the_device_of_a_faulty_config_is_the_default(train):
    default = get_config("common/train.py").train.device
    assert device_of(OmegaConf.create({"train": train})) == device_of(OmegaConf.create({})) == default
    assert device_of(OmegaConf.create({"train": {"device": "mps"}})) == "mps"


@pytest.mark.parametrize(("local_rank", "is_reported"), [(None, False), ("0", True), ("1", True)])
def test_unreadable_images_are_reported_by_the_process_that_reads_them(local_rank, is_reported, monkeypatch, capsys):
    monkeypatch.setattr("detrex_lite.distributed.rank", lambda: 1)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local_rank:  # torchrun sets the variable; without it, this project's launcher reports errors of other processes
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    with pytest.raises(SystemExit) as exit_info, clear_errors():
        raise DatasetError("11 images cannot be read")
    assert exit_info.value.code == 2
    assert capsys.readouterr().err == ("error: 11 images cannot be read\n" if is_reported else "")
