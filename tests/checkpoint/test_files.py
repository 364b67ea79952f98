import contextlib
import io
import json
import os
import pickle
import re
import tarfile
from argparse import Namespace
from collections import OrderedDict
from fractions import Fraction

import numpy as np
import pytest
import torch

from detrex_lite.checkpoint import CheckpointError, DamagedCheckpointError, read_checkpoint, save_atomic
from detrex_lite.checkpoint.files import replace_text

resource = pytest.importorskip("resource", reason="limits on file size are POSIX's")


class Bomb:
    """Creates a folder when it is unpickled without restrictions."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def bomb(tmp_path):
    return Bomb(tmp_path / "exploded")


@contextlib.contextmanager
def small_disk():
    """Limit files to 10 kB, which to a program looks like a full disk.

    This is not a fixture, because the limit would then also apply to pytest's reports, which may be files.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["a.pth", "a.pt", "model.bin", "sub/folder/a.pth"])
def test_saved_content_is_read_unchanged(tmp_path, name):
    content = {
        "model": {"w": torch.arange(3.0)},
        "iteration": 5,
        "text": "x",
        "none": None,
        "bytes": b"\x00\xff",
    }
    save_atomic(content, tmp_path / name)
    read = read_checkpoint(tmp_path / name)
    torch.testing.assert_close(read.pop("model"), content.pop("model"))
    assert read == content


def test_safetensors_round_trip_with_shared_and_strided_tensors(tmp_path):
    weight = torch.arange(6.0).reshape(2, 3)
    save_atomic({"a": weight, "shared": weight, "strided": weight.t()}, tmp_path / "a.safetensors")
    read = read_checkpoint(tmp_path / "a.safetensors")
    torch.testing.assert_close(read["shared"], weight)
    torch.testing.assert_close(read["strided"], weight.t().contiguous())


def test_saving_nested_values_as_safetensors_raises_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="only contain a dict of tensors"):
        save_atomic({"model": {"a": torch.zeros(1)}}, tmp_path / "a.safetensors")
    assert names_in(tmp_path) == []


# ---- reading harmful or damaged files


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before zip"])
def test_code_in_a_pth_file_does_not_run(tmp_path, bomb, zipped):
    path = tmp_path / "evil.pth"
    torch.save({"w": torch.zeros(2), "x": bomb}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"(posix|nt)\.mkdir.* runs code .* trusted=True"):
        read_checkpoint(path)
    assert not bomb.path.exists()


def test_code_in_a_pkl_file_does_not_run(tmp_path, bomb):
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"model": {"w": np.zeros(2)}, "x": bomb}))
    with pytest.raises(CheckpointError, match=r"(posix|nt)\.mkdir.* runs code"):
        read_checkpoint(path)
    assert not bomb.path.exists()


