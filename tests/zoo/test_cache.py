import hashlib
from pathlib import Path

import pytest

from detrex_lite.zoo import Checkpoint, ZooError, cache_folder, cached_path, load_zoo, obtain


@pytest.fixture
def zoo(small_zoo):
    return load_zoo([small_zoo.table])


def test_the_cache_folder_is_set_by_a_variable_or_is_in_the_home_folder(monkeypatch):
    monkeypatch.setenv("DETREX_CACHE", "~/models")
    assert cache_folder() == Path.home() / "models" / "checkpoints"
    monkeypatch.setenv("DETREX_CACHE", "")
    assert cache_folder() == Path.home() / ".cache" / "detrex_lite" / "checkpoints"


def test_a_checkpoint_is_downloaded_once(zoo, small_zoo):
    sha256 = hashlib.sha256(small_zoo.checkpoints["dino"]).hexdigest()
    for _ in range(2):
        assert obtain(zoo["small_dino"]) == (cache_folder() / "small_dino.pth", sha256)
    assert len(small_zoo.server.requests) == 1


def test_a_file_with_another_hash_raises_an_error(zoo, small_zoo):
    small_zoo.server.add("dino.pth", b"something else")
    with pytest.raises(ZooError, match="small_dino: .*is not the published file"):
        obtain(zoo["small_dino"])


def test_the_error_for_a_failed_download_says_what_to_do(zoo):
    entry = zoo["missing"]
    with pytest.raises(ZooError) as info:
        obtain(entry)
    for part in ("HTTP 404", str(cached_path(entry)), "DETREX_CACHE", entry.source, "--weights FILE"):
        assert part in str(info.value)


def test_a_checkpoint_to_download_by_hand_is_never_requested(zoo, small_zoo):
    entry = zoo["by_hand"]
    with pytest.raises(ZooError, match=f"{entry.page}.* opened .*{cached_path(entry)}"):
        obtain(entry)
    cached_path(entry).parent.mkdir(parents=True)
    cached_path(entry).write_bytes(b"by hand")
    assert obtain(entry) == (cached_path(entry), hashlib.sha256(b"by hand").hexdigest())
    cached_path(entry).write_bytes(b"changed")
    with pytest.raises(ZooError, match="by_hand: .*was changed since"):
        obtain(entry)
    assert small_zoo.server.requests == []


def test_a_missing_file_of_the_user_raises_an_error(tmp_path):
    with pytest.raises(ZooError, match="there is no file .*model.pth"):
        Checkpoint.of(tmp_path / "model.pth")
