"""Bytes between files and tensors' own memory: no copy in between, no mapping.

A mapped file counts its pages against the process and answers a full disk or a shortened file with
a signal that kills it; a plain read or write goes through the same page cache, leaves nothing in the
process, releases the interpreter lock while it waits, and fails with an error that has a name.
"""

from io import FileIO
from typing import Final

import torch
from torch import Tensor

MOST: Final = 1 << 30
"""Bytes in one system call; Linux stops at 2 GB."""


def bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU, to be read or written."""
    assert tensor.is_contiguous(), "rows that lie apart have no one memory"
    assert tensor.device.type == "cpu", "only the CPU's memory can be read into"
    return tensor.view(-1).view(torch.uint8).numpy().data


def read_at(file: FileIO, offset: int, memory: memoryview) -> int:
    """Fills the memory from a place in a file; the bytes read, fewer where the file ends."""
    file.seek(offset)
    done = 0
    while done < len(memory):
        count = file.readinto(memory[done : done + MOST])
        if not count:
            break
        done += count
    return done


def write_at(file: FileIO, offset: int, memory: memoryview) -> None:
    """Writes the memory to a place in a file."""
    file.seek(offset)
    done = 0
    while done < len(memory):
        done += file.write(memory[done : done + MOST]) or 0