def test_the_error_names_all_classes_that_are_not_allowed(tmp_path):
    path = tmp_path / "args.pth"
    torch.save({"w": torch.zeros(2), "a": Fraction(1, 2), "b": io.StringIO()}, path)
    with pytest.raises(CheckpointError, match=r"it contains (_io\.StringIO, )?fractions\.Fraction"):
        read_checkpoint(path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before zip"])
def test_a_namespace_of_arguments_is_read_but_not_code_inside_it(tmp_path, bomb, zipped):
    path = tmp_path / "args.pth"
    content = {"model": {"w": torch.zeros(2)}, "args": Namespace(lr=1e-4, dilation=False, names=["a"])}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert read_checkpoint(path)["args"] == content["args"]
    torch.save({"args": Namespace(x=bomb)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"it contains (posix|nt)\.mkdir"):
        read_checkpoint(path)
    assert not bomb.path.exists()


@pytest.mark.parametrize("name", ["a.pth", "a.pkl"])
def test_trusted_files_may_contain_any_object(tmp_path, name):
    content = {"args": Fraction(1, 2)}
    if name.endswith(".pkl"):
        (tmp_path / name).write_bytes(pickle.dumps(content))
    else:
        torch.save(content, tmp_path / name)
    assert read_checkpoint(tmp_path / name, trusted=True) == content


def test_a_tar_archive_of_old_pytorch_raises_an_error(tmp_path):
    with tarfile.open(tmp_path / "old.pth", "w") as archive:
        archive.add(__file__, "pickle")
    with pytest.raises(CheckpointError, match=r"is a tar archive of PyTorch before 0\.4.*trusted=True"):
        read_checkpoint(tmp_path / "old.pth")


def test_an_unusual_codec_raises_an_error(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00bz2\x86R.")
    with pytest.raises(CheckpointError, match="codec 'bz2'"):
        read_checkpoint(path)


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_arrays_pickled_by_numpy_1_and_2_are_read(tmp_path, protocol, core):
    content = {
        "model": OrderedDict(w=np.arange(6, dtype=np.float32).reshape(2, 3), scalar=np.float64(2.5)),
        "__author__": "torchvision",
        "matching_heuristics": True,
        "raw": b"\x00\xff",
    }
    data = _as_written_by(core, pickle.dumps(content, protocol=protocol))
    (tmp_path / "R-50.pkl").write_bytes(data)
    read = read_checkpoint(tmp_path / "R-50.pkl")
    np.testing.assert_array_equal(read["model"]["w"], content["model"]["w"])
    assert read["model"]["scalar"] == 2.5
    assert read["raw"] == b"\x00\xff"


def _as_written_by(core: str, data: bytes) -> bytes:
    """The pickle with NumPy's internal modules under `core`, which is numpy.core in NumPy 1 and numpy._core in 2."""

    def short_string(match: re.Match[bytes]) -> bytes:  # opcode, one byte of length, text
        text = core.encode() + match[1]
        return b"\x8c" + bytes([len(text)]) + text

    data = re.sub(rb"^(\x80.)\x95.{8}", rb"\1", data, flags=re.DOTALL)  # the length of the frame, which is optional
    data = re.sub(rb"\x8c.numpy\._?core(\.\w+)", short_string, data, flags=re.DOTALL)
    return re.sub(rb"cnumpy\._?core(\.\w+\n)", lambda match: b"c" + core.encode() + match[1], data)


def test_a_pickle_of_python_2_keeps_its_bytes(tmp_path):
    # Python 2's pickle of {"w": "\xe9"}, with a byte string that is not valid UTF-8.
    (tmp_path / "old.pkl").write_bytes(b"\x80\x02}U\x01wU\x01\xe9s.")
    assert read_checkpoint(tmp_path / "old.pkl") == {"w": "\xe9"}


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "a.pkl"])
def test_truncated_files_raise_an_error(tmp_path, name):
    path = tmp_path / name
    state = {"w": torch.zeros(1000)}
    if name.endswith(".pkl"):
        path.write_bytes(pickle.dumps({"w": np.zeros(1000)}))
    else:
        save_atomic(state, path)
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(DamagedCheckpointError, match=rf"{name} (cannot be read .*truncated|is damaged)"):
        read_checkpoint(path)


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "a.pkl"])
def test_a_web_page_saved_as_a_checkpoint_raises_an_error(tmp_path, name):
    (tmp_path / name).write_text("<!DOCTYPE html><html>sign in first</html>" * 20)
    with pytest.raises(CheckpointError, match=f"{name} is a web page"):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "a.pkl"])
def test_a_git_lfs_pointer_raises_an_error(tmp_path, name):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(CheckpointError, match=f"{name} is a Git LFS pointer.*git lfs pull"):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize("trusted", [False, True])
def test_a_flipped_bit_is_detected_by_the_checksum(tmp_path, trusted):
    save_atomic({"a": torch.ones(64)}, tmp_path / "a.pth")
    content = bytearray((tmp_path / "a.pth").read_bytes())
    content[content.index(b"\0\0\x80?" * 8) + 3] ^= 0x40
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(DamagedCheckpointError, match=r"a\.pth is damaged: .*checksum"):
        read_checkpoint(tmp_path / "a.pth", trusted=trusted)


