"""Hidden states of all batches between one block and the next: where they stay.

On the device while they fit (2.5 M tokens x 4,096 x bf16 = 20 GB), else in the host's memory (pinned,
where there is a GPU), else in a file that is read and written batch by batch through the page cache.
Files come in twos: a block reads from one and writes to the other, so that a run that is cut short
still has the last finished block's states whole.
"""

import math
import os
import sys
from collections.abc import Sequence
from io import FileIO
from pathlib import Path
from typing import Final, Literal

import torch
from torch import Tensor

from trimtab.core.errors import ConfigError, OutputError
from trimtab.models.rawfile import bytes_of, read_at, write_at

Keep = Literal["auto", "device", "host", "disk"]
"""Where hidden states stay between blocks; `auto` is the first of the three where they take at most
half of the free memory."""
Shape = tuple[int, int, int]
"""Batch, tokens, d_model."""
SHARE: Final = 0.5
"""Of the free memory that hidden states may take; the rest is for weights and for computing."""


class StateFiles:
    """The states of all batches in two files in turn."""

    def __init__(self, folder: Path, shapes: Sequence[Shape], dtype: torch.dtype) -> None:
        self.shapes, self.dtype = shapes, dtype
        sizes = [math.prod(shape) * dtype.itemsize for shape in shapes]
        self._offsets = [sum(sizes[:i]) for i in range(len(sizes))]
        self._paths = state_paths(folder)
        self._files = [FileIO(os.open(p, os.O_RDWR | os.O_CREAT, 0o644), "r+") for p in self._paths]
        self._finished = 0  # so that what is embedded, "after layer -1", is written to the other

    @property
    def finished(self) -> int:
        """Which of the two holds the states after the last block that was ended."""
        return self._finished

    def resume(self, finished: int) -> None:
        """Takes up what an earlier run left, in the file that it named."""
        self._finished = finished

    def read(self, number: int) -> Tensor:
        """A batch's states after the last finished block, on the CPU."""
        hidden = torch.empty(self.shapes[number], dtype=self.dtype)
        done = read_at(
            self._files[self._finished], self._offsets[number], memory := bytes_of(hidden)
        )
        if done < len(memory):
            raise OutputError(
                f"{self._paths[self._finished]} was shortened while it was in use. Delete its "
                "folder and run the same command again."
            )
        return hidden

    def write(self, number: int, hidden: Tensor) -> None:
        """A batch's states after the block that is under way.

        Raises:
            OutputError: the disk is full, or cannot be written.
        """
        try:
            write_at(
                self._files[1 - self._finished],
                self._offsets[number],
                bytes_of(hidden.cpu().contiguous()),
            )
        except OSError as error:
            raise self._unwritable(error) from error

    def turn(self) -> None:
        """Ends a block: what was written is on the disk, and is what is read from now on."""
        try:
            os.fsync(self._files[1 - self._finished].fileno())
        except OSError as error:
            raise self._unwritable(error) from error
        self._finished = 1 - self._finished

    def close(self) -> None:
        """Lets go of the files; they stay."""
        for file in self._files:
            file.close()

    def _unwritable(self, error: OSError) -> OutputError:
        return OutputError(
            f"Hidden states could not be written to {self._paths[0].parent}: {error.strerror}. Free "
            f"some disk space (twice {self._offsets[-1] / 1e9:.1f} GB are needed), or choose another "
            "folder, and run the same command again."
        )


