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


def test_detectron2_flags():
    args = parse("--num-gpus", "2", "--num-machines", "3", "--machine-rank", "1", "--dist-url", "tcp://a:1", "--resume")
    assert (args.num_gpus, args.num_machines, args.machine_rank, args.dist_url) == (2, 3, 1, "tcp://a:1")
    assert (args.resume, args.eval_only, args.opts) == (True, False, [])


def test_processes_on_cpus_have_a_flag_that_says_so():
    assert parse("--num-processes", "3").num_gpus == 3


def test_overrides_may_stand_before_and_after_flags():
    args = parse("train.max_iter=3", "--eval-only", "model.num_classes=5")
    assert args.eval_only
    cfg = plan_of(args).cfg
    assert (cfg.train.max_iter, cfg.model.num_classes) == (3, 5)


def test_a_config_file_is_required(capsys):
    with pytest.raises(SystemExit):
        cli.parser_of("train").parse([])
    assert "--config-file" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ConfigError(["one", "two"]), CheckpointError("one")])
def test_faults_end_with_a_message(capsys, error):
    with pytest.raises(SystemExit) as ended, clear_errors():
        raise error
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {error}\n"


def test_other_errors_keep_their_traceback():
    with pytest.raises(ValueError, match="a bug"), clear_errors():
        raise ValueError("a bug")


def part(width):
    return width + "a"


def test_a_mistake_in_the_code_of_a_part_shows_where(capsys):
    with pytest.raises(SystemExit) as ended, clear_errors():
        instantiate(L(part)(width=1))
    assert ended.value.code == 2
    assert 'return width + "a"' in capsys.readouterr().err


def test_the_whole_traceback_is_shown_when_it_is_asked_for(capsys):
    assert parse("--traceback").traceback
    with pytest.raises(SystemExit), clear_errors(with_traceback=True):
        raise ConfigError("one")
    assert capsys.readouterr().err.startswith("Traceback")


def test_packages_are_trusted_by_a_flag(monkeypatch):
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


@pytest.mark.parametrize(("local_rank", "is_told"), [(None, False), ("0", True), ("1", True)])
def test_images_that_cannot_be_read_are_told_by_the_process_that_reads_them(local_rank, is_told, monkeypatch, capsys):
    monkeypatch.setattr("detrex_lite.distributed.rank", lambda: 1)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local_rank:  # as torchrun has it; otherwise this project's launcher tells what a process has not told
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    with pytest.raises(SystemExit) as ended, clear_errors():
        raise DatasetError("11 images cannot be read")
    assert ended.value.code == 2
    assert capsys.readouterr().err == ("error: 11 images cannot be read\n" if is_told else "")