@pytest.mark.skipif(not hasattr(torch.serialization, "set_crc32_options"), reason="this torch always writes checksums")
def test_a_file_without_checksums_is_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        save_atomic({"a": torch.ones(64)}, tmp_path / "a.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_checkpoint(tmp_path / "a.pth")["a"].sum() == 64


def test_a_pickle_with_an_excessive_length_raises_an_error(tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"\x80\x04\x95" + (2**60).to_bytes(8, "little") + b"}.")
    with pytest.raises(CheckpointError, match=r"a\.pkl cannot be read"):
        read_checkpoint(tmp_path / "a.pkl")


def test_an_empty_file_raises_an_error(tmp_path):
    (tmp_path / "a.pth").touch()
    with pytest.raises(DamagedCheckpointError, match=r"a\.pth is empty"):
        read_checkpoint(tmp_path / "a.pth")


def test_the_error_for_a_missing_file_suggests_the_closest_name(tmp_path):
    save_atomic({}, tmp_path / "model_final.pth")
    with pytest.raises(CheckpointError, match=r"no file .*model_finl\.pth.*'model_final\.pth'"):
        read_checkpoint(tmp_path / "model_finl.pth")
    with pytest.raises(CheckpointError, match=r"no file .*zzz$"):
        read_checkpoint(tmp_path / "nowhere" / "zzz")


def test_the_error_for_a_folder_lists_its_files(tmp_path):
    with pytest.raises(CheckpointError, match=r"is a folder; give a file$"):
        read_checkpoint(tmp_path)
    save_atomic({}, tmp_path / "b.pth")
    save_atomic({}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"is a folder.*: a\.pth, b\.pth"):
        read_checkpoint(tmp_path)


# ---- folders and sharded files of Hugging Face


def write_parts(folder, kind, parts):
    """Files of tensors and their index, in Hugging Face's format. Returns the path of the index."""
    stem, suffix = {"safetensors": ("model", ".safetensors"), "bin": ("pytorch_model", ".bin")}[kind]
    weight_map = {}
    for number, state in enumerate(parts, 1):
        name = f"{stem}-{number:05}-of-{len(parts):05}{suffix}"
        save_atomic(state, folder / name)
        weight_map.update(dict.fromkeys(state, name))
    index = folder / f"{stem}{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 24}, "weight_map": weight_map}))
    return index


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_all_parts_of_an_index_are_read(tmp_path, kind):
    parts = [{"a": torch.arange(3.0), "b": torch.ones(2)}, {"c": torch.zeros(1)}]
    index = write_parts(tmp_path, kind, parts)
    for path in (index, tmp_path):
        torch.testing.assert_close(read_checkpoint(path), parts[0] | parts[1])


def test_a_missing_part_of_an_index_is_named(tmp_path):
    index = write_parts(tmp_path, "safetensors", [{"a": torch.ones(1)}, {"b": torch.ones(1)}])
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"not in that folder: model-00002-of-00002\.safetensors"):
        read_checkpoint(index)


def test_a_tensor_of_an_index_that_is_in_no_part_is_named(tmp_path):
    index = write_parts(tmp_path, "bin", [{"a": torch.ones(1)}, {"b": torch.ones(1)}])
    save_atomic({"other": torch.ones(1)}, tmp_path / "pytorch_model-00002-of-00002.bin")
    with pytest.raises(
        CheckpointError, match=r"none of its files contains: b \(in pytorch_model-00002-of-00002\.bin\)"
    ):
        read_checkpoint(index)


def test_a_damaged_part_of_an_index_is_named(tmp_path):
    index = write_parts(tmp_path, "safetensors", [{"a": torch.ones(1)}, {"b": torch.ones(1)}])
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"")
    with pytest.raises(DamagedCheckpointError, match=r"model-00001-of-00002\.safetensors is empty"):
        read_checkpoint(index)


def test_code_in_a_part_of_an_index_does_not_run(tmp_path, bomb):
    index = write_parts(tmp_path, "bin", [{"a": torch.ones(1)}, {"b": torch.ones(1)}])
    torch.save({"b": bomb}, tmp_path / "pytorch_model-00002-of-00002.bin")
    with pytest.raises(CheckpointError, match="runs code from the file"):
        read_checkpoint(index)
    assert not bomb.path.exists()