class States:
    """The hidden states of all batches, by the batch's number."""

    def __init__(
        self, keep: Keep, device: torch.device, files: StateFiles | None, every: int = 1
    ) -> None:
        """Takes no memory yet.

        Args:
            keep: where they stay; not `auto`.
            device: where blocks compute.
            files: written as well where the run can be resumed; what `disk` reads from.
            every: blocks between two savings; `disk` saves after each.
        """
        assert keep != "auto", "decided before"
        self.keep, self.device, self.files, self.every = keep, device, files, every
        self._saving = False
        self._kept: dict[int, Tensor] = {}

    def get(self, number: int) -> Tensor:
        """A batch's states, on the device."""
        if self.keep == "disk":
            assert self.files is not None, "checked by `where`"
            return self.files.read(number).to(self.device)
        hidden = self._kept[number]
        if self.keep == "device":
            return hidden
        there = torch.empty(hidden.shape, dtype=hidden.dtype, device=self.device)
        return there.copy_(hidden, non_blocking=True)

    def begin(self, layer: int) -> None:
        """Begins a block; -1 is the embedding, from which nothing is resumed."""
        due = self.keep == "disk" or (layer >= 0 and (layer + 1) % self.every == 0)
        self._saving = self.files is not None and due

    @property
    def saved_in(self) -> int | None:
        """The file in which the last block's states are whole; None if they were not saved."""
        return self.files.finished if self.files is not None and self._saving else None

    def put(self, number: int, hidden: Tensor) -> None:
        """Keeps a batch's states in the place of those before."""
        if self.files is not None and self._saving:
            self.files.write(number, hidden)
        kept = self._kept.get(number)
        if self.keep == "disk":
            return
        if kept is None and self.keep == "host":
            pinned = self.device.type == "cuda"
            kept = torch.empty(hidden.shape, dtype=hidden.dtype, pin_memory=pinned)
            self._kept[number] = kept
        if kept is None or (self.keep == "device" and kept.device != hidden.device):
            self._kept[number] = hidden
        else:  # in place: new memory for each block would leave holes between the temporaries
            # In turn with `get`'s on one stream; a block on another GPU has a stream of its own.
            kept.copy_(hidden, non_blocking=hidden.device == self.device)

    def turn(self) -> None:
        """Ends a block."""
        if self.files is not None and self._saving:
            self.files.turn()

    def resume(self, finished: int) -> None:
        """Takes up the states that an earlier run left in one of the two files."""
        assert self.files is not None, "a run without a folder is not resumed"
        self.files.resume(finished)
        if self.keep == "disk":
            return
        for number in range(len(self.files.shapes)):
            hidden = self.files.read(number)
            if self.keep == "device":
                hidden = hidden.to(self.device)
            elif self.device.type == "cuda":
                hidden = hidden.pin_memory()
            self._kept[number] = hidden


def where(keep: Keep, nbytes: int, device: torch.device, *, has_folder: bool) -> Keep:
    """Where so many bytes of hidden states stay.

    Raises:
        ConfigError: `disk` was asked for without a folder.
    """
    if keep == "disk" and not has_folder:
        raise ConfigError("Hidden states can stay on the disk only where a folder is given.")
    if keep != "auto":
        return keep
    if nbytes <= SHARE * free_memory(device):
        return "device"
    if device.type == "cuda" and nbytes <= SHARE * free_memory(torch.device("cpu")):
        return "host"
    if has_folder:
        return "disk"
    return "host" if device.type == "cuda" else "device"


def free_memory(device: torch.device) -> int:
    """Bytes that a process may still take on a device."""
    if device.type == "cuda":  # what torch keeps for its own next tensors is free too
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    fields = Path("/proc/meminfo")
    if not fields.is_file():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    lines = dict(line.split(":", 1) for line in fields.read_text("utf-8").splitlines())
    return min(int(lines["MemAvailable"].split()[0]) * 1024, _left_in_group())


def state_paths(folder: Path) -> list[Path]:
    """The two files of a folder."""
    return [folder / f"states-{turn}.bin" for turn in range(2)]


def _left_in_group(group: Path = Path("/sys/fs/cgroup")) -> int:
    """What a container may still take, page cache that can go included."""
    try:
        most = (group / "memory.max").read_text("utf-8").strip()
        used = int((group / "memory.current").read_text("utf-8"))
        lines = (group / "memory.stat").read_text("utf-8").splitlines()
    except OSError:  # no container, or one of another kind
        return sys.maxsize
    if most == "max":
        return sys.maxsize
    cached = dict(line.split() for line in lines).get("inactive_file", "0")
    return int(most) - used + int(cached)
