"""Fetches the published Social-Chemistry-101 archive, or says how to get it by hand.

The archive is checked before it is opened. Its authors publish no SHA-256: the one here was recorded
by a public project that fetched it in 2026 (27,610,699 bytes; a second project has the same size).
What was unpacked, its own SHA-256 and its licence (CC BY-SA 4.0) are noted in a file beside it, which
only people read. Nothing of the data travels with this package.

Forbes et al. 2020, arXiv 2011.00620. Cost: 28 MB fetched, 175 MB on disk.
"""

import http.client
import logging
import shutil
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from trimtab.core.errors import DataError
from trimtab.core.files import finished_file, writable_folder, write_json
from trimtab.core.hashing import file_hash

LICENCE: Final = (
    "Social-Chemistry-101 (Forbes, Hwang, Shwartz, Sap and Choi, EMNLP 2020) is licensed under "
    "CC BY-SA 4.0, https://creativecommons.org/licenses/by-sa/4.0/: name its authors, and share "
    "what you derive from it under the same licence."
)

_TIMEOUT = 60.0
"""Seconds without an answer before we give up."""
_CHUNK = 1 << 20
"""Bytes read at a time."""

_log = logging.getLogger(__name__)


class Archive(NamedTuple):
    """A zip file somewhere, and the one file in it that we want."""

    url: str
    """Where it is."""
    sha256: str
    """What its bytes must hash to, hex."""
    member: str
    """Name of the file in it, without folders."""


PUBLISHED: Final = Archive(
    url="https://storage.googleapis.com/ai2-mosaic-public/projects/social-chemistry/data/social-chem-101.zip",
    sha256="ebaa524280c53aa3dbfb2b73502b120eeb71d03523a557c659275aebb2afd95a",
    member="social-chem-101.v1.0.tsv",
)


def download(out: Path, archive: Archive = PUBLISHED) -> Path:
    """The data file, unpacked into `out` from the archive, which is fetched unless it is there.

    So an archive that was put into `out` by hand is used instead of the network.

    Args:
        out: folder for the archive, the data file and the note beside it; made if need be.
        archive: what to fetch.

    Returns:
        The path of the data file.

    Raises:
        DataError: the archive cannot be reached, is not the one expected, or lacks the file.
        OutputError: the folder cannot be written to.
    """
    writable_folder(out)
    zipped = out / archive.url.rpartition("/")[2]
    if not zipped.exists():
        fetch(archive.url, zipped, lambda path: _check(path, archive))
    _check(zipped, archive)
    data = out / archive.member
    _unpack(zipped, data)
    origin = {**archive._asdict(), "file_sha256": file_hash(data), "licence": LICENCE}
    write_json(out / f"{archive.member}.origin.json", origin)
    _log.info("%s is ready. %s", data, LICENCE)
    return data


def fetch(url: str, target: Path, check: Callable[[Path], None]) -> None:
    """Brings a file here; it is under its name only once it is whole and checked.

    Args:
        check: looks at what came, and raises what is wrong with it.

    Raises:
        DataError: it cannot be reached, or what `check` says.
        OutputError: it cannot be written.
    """
    _log.info("fetching %s", url)
    with finished_file(target) as temporary:
        with temporary.open("wb") as file:
            for chunk in _chunks(url, target):
                file.write(chunk)
        check(temporary)


def _chunks(url: str, target: Path) -> Iterator[bytes]:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as response:
            while chunk := response.read(_CHUNK):
                yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise DataError(
            f"{url} could not be fetched: {error}. Where there is no network, fetch it on another "
            f"machine, put it at {target}, and run the same command again."
        ) from error


def _check(path: Path, archive: Archive) -> None:
    found = file_hash(path)
    if found != archive.sha256:
        raise DataError(
            f"The archive from {archive.url} must have SHA-256 {archive.sha256}, but what came has "
            f"{found}. Delete it if it is still there and try again; if it stays so, the publisher "
            "has replaced it: unpack it yourself and pass the TSV with `trimtab prepare --data`."
        )


def _unpack(zipped: Path, data: Path) -> None:
    with zipfile.ZipFile(zipped) as archive:
        inside = [name for name in archive.namelist() if name.rpartition("/")[2] == data.name]
        if not inside:
            raise DataError(
                f"{zipped} must contain {data.name}, but has {', '.join(archive.namelist())}."
            )
        with (
            archive.open(inside[0]) as source,
            finished_file(data) as temporary,
            temporary.open("wb") as target,
        ):
            shutil.copyfileobj(source, target)
