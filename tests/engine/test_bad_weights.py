"""Damaged or malformed weights and run files: every command that reads one names the file and the fault."""

import json
import pickle

import numpy as np
import pytest
import torch

from detrex_lite.checkpoint import CheckpointError, save_atomic
from detrex_lite.config import ConfigError
from detrex_lite.engine import evaluate, train
from detrex_lite.inference import Predictor
from detrex_lite.metrics_file import read_metrics

from .tiny import TinyDetector, tiny_config


def evaluate_weights(path):
    evaluate(tiny_config(path.parent / "out", f"train.init_checkpoint={path}"))


def fine_tune(path):
    train(tiny_config(path.parent / "out", "train.max_iter=1", f"train.init_checkpoint={path}"))


def load_predictor(path):
    Predictor(tiny_config(path.parent / "out"), path, device="cpu")


@pytest.fixture(params=[evaluate_weights, fine_tune, load_predictor])
def use(request):
    return request.param


def weights(**changes):
    torch.manual_seed(0)
    return {**TinyDetector().state_dict(), **{name.replace("__", "."): value for name, value in changes.items()}}


def test_valid_weights_are_loaded(tmp_path, use):
    save_atomic({"model": weights()}, tmp_path / "a.pth")
    use(tmp_path / "a.pth")


def test_a_flipped_bit_fails_the_checksum(tmp_path, use):
    path = tmp_path / "a.pth"
    save_atomic({"model": weights(head__bias=torch.ones(7))}, path)
    content = bytearray(path.read_bytes())
    content[content.index(b"\0\0\x80?" * 7) + 3] ^= 0x40
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.pth is damaged: .*checksum"):
        use(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("value", [float("nan"), 1e300])
def test_non_finite_weights_raise(tmp_path, use, value, suffix):
    path = tmp_path / f"a{suffix}"
    save_atomic(weights(head__bias=torch.full((7,), value, dtype=torch.float64)), path)
    with pytest.raises(CheckpointError, match=r"a\.\w+: weights are not finite.*head\.bias"):
        use(path)


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.bool])
def test_weights_of_unsupported_dtypes_raise(tmp_path, use, dtype):
    save_atomic(weights(head__bias=torch.ones(7, dtype=dtype)), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=rf"a\.pth: .*head\.bias \({str(dtype)[6:]}\)"):
        use(tmp_path / "a.pth")


def test_sparse_tensors_raise(tmp_path, use):
    save_atomic(weights(head__weight=torch.eye(7, 8).to_sparse()), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth.*head\.weight is a sparse tensor"):
        use(tmp_path / "a.pth")


def test_arrays_of_python_objects_raise(tmp_path, use):
    array = np.array([None, {}], dtype=object)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": {"head.bias": array}}))
    with pytest.raises(CheckpointError, match=r"a\.pkl.*head\.bias is an array of object"):
        use(tmp_path / "a.pkl")


@pytest.mark.parametrize(("name", "content"), [("a.pth", {}), ("a.safetensors", {}), ("a.pth", {5: torch.ones(3)})])
def test_files_without_weights_of_this_model_raise(tmp_path, use, name, content):
    save_atomic(content, tmp_path / name)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        use(tmp_path / name)


def test_a_folder_instead_of_a_weights_file_raises(tmp_path, use):
    (tmp_path / "a").mkdir()
    with pytest.raises(CheckpointError, match=r"a is (a folder|not the folder)"):
        use(tmp_path / "a")


@pytest.fixture
def broken_run(tmp_path):
    """A run with the checkpoints of steps 2 and 4, which failed in step 6."""
    with pytest.raises(OSError, match="the disk is gone"):
        train(tiny_config(tmp_path, "dataloader.train.fail_at=5"))
    return tmp_path


def resume(folder, *overrides):
    train(tiny_config(folder, *overrides), resume=True)
    return (folder / "log.txt").read_text()


@pytest.mark.parametrize("line", [b'{"iteration": 3, "x\xff', b"\xff\xfe\0garbage", b"[" * 100_000])
def test_unreadable_metric_lines_are_skipped(broken_run, line):
    (broken_run / "metrics.csv").write_bytes(b"iteration,lr\n1,0.1\n" + line + b",\n")
    with (broken_run / "metrics.jsonl").open("ab") as file:
        file.write(line + b"\n")
    resume(broken_run, "train.csv=True")
    iterations = [record["iteration"] for record in read_metrics(broken_run / "metrics.jsonl")]
    assert iterations == [1, 2, 3, 4, 5, 6, 6]
    rows = (broken_run / "metrics.csv").read_text(encoding="utf-8").splitlines()
    assert [row.split(",")[0] for row in rows] == ["iteration", "1", "5", "6", "6"]


def test_class_names_may_contain_unicode_line_separators(tmp_path):
    line = json.dumps({"iteration": 1, "bbox/AP-a\u2028b\x85": 1.0}, ensure_ascii=False)
    (tmp_path / "metrics.jsonl").write_text(f"{line}\n{line}\n", encoding="utf-8")
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 2


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"a\0.pth", b"model_0000002.pth\nx.pth", b"../b/x.pth"])
def test_the_newest_checkpoint_is_found_when_last_checkpoint_is_unusable(broken_run, content):
    (broken_run / "last_checkpoint").write_bytes(content)
    log = resume(broken_run)
    assert "does not name a checkpoint" in log
    assert "model_0000004.pth, after iteration 4" in log


