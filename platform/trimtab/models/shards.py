"""A checkpoint's tensors, as places in its safetensors files.

The headers say where each tensor lies, so that its bytes can be read straight into memory that is
already there, an expert into its slice of a fused tensor, again and again. `safe_open` cannot do
that: it gives every tensor new memory, in the thread that reads (which keeps it), and leaves a copy
to be made. Its format is all that is used here: eight bytes of length, a JSON header, the data.

Costs one small read per file. A file that is missing, or shorter than its header says, is an error
before anything is computed.
"""

import json
import math
from collections.abc import Sequence
from io import FileIO
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from transformers.utils.hub import cached_file, get_checkpoint_shard_files

from trimtab.core.errors import ModelError
from trimtab.models.rawfile import read_at

SINGLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
DTYPES: Final = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_AGAIN: Final = "Download or save the checkpoint again."
_MOST_HEADER: Final = 100_000_000


class Stored(NamedTuple):
    """A tensor in a file."""

    key: str
    """What the checkpoint calls it."""
    file: Path
    """Where it lies."""
    start: int
    """Bytes before it."""
    dtype: torch.dtype
    """As it is stored."""
    shape: tuple[int, ...]
    """As it is stored."""

    @property
    def nbytes(self) -> int:
        """Its size in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


class Reader:
    """Reads stored tensors, and counts the bytes. One thread at a time."""

    def __init__(self) -> None:
        self.bytes_read = 0
        self._open: FileIO | None = None

    def read(self, stored: Stored, memory: memoryview, offset: int = 0) -> None:
        """Fills memory with a tensor's bytes, from `offset` of them on.

        Raises:
            ModelError: the file is gone, cannot be read, or ends too early.
        """
        try:
            done = read_at(self._file(stored.file), stored.start + offset, memory)
        except OSError as error:
            raise ModelError(
                f"{stored.key} could not be read from {stored.file}: {error.strerror}. {_AGAIN}"
            ) from error
        self.bytes_read += done
        if done < len(memory):
            raise ModelError(
                f"{stored.key} must be {stored.nbytes} bytes in {stored.file}, but the file ends "
                f"after {offset + done} of them. {_AGAIN}"
            )

    def close(self) -> None:
        """Lets go of the file that was read last."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _file(self, path: Path) -> FileIO:
        if self._open is None or self._open.name != path:
            self.close()
            self._open = FileIO(path)  # neighbours in a block are mostly neighbours in a file
        return self._open


def checkpoint_files(model: str, revision: str | None = None) -> list[Path]:
    """The safetensors files of a folder, or of a hub model as its local snapshot.

    Raises:
        ModelError: there are none.
    """
    folder = Path(model).expanduser()
    where = str(folder) if folder.is_dir() else model
    hub: dict[str, Any] = {} if folder.is_dir() else {"revision": revision}
    index = cached_file(where, INDEX, _raise_exceptions_for_missing_entries=False, **hub)
    if index is not None:
        return [Path(f) for f in get_checkpoint_shard_files(where, index, **hub)[0]]
    single = cached_file(where, SINGLE, _raise_exceptions_for_missing_entries=False, **hub)
    if single is None:
        raise ModelError(
            f"A model whose weights stream must have {SINGLE} or {INDEX}, but {model} has neither. "
            "Save it with `save_pretrained`, or set `source: resident`."
        )
    return [Path(single)]


def read_headers(files: Sequence[Path]) -> dict[str, Stored]:
    """Every tensor of the files, by its key.

    Raises:
        ModelError: a file is missing, is not safetensors, or is shorter than its header says.
    """
    found: dict[str, Stored] = {}
    for file in files:
        for stored in _header(file):
            found[stored.key] = stored
    return found


def _header(file: Path) -> list[Stored]:
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(length) if length < _MOST_HEADER else b"")
            size = opened.seek(0, 2)
        stored = [
            _stored(key, entry, file, 8 + length)
            for key, entry in header.items()
            if key != "__metadata__"
        ]
    except OSError as error:
        raise ModelError(
            f"The checkpoint's file {file} cannot be read: {error.strerror}. {_AGAIN}"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{file} must be a safetensors file, but its header is not one. {_AGAIN}"
        ) from error
    for tensor in stored:
        if tensor.start + tensor.nbytes > size:
            raise ModelError(
                f"{tensor.key} must end at byte {tensor.start + tensor.nbytes} of {file}, but the "
                f"file has only {size}. {_AGAIN}"
            )
    return stored


def _stored(key: str, entry: dict[str, Any], file: Path, data: int) -> Stored:
    start, end = entry["data_offsets"]
    stored = Stored(key, file, data + start, DTYPES[entry["dtype"]], tuple(entry["shape"]))
    if end - start != stored.nbytes:
        raise ValueError("a tensor's size is not what its shape and dtype say")
    return stored
