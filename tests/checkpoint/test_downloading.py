import errno
import hashlib
import multiprocessing
import socket
import sys
import threading
from types import SimpleNamespace

import pytest

from detrex_lite.checkpoint import DownloadError, download, downloading, verify_file

from .file_server import file_server

CONTENT = bytes(range(256)) * 4096
CHANGED_CONTENT = CONTENT[::-1]
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(downloading, "WAIT", 0.0)
    with file_server() as server:
        yield server


def names_in(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def ranges(server):
    return [requested for _, requested in server.requests]


def interrupt(server, path, url, resumable=True):
    """Start a download that fails half-way."""
    server.files["/model.pth"].cuts = [HALF, *[0 if resumable else HALF] * downloading.ATTEMPTS]
    with pytest.raises(DownloadError, match="ended after 524288 of 1048576 bytes"):
        download(url, path)
    assert not path.exists()
    server.requests.clear()
    server.files["/model.pth"].cuts = []


def test_a_file_is_downloaded_and_its_hash_is_recorded(server, tmp_path):
    path = tmp_path / "new" / "folder" / "model.pth"
    assert download(server.add("model.pth", CONTENT), path) == SHA256
    assert path.read_bytes() == CONTENT
    assert names_in(path.parent) == ["model.pth", "model.pth.sha256"]
    assert (path.parent / "model.pth.sha256").read_text() == f"{SHA256}  model.pth\n"


def test_an_existing_file_is_verified_and_not_downloaded_again(server, tmp_path):
    path = tmp_path / "model.pth"
    url = server.add("model.pth", CONTENT)
    assert [download(url, path) for _ in range(2)] == [SHA256, SHA256]
    assert len(server.requests) == 1
    path.write_bytes(CHANGED_CONTENT)
    with pytest.raises(DownloadError, match="was changed since it was first used"):
        download(url, path)


@pytest.mark.parametrize("published", [SHA256, SHA256[:8]])
def test_the_published_hash_is_compared(server, tmp_path, published):
    path = tmp_path / "model.pth"
    assert download(server.add("model.pth", CONTENT), path, sha256=published) == SHA256
    url = server.add("other.pth", CHANGED_CONTENT)
    with pytest.raises(DownloadError, match=f"not the published file.*{published}.*removed"):
        download(url, tmp_path / "other.pth", sha256=published)
    assert names_in(tmp_path) == ["model.pth", "model.pth.sha256"]
    path.write_bytes(CHANGED_CONTENT)
    with pytest.raises(DownloadError, match=f"model.pth is not the published file.*{published}"):
        verify_file(path, sha256=published)


def test_a_download_resumes_after_a_lost_connection(server, tmp_path):
    url = server.add("model.pth", CONTENT, cuts=[100_000, 200_000])
    assert download(url, tmp_path / "model.pth") == SHA256
    assert ranges(server) == [None, "bytes=100000-", "bytes=300000-"]


@pytest.mark.parametrize("tag", [{}, {"etag": None, "modified": "Mon, 01 Aug 2022 00:00:00 GMT"}])
def test_a_later_call_resumes_an_interrupted_download(server, tmp_path, tag):
    path = tmp_path / "model.pth"
    url = server.add("model.pth", CONTENT, **tag)
    interrupt(server, path, url)
    assert download(url, path) == SHA256
    assert ranges(server) == [f"bytes={HALF}-"]
    assert names_in(tmp_path) == ["model.pth", "model.pth.sha256"]


@pytest.mark.parametrize(
    "tag", [{"etag": None}, {"etag": 'W/"weak"'}, {"ranges": False}], ids=["no tag", "weak tag", "no ranges"]
)
def test_a_download_that_cannot_be_resumed_safely_starts_from_scratch(server, tmp_path, tag):
    path = tmp_path / "model.pth"
    url = server.add("model.pth", CONTENT, **tag)
    interrupt(server, path, url, resumable=False)
    assert download(url, path) == SHA256
    assert path.read_bytes() == CONTENT


def test_a_file_that_changed_on_the_server_is_downloaded_from_scratch(server, tmp_path):
    path = tmp_path / "model.pth"
    interrupt(server, path, server.add("model.pth", CONTENT))
    download(server.add("model.pth", CHANGED_CONTENT), path)
    assert path.read_bytes() == CHANGED_CONTENT


def test_a_file_that_shrank_on_the_server_is_downloaded_from_scratch(server, tmp_path):
    path = tmp_path / "model.pth"
    interrupt(server, path, server.add("model.pth", CONTENT, etag='"same"'))
    download(server.add("model.pth", CONTENT[:1000], etag='"same"'), path)
    assert path.read_bytes() == CONTENT[:1000]
    assert ranges(server) == [f"bytes={HALF}-", None]


def test_a_response_with_the_wrong_range_is_discarded(server, tmp_path):
    path = tmp_path / "model.pth"
    url = server.add("model.pth", CONTENT, shift=-1)
    interrupt(server, path, url, resumable=False)
    assert download(url, path) == SHA256
    assert ranges(server) == [f"bytes={HALF}-", None]


def test_a_complete_download_is_not_repeated_after_an_interrupted_check(server, tmp_path, monkeypatch):
    path = tmp_path / "model.pth"
    url = server.add("model.pth", CONTENT)

    def interrupted(file):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(downloading, "hash_file", interrupted)
        with pytest.raises(KeyboardInterrupt):
            download(url, path)
    assert download(url, path) == SHA256
    assert len(server.requests) == 1


@pytest.mark.parametrize(("status", "message"), [(404, "404"), (403, "refuses it.*403")])
def test_client_errors_are_raised_without_retries(server, tmp_path, status, message):
    url = server.add("model.pth", CONTENT, status=status)
    with pytest.raises(DownloadError, match=message):
        download(url, tmp_path / "model.pth")
    assert len(server.requests) == 1
    assert names_in(tmp_path) == []


def test_requests_are_retried_after_server_errors(server, tmp_path):
    url = server.add("model.pth", CONTENT, status=503)
    with pytest.raises(DownloadError, match="503"):
        download(url, tmp_path / "model.pth")
    assert len(server.requests) == downloading.ATTEMPTS


@pytest.mark.parametrize(
    ("content", "content_type"),
    [(b"\n<!DOCTYPE html><html>", "application/octet-stream"), (b"Sign in", "text/html; charset=utf-8")],
)
def test_a_web_page_instead_of_a_checkpoint_raises_an_error(server, tmp_path, content, content_type):
    url = server.add("model.pth", content, content_type=content_type)
    with pytest.raises(DownloadError, match="web page instead of a checkpoint"):
        download(url, tmp_path / "model.pth")
    assert names_in(tmp_path) == []


def test_a_full_disk_raises_an_error_and_keeps_the_received_bytes(server, tmp_path, monkeypatch):
    path = tmp_path / "model.pth"
    url = server.add("model.pth", CONTENT)
    write = downloading._write

    def fill(file, data):
        write(file, data[:1000])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(downloading, "_write", fill)
        with pytest.raises(DownloadError, match="disk is full"):
            download(url, path)
    assert len(server.requests) == 1
    assert download(url, path) == SHA256
    assert ranges(server) == [None, "bytes=1000-"]


def test_too_little_disk_space_raises_an_error_before_the_download(server, tmp_path, monkeypatch):
    url = server.add("model.pth", CONTENT)
    monkeypatch.setattr(downloading.shutil, "disk_usage", lambda folder: SimpleNamespace(free=len(CONTENT) - 1))
    with pytest.raises(DownloadError, match=r"1 MiB more.*MiB free: "):
        download(url, tmp_path / "model.pth")
    monkeypatch.setattr(downloading.shutil, "disk_usage", lambda folder: SimpleNamespace(free=len(CONTENT)))
    assert download(url, tmp_path / "model.pth") == SHA256


def test_a_folder_that_cannot_be_written_raises_an_error(server, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DownloadError, match="cannot be written"):
        download(server.add("model.pth", CONTENT), tmp_path / "file" / "model.pth")


def test_a_failed_connection_raises_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DownloadError, match="connection was lost or refused"):
        download(f"http://127.0.0.1:{port}/model.pth", tmp_path / "model.pth")

    def no_name(*arguments, **settings):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_name)
    with pytest.raises(DownloadError, match="no connection to the server.*not known"):
        download("http://example.invalid/model.pth", tmp_path / "model.pth")


def test_a_server_that_does_not_respond_raises_an_error(server, tmp_path):
    gate = threading.Event()
    url = server.add("model.pth", CONTENT, gate=gate)
    try:
        with pytest.raises(DownloadError, match="no answer for 0.1 seconds"):
            download(url, tmp_path / "model.pth", patience=0.1)
    finally:
        gate.set()


def _download_in_child(url, path, started, results):
    started.set()
    results.put(download(url, path))


def test_only_one_of_two_processes_downloads(server, tmp_path):
    gate = threading.Event()
    url = server.add("model.pth", CONTENT, gate=gate)
    path = tmp_path / "model.pth"
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    results = context.Queue()
    children = []
    for _ in range(2):
        started = context.Event()
        children.append(context.Process(target=_download_in_child, args=(url, path, started, results)))
        children[-1].start()
        assert started.wait(60)
    gate.set()
    assert [results.get(timeout=60) for _ in children] == [SHA256, SHA256]
    for child in children:
        child.join(60)
    assert len(server.requests) == 1