def test_last_checkpoint_cannot_name_a_file_outside_the_run(broken_run, tmp_path_factory):
    outside = tmp_path_factory.mktemp("other") / "x.pth"
    (broken_run / "model_0000002.pth").rename(outside)
    (broken_run / "last_checkpoint").write_text(str(outside))
    assert "model_0000004.pth, after iteration 4" in resume(broken_run)


def test_last_checkpoint_that_is_a_folder_raises(broken_run):
    (broken_run / "last_checkpoint").unlink()
    (broken_run / "last_checkpoint").mkdir()
    with pytest.raises(ConfigError, match="last_checkpoint in it is a folder"):
        resume(broken_run)


def test_resuming_with_another_optimizer_class_raises(broken_run):
    with pytest.raises(CheckpointError, match=r"model_0000004\.pth .*AdamW.*SGD"):
        resume(broken_run, "optimizer._target_=torch.optim.SGD", "~optimizer.betas")


def edit_checkpoint(folder, change):
    path = folder / "model_0000004.pth"
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda state: state.update(iteration=-5), "iteration is -5"),
        (lambda state: state.update(iteration="4"), "iteration is a str"),
        (lambda state: state.pop("class_names"), "class_names is missing"),
        (lambda state: state["rng"][0].pop("python"), r"rng\[0\]: KeyError"),
        (lambda state: state.update(rng=["x"]), r"rng\[0\]: TypeError"),
        (lambda state: state["rng"][0].update(torch=torch.zeros(3)), r"rng\[0\]: "),
        (lambda state: state.update(rng=[]), "rng is of 0 processes, losses is of 1"),
        (lambda state: state.update(scalars=[]), "scalars is of 0 processes"),
        (lambda state: state.update(best={}), "best has no metric"),
        (lambda state: state.update(ema=5), "ema is a int"),
    ],
)
def test_malformed_checkpoint_states_raise(broken_run, change, fault):
    edit_checkpoint(broken_run, change)
    with pytest.raises(CheckpointError, match=rf"model_0000004\.pth is not a checkpoint .*{fault}"):
        resume(broken_run)


@pytest.mark.parametrize("optimizer", [{}, {"state": {}, "param_groups": [{}]}])
def test_a_malformed_optimizer_state_raises(broken_run, optimizer):
    edit_checkpoint(broken_run, lambda state: state.update(optimizer=optimizer))
    with pytest.raises(CheckpointError, match=r"model_0000004\.pth does not fit the model and optimizer"):
        resume(broken_run)


def test_non_finite_weights_of_a_checkpoint_raise(broken_run):
    edit_checkpoint(broken_run, lambda state: state["model"]["head.bias"].fill_(float("nan")))
    with pytest.raises(CheckpointError, match=r"model_0000004\.pth: weights are not finite.*head\.bias"):
        resume(broken_run)


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (torch.zeros(7).to_sparse(), r"head\.bias is a sparse tensor"),
        (torch.zeros(7, dtype=torch.int64), r"head\.bias \(int64\)"),
        (5, "does not fit the model"),
    ],
)
def test_checkpoint_entries_that_are_not_weights_raise(broken_run, value, fault):
    edit_checkpoint(broken_run, lambda state: state["model"].update({"head.bias": value}))
    with pytest.raises(CheckpointError, match=rf"model_0000004\.pth.*{fault}"):
        resume(broken_run)
