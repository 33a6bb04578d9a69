"""Downloads that are cut, resumed, refused and never answered, from a real server on loopback."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest
from ansible_collections.magi.models.plugins.module_utils._install.download import DownloadError, download, fetch
from ansible_collections.magi.models.tests.unit.plugins.module_utils.release_server import serving

CONTENT = bytes(range(256)) * 4096


@pytest.fixture
def upstream():
    with serving() as server:
        server.publish("b1", CONTENT, name="file")
        yield server


def get(upstream, path, **more):
    download(f"http://127.0.0.1:{upstream.port}/releases/download/b1/file", path, **{"patience": 5, **more})


def test_a_file_arrives_through_a_redirect_with_progress(upstream, tmp_path):
    seen = []
    get(upstream, tmp_path / "x", on_progress=lambda received, total: seen.append((received, total)))
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert len(seen) > 1


@pytest.mark.parametrize(("ranges", "asked"), [(True, "bytes=700000-"), (False, "bytes=700000-")])
def test_a_cut_download_goes_on(upstream, tmp_path, ranges, asked):
    upstream.cuts, upstream.ranges = [700000], ranges
    get(upstream, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert upstream.asked[-1] == f"/assets/b1/file {asked}"


def test_a_later_run_goes_on_where_an_earlier_one_ended(upstream, tmp_path):
    (tmp_path / "x").write_bytes(CONTENT[:1000])
    get(upstream, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert upstream.asked == ["/releases/download/b1/file bytes=1000-", "/assets/b1/file bytes=1000-"]


def test_more_than_there_is_is_fetched_anew(upstream, tmp_path):
    (tmp_path / "x").write_bytes(CONTENT + b"more")
    get(upstream, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("cuts", "left", "tries"), [([10, 20, 30, 40], 60, 3), ([0, 100], 0, 1), ([10, 0], 10, 2)], ids=str
)
def test_a_server_that_cuts_again_and_again_is_given_up(upstream, tmp_path, cuts, left, tries):
    upstream.cuts = list(cuts)
    with pytest.raises(DownloadError, match=r"ended after \d+ of 1048576 bytes|bytes read, \d+ more"):
        get(upstream, tmp_path / "x")
    assert (tmp_path / "x").stat().st_size == left
    assert len([path for path in upstream.asked if path.startswith("/assets/")]) == tries


def test_a_file_that_is_not_there_is_not_tried_again(upstream, tmp_path):
    with pytest.raises(DownloadError, match="HTTP 404"):
        download(f"http://127.0.0.1:{upstream.port}/releases/download/b1/none", tmp_path / "x", patience=5)
    assert len(upstream.asked) == 1
    assert not (tmp_path / "x").exists()


def test_a_silent_server_is_given_up(upstream, tmp_path):
    upstream.silent = "/assets"
    start = time.monotonic()
    with pytest.raises(DownloadError, match="timed out"):
        get(upstream, tmp_path / "x", patience=0.5)
    assert time.monotonic() - start < 3


def test_an_api_that_answers_in_drops_is_given_up():
    """Each byte comes in time, but not the whole answer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip():
            connection, _address = listener.accept()
            with connection, contextlib.suppress(OSError):  # whoever asked has gone
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
                for _drop in range(20):
                    time.sleep(0.2)
                    connection.sendall(b"x")

        threading.Thread(target=drip, daemon=True).start()
        with pytest.raises(DownloadError, match="no whole answer in 1 seconds"):
            fetch(f"http://127.0.0.1:{listener.getsockname()[1]}/x", patience=0.5)


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        ((403, {"X-RateLimit-Remaining": "0"}), "HTTP 403: this address has asked too often"),
        ((403, {}), "HTTP 403 Forbidden"),
        ((500, {}), "HTTP 500"),
        ((404, {}), "HTTP 404 Not Found"),
    ],
)
def test_a_refusal_says_why(upstream, refusal, said):
    upstream.refusal = refusal
    with pytest.raises(DownloadError, match=said):
        fetch(f"{upstream.api}/releases/tags/b1", patience=5)


def test_where_nothing_listens_is_known_at_once():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(DownloadError, match="refused"):
        fetch(f"http://127.0.0.1:{port}/", patience=5)
