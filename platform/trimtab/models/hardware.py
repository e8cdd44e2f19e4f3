"""What models run on: cards by their datasheets, and a machine or cluster made of them.

Every rate is as its maker states it; what a program reaches of it is a factor of its own below,
which is an assumption until `benchmarks/gpu.py` has measured it. Memory is what CUDA offers a
process, which is a little less than the name of the card says.
"""

from typing import Final, NamedTuple

from trimtab.core.errors import ConfigError

_GIB: Final = 2**30

COMPUTE_EFFICIENCY: Final = 0.5
"""Share of the stated matrix rate that a forward reaches. Assumed .5 until `benchmarks/gpu.py`
measures it."""
BANDWIDTH_EFFICIENCY: Final = 0.7
"""Share of the stated memory bandwidth that is reached. Assumed .7 until `benchmarks/gpu.py`
measures it."""
CPU_FLOPS: Final = 1.2e11
"""bfloat16 operations a second of one core with AMX. Measured: LOADING 3, 23,716 tokens through
1.2e9 parameters in 480 s."""
CPU_BANDWIDTH: Final = 2e10
"""Bytes a second of host memory. Assumed."""
READ_RATE: Final = 2e9
"""Bytes a second that storage gives one node. Assumed; an option wherever it is used."""
MARGIN: Final = 1.1
"""What is needed is multiplied by this before it is compared with what is there."""
CONTEXT_BYTES: Final = _GIB // 2
"""What a process takes of a card before it holds anything: CUDA's context, its libraries."""


class Gpu(NamedTuple):
    """One card."""

    kind: str
    """What `--gpu` calls it."""
    memory: int
    """Bytes that a process can have."""
    flops: float
    """Stated bfloat16 operations a second, dense."""
    bandwidth: float
    """Stated bytes a second of its memory."""
    link: float
    """Stated bytes a second from host memory, one way."""
    per_node: int
    """Cards that one machine usually has."""


GPUS: Final = {
    gpu.kind: gpu
    for gpu in (
        # NVIDIA H100 datasheet, SXM: 1,979 TFLOPS with sparsity, 3.35 TB/s, PCIe 5 x16 128 GB/s
        Gpu("h100-80gb", 79 * _GIB, 989e12, 3.35e12, 64e9, 8),
        # NVIDIA H200 datasheet, SXM: 1,979 TFLOPS with sparsity, 4.8 TB/s, PCIe 5 x16 128 GB/s
        Gpu("h200-141gb", 139 * _GIB, 989e12, 4.8e12, 64e9, 8),
        # NVIDIA A100 datasheet, SXM 80 GB: 312 TFLOPS, 2,039 GB/s, PCIe 4 x16 64 GB/s
        Gpu("a100-80gb", 79 * _GIB, 312e12, 2.039e12, 32e9, 8),
        # NVIDIA A100 datasheet, SXM 40 GB: 312 TFLOPS, 1,555 GB/s, PCIe 4 x16 64 GB/s
        Gpu("a100-40gb", 39 * _GIB, 312e12, 1.555e12, 32e9, 8),
        # NVIDIA L40S datasheet: 733 TFLOPS with sparsity, 864 GB/s, PCIe 4 x16 64 GB/s; ECC on
        Gpu("l40s-48gb", 44 * _GIB, 362e12, 0.864e12, 32e9, 8),
        # NVIDIA DGX B200 datasheet, an eighth: 1,440 GB, 64 TB/s, 36 PFLOPS with sparsity, PCIe 5
        Gpu("b200-180gb", 178 * _GIB, 2_250e12, 8.0e12, 64e9, 8),
        # NVIDIA Ada whitepaper, RTX 4090: 165.2 TFLOPS with float32 sums, 1,008 GB/s, PCIe 4 x16
        Gpu("rtx-4090-24gb", 23 * _GIB, 165e12, 1.008e12, 32e9, 1),
    )
}
"""By kind. The rates with sparsity are halved."""
CPU: Final = "cpu"
"""What `--gpu` calls a machine without one."""


class Machine(NamedTuple):
    """A machine, or a cluster of like ones."""

    gpu: Gpu | None
    """Its cards; None for a CPU."""
    num_gpus: int
    """Cards in all."""
    gpus_per_node: int
    """Cards of one node; a replica never spans two."""
    host_bytes: int
    """Memory of one node."""
    read_rate: float = READ_RATE
    """Bytes a second that storage gives one node."""
    cores: int = 1
    """Cores of one node; they matter without cards only."""

    @property
    def name(self) -> str:
        """In words: `8 x h100-80gb`."""
        return f"{self.num_gpus} x {self.gpu.kind}" if self.gpu else f"CPU, {self.cores} cores"

    @property
    def num_nodes(self) -> int:
        """Nodes that the cards are on."""
        return max(1, -(-self.num_gpus // max(1, self.gpus_per_node)))


def machine_of(
    asked: str, host_bytes: int, read_rate: float = READ_RATE, cores: int = 1
) -> Machine:
    """The machine that `KIND` or `KIND:N` names; without a number one node of the kind.

    Args:
        asked: a key of `GPUS`, or `cpu`.
        host_bytes: memory of one node.
        read_rate: bytes a second that storage gives one node.
        cores: cores of one node.

    Raises:
        ConfigError: an unknown kind, or a number that is none.
    """
    kind, colon, number = asked.partition(":")
    if kind == CPU:
        return Machine(None, 0, 0, host_bytes, read_rate, cores)
    if kind not in GPUS or (colon and not (number.isdecimal() and int(number) > 0)):
        raise ConfigError(
            f"A GPU must be KIND or KIND:N with N of at least 1, but got {asked!r}. "
            f"Kinds: {', '.join((*GPUS, CPU))}."
        )
    gpu = GPUS[kind]
    count = int(number) if colon else gpu.per_node
    return Machine(gpu, count, min(count, max(8, gpu.per_node)), host_bytes, read_rate, cores)
