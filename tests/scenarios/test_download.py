import hashlib
import json
import socket
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from trimtab.core.errors import DataError, OutputError
from trimtab.scenarios.download import Archive, download
from trimtab.scenarios.socialchem import read


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder; `/cut/NAME` promises all of NAME and sends half."""

    def do_GET(self) -> None:
        if not self.path.startswith("/cut/"):
            return super().do_GET()
        body = (Path(self.directory) / self.path.removeprefix("/cut/")).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2])
        return None

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Address of a server on this machine that serves `tmp_path/public`."""
    (tmp_path / "public").mkdir()
    handler = partial(Quiet, directory=str(tmp_path / "public"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


@pytest.fixture
def archive(server: str, tmp_path: Path, write_table: Callable[..., Path]) -> Archive:
    """A small archive on that server."""
    zipped = tmp_path / "public" / "small.zip"
    with zipfile.ZipFile(zipped, "w") as file:
        file.write(write_table({}, {}), "small/small.tsv")
        file.writestr("small/README.md", "read me")
    digest = hashlib.sha256(zipped.read_bytes()).hexdigest()
    return Archive(f"{server}/small.zip", digest, "small.tsv")


def test_the_archive_is_fetched_checked_and_unpacked_with_its_licence(
    archive: Archive, tmp_path: Path
) -> None:
    data = download(tmp_path / "out", archive)
    assert read(data).num_read == 2
    origin = json.loads((tmp_path / "out" / "small.tsv.origin.json").read_text())
    assert origin["sha256"] == archive.sha256
    assert origin["file_sha256"] == hashlib.sha256(data.read_bytes()).hexdigest()
    assert "CC BY-SA 4.0" in origin["licence"]


def test_an_archive_that_is_already_there_needs_no_network(
    archive: Archive, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    download(out, archive)
    (out / "small.tsv").unlink()
    (tmp_path / "public" / "small.zip").unlink()
    assert read(download(out, archive)).num_read == 2


def test_an_archive_with_another_checksum_is_refused_and_not_kept(
    archive: Archive, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=f"must have SHA-256 {'0' * 64}, but what came has"):
        download(tmp_path / "out", archive._replace(sha256="0" * 64))
    assert not list((tmp_path / "out").iterdir())


def test_a_connection_cut_half_way_is_an_error_and_nothing_is_kept(
    archive: Archive, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"SHA-256|could not be fetched"):
        download(tmp_path / "out", archive._replace(url=archive.url.replace("small", "cut/small")))
    assert not list((tmp_path / "out").iterdir())


def test_an_archive_without_the_file_is_refused(archive: Archive, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must contain other\.tsv, but has small/small\.tsv"):
        download(tmp_path / "out", archive._replace(member="other.tsv"))


def test_without_a_network_the_error_says_what_to_fetch_and_where_to_put_it(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/small.zip"
        with pytest.raises(DataError) as caught:
            download(tmp_path / "out", Archive(url, "0" * 64, "small.tsv"))
    assert url in str(caught.value)
    assert f"put it at {tmp_path / 'out' / 'small.zip'}" in str(caught.value)
    assert not list((tmp_path / "out").iterdir())


def test_an_address_that_is_gone_is_an_error_that_says_so(archive: Archive, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="404"):
        download(tmp_path / "out", archive._replace(url=archive.url.replace("small", "gone")))


def test_an_unwritable_folder_is_an_error(archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        download(tmp_path / "file" / "out", archive)
