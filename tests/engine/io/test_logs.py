import logging

import pytest

from detrex_lite.config import ConfigError
from detrex_lite.engine.io.logs import run_logging

logger = logging.getLogger("detrex_lite.engine.test")


def test_the_main_process_logs_everything_and_other_processes_log_warnings(tmp_path, monkeypatch):
    for rank in (0, 1, 2):
        monkeypatch.setattr("detrex_lite.distributed.rank", lambda rank=rank: rank)
        with run_logging(tmp_path / "new" / "folder"):
            logger.info("all is well")
            if rank < 2:
                logger.warning("an image is missing")
    folder = tmp_path / "new" / "folder"
    assert sorted(path.name for path in folder.iterdir()) == ["log.rank1.txt", "log.txt"]
    assert "all is well" in (folder / "log.txt").read_text()
    log_of_rank_1 = (folder / "log.rank1.txt").read_text()
    assert "WARNING an image is missing" in log_of_rank_1
    assert "all is well" not in log_of_rank_1


def test_a_log_folder_that_cannot_be_created_is_named(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(ConfigError, match=r"train\.output_dir=.*file.* cannot be used"),
        run_logging(tmp_path / "file/x"),
    ):
        pass