@pytest.mark.parametrize(
    "text", ["{", "[1]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 1}}', '{"weight_map": {"a": "../b.pth"}}']
)
def test_an_invalid_index_raises_an_error(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(DamagedCheckpointError, match=r"index\.json cannot be read"):
        read_checkpoint(tmp_path / "model.safetensors.index.json")


def test_a_folder_is_read_in_the_order_of_preference_of_hugging_face(tmp_path):
    index = write_parts(tmp_path, "bin", [{"w": torch.tensor(1.0)}])
    assert read_checkpoint(tmp_path)["w"] == 1
    save_atomic({"w": torch.tensor(2.0)}, tmp_path / "pytorch_model.bin")
    assert read_checkpoint(tmp_path)["w"] == 2
    save_atomic({"w": torch.tensor(3.0)}, tmp_path / "model.safetensors")
    assert read_checkpoint(tmp_path)["w"] == 3
    assert read_checkpoint(index)["w"] == 1


def test_urls_raise_an_error_with_instructions():
    with pytest.raises(CheckpointError, match=r"download it \(curl -LO https://example\.org/a\.pth\)"):
        read_checkpoint("https://example.org/a.pth")
    with pytest.raises(CheckpointError, match=r"https://dl\.fbaipublicfiles\.com/detectron2/ImageNet/R-50\.pkl"):
        read_checkpoint("detectron2://ImageNet/R-50.pkl")


def test_content_that_is_not_a_dict_raises_an_error(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth contains a list"):
        read_checkpoint(tmp_path / "a.pth")


def test_the_error_for_an_unreadable_file_names_the_cause(tmp_path, monkeypatch):
    save_atomic({}, tmp_path / "a.pth")

    def deny(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(torch, "load", deny)
    with pytest.raises(CheckpointError, match=r"PermissionError: .* Permission denied"):
        read_checkpoint(tmp_path / "a.pth")


# ---- writing when the disk is full


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_a_full_disk_leaves_the_old_file_and_no_partial_file(tmp_path, name):
    path = tmp_path / name
    save_atomic({"w": torch.ones(4)}, path)
    message = rf"could not write .*{name} \(.*MiB free.* unchanged"
    with small_disk(), pytest.raises(OSError, match=message) as info:
        save_atomic({"w": torch.ones(100_000)}, path)
    assert info.value.errno
    assert names_in(tmp_path) == [name]
    assert read_checkpoint(path)["w"].tolist() == [1.0] * 4


def test_a_full_disk_leaves_no_part_of_a_new_file(tmp_path):
    with small_disk(), pytest.raises(OSError, match="could not write") as info:
        save_atomic({"w": torch.ones(100_000)}, tmp_path / "a.pth")
    assert "unchanged" not in str(info.value)
    assert names_in(tmp_path) == []


def test_a_full_disk_at_fsync_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.pth"
    save_atomic({"iteration": 1}, path)

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"\[Errno 28\] could not write .* \(No space left on device; \d+ MiB free"):
        save_atomic({"iteration": 2}, path)
    assert names_in(tmp_path) == ["a.pth"]
    assert read_checkpoint(path) == {"iteration": 1}


def test_a_folder_that_cannot_be_created_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"could not write .*file/a\.pth"):
        save_atomic({}, tmp_path / "file" / "a.pth")


def test_text_files_are_replaced_atomically(tmp_path):
    path = tmp_path / "new" / "page.html"
    for text in ("ä\r\nb\n", "c"):
        replace_text(path, text)
        assert path.read_bytes() == text.encode()
    with small_disk(), pytest.raises(OSError, match=r"could not write .*page\.html .* MiB free"):
        replace_text(path, "d" * 100_000)
    assert path.read_text() == "c"
    assert [file.name for file in path.parent.iterdir()] == ["page.html"]


def test_an_interrupt_or_an_unpicklable_object_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.pth"
    save_atomic({"iteration": 1}, path)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_atomic({"f": lambda: 0}, path)

    def interrupted(obj, file):
        file.write(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_atomic({"iteration": 2}, path)
    assert names_in(tmp_path) == ["a.pth"]
    assert read_checkpoint(path) == {"iteration": 1}


def test_a_link_at_the_name_of_the_partial_file_is_not_followed(tmp_path, monkeypatch):
    target = tmp_path / "target"
    target.write_text("original")
    monkeypatch.setattr("secrets.token_hex", lambda size: "guessed")
    for name in (".model_x.pth.partial", ".model_x.pth.guessed.partial"):
        (tmp_path / name).symlink_to(target)
    with pytest.raises(OSError, match="File exists"):
        save_atomic({"a": torch.zeros(3)}, tmp_path / "model_x.pth")
    assert target.read_text() == "original"
    monkeypatch.undo()
    save_atomic({"a": torch.zeros(3)}, tmp_path / "model_x.pth")
    assert target.read_text() == "original"
    assert not (tmp_path / "model_x.pth").is_symlink()


def test_the_home_folder_in_a_path_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_atomic({"a": torch.ones(3)}, "~/model.pth")
    assert (tmp_path / "model.pth").is_file()
    assert read_checkpoint("~/model.pth")["a"].sum() == 3
