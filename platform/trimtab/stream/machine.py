"""What a Ray cluster is made of, as the plan wants to know it.

The kind of card that the cluster has most memory of counts; a plan is for like machines. Ray names
a card by its model only ("A100"), so where the model leaves the memory open, or is none that we
know, one card is asked. A cluster that starts its machines when work asks for them may have none
yet: TRIMTAB_GPU says what it will have (`a100-80gb:32`), and then nothing else is looked at.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import ray
import torch

from trimtab.core.errors import ConfigError
from trimtab.models.hardware import GPUS, READ_RATE, Gpu, Machine, machine_of
from trimtab.stream.session import ray_session

VARIABLE: Final = "TRIMTAB_GPU"
"""Names the cards of a cluster that has not started them yet."""
_KINDS: Final = {
    "H100": "h100-80gb",
    "H200": "h200-141gb",
    "A100-80G": "a100-80gb",
    "A100-40G": "a100-40gb",
    "L40S": "l40s-48gb",
    "B200": "b200-180gb",
    "GeForce-RTX-4090": "rtx-4090-24gb",
}
"""Ray's name of a card -> ours."""
_TYPE: Final = "accelerator_type:"
_NEAR: Final = 0.1
"""A card of a known kind has its memory up to this share."""

Probe = Callable[[str], int]
"""Ray's name of a card -> its bytes."""


class _Cards(NamedTuple):
    name: str
    per_node: list[int]


def ray_machine(read_rate: float = READ_RATE) -> Machine:
    """The machine or cluster that this process is connected to.

    Args:
        read_rate: bytes a second that storage gives one node.

    Raises:
        ConfigError: the cluster has no worker now, or TRIMTAB_GPU names an unknown card.
    """
    return machine_from(ray.nodes(), os.environ.get(VARIABLE, ""), _ask_a_card, read_rate)


@contextmanager
def known_machine() -> Iterator[Machine]:
    """The machine that a run started here would be on.

    Ray is up inside where it has to be asked (a cluster, or a GPU); a machine without either is
    known without it, and TRIMTAB_GPU makes plans for machines that are elsewhere.

    Raises:
        ConfigError: as `ray_machine`.
    """
    if os.environ.get("RAY_ADDRESS") or ray.is_initialized() or torch.cuda.is_available():
        with ray_session():
            yield ray_machine()
        return
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if named := os.environ.get(VARIABLE):
        yield machine_of(named, memory, cores=0)
        return
    yield Machine(None, 0, 0, memory, cores=os.cpu_count() or 1)


def machine_from(
    nodes: Sequence[Mapping[str, Any]], named: str, probe: Probe, read_rate: float = READ_RATE
) -> Machine:
    """A machine from what Ray says of its nodes.

    Args:
        nodes: as `ray.nodes()` gives them.
        named: the value of TRIMTAB_GPU.
        probe: asks a card for its memory.
        read_rate: bytes a second that storage gives one node.

    Raises:
        ConfigError: no node can work, or `named` is not known.
    """
    found = [dict(node["Resources"]) for node in nodes if node["Alive"]]
    working = [one for one in found if one.get("CPU", 0) > 0 or one.get("GPU", 0) > 0]
    host = int(max((one.get("memory", 0) for one in working), default=0))
    cores = int(max((one.get("CPU", 0) for one in working), default=0))
    if named:
        return machine_of(named, host, read_rate, cores)
    if not working:
        raise ConfigError(
            "The Ray cluster has no node that runs tasks now, so nothing can be planned for it. "
            f"Say what it will have with {VARIABLE}=KIND:N, for example {VARIABLE}=h100-80gb:8."
        )
    cards = [(_gpu(kind.name, probe), kind.per_node) for kind in _cards(working)]
    if not cards:
        return Machine(None, 0, 0, host, read_rate, max(1, cores))
    gpu, per_node = max(cards, key=lambda card: card[0].memory * sum(card[1]))
    return Machine(gpu, sum(per_node), max(per_node), host, read_rate, max(1, cores))


def _cards(nodes: Sequence[Mapping[str, Any]]) -> list[_Cards]:
    by_name: dict[str, list[int]] = {}
    for node in nodes:
        if node.get("GPU", 0) >= 1:
            names = sorted(key.removeprefix(_TYPE) for key in node if key.startswith(_TYPE))
            known = [name for name in names if name in _KINDS]
            by_name.setdefault((known or names or [""])[0], []).append(int(node["GPU"]))
    return [_Cards(name, counts) for name, counts in by_name.items()]


def _gpu(name: str, probe: Probe) -> Gpu:
    if name in _KINDS:
        return GPUS[_KINDS[name]]
    memory = probe(name)
    for gpu in GPUS.values():
        if gpu.kind.startswith(name.lower()) and abs(gpu.memory / memory - 1) < _NEAR and name:
            return gpu
    # Rates of an unknown card: the A100's, so that times are of the right order at least.
    return GPUS["a100-80gb"]._replace(kind=name.lower() or "gpu", memory=memory)


def _ask_a_card(name: str) -> int:
    share = {f"{_TYPE}{name}": 0.001} if name else {}
    return ray.get(ray.remote(num_cpus=0, num_gpus=0.01, resources=share)(_memory).remote())


def _memory() -> int:
    return torch.cuda.get_device_properties(0).total_memory
