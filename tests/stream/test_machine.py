"""From what Ray says of its nodes to the machine that a plan is for."""

import pytest
import ray

from trimtab.core.errors import ConfigError
from trimtab.models.hardware import GPUS
from trimtab.stream.machine import known_machine, machine_from, ray_machine

GIB = 2**30


def node(gpu: float = 0, kind: str = "", *, cpu: float = 16, alive: bool = True) -> dict:
    resources = {"CPU": cpu, "GPU": gpu, "memory": 64.0 * GIB, "node:10.0.0.1": 1.0}
    if kind:
        resources[f"accelerator_type:{kind}"] = 1.0
    return {"Alive": alive, "Resources": {k: v for k, v in resources.items() if v}}


def no_probe(name: str) -> int:
    raise AssertionError(f"{name} need not be asked")


def test_cards_of_all_living_nodes_count() -> None:
    nodes = [node(cpu=0), node(8, "H100"), node(8, "H100"), node(8, "H100", alive=False)]
    found = machine_from(nodes, "", no_probe)
    assert (found.gpu, found.num_gpus, found.gpus_per_node) == (GPUS["h100-80gb"], 16, 8)
    assert (found.num_nodes, found.host_bytes, found.cores) == (2, 64 * GIB, 16)


def test_the_kind_with_most_memory_counts() -> None:
    nodes = [node(8, "L40S"), node(4, "H200"), node(1, "H100")]
    assert machine_from(nodes, "", no_probe).name == "4 x h200-141gb"


@pytest.mark.parametrize(("memory", "kind"), [(39 * GIB, "a100-40gb"), (79 * GIB, "a100-80gb")])
def test_an_a100_is_asked_for_its_memory(memory: int, kind: str) -> None:
    found = machine_from([node(8, "A100")], "", lambda name: memory)
    assert found.gpu == GPUS[kind]


def test_an_unknown_card_is_planned_by_its_memory() -> None:
    found = machine_from([node(2, "T4"), node(2, "")], "", lambda name: 15 * GIB)
    assert found.gpu is not None
    assert (found.gpu.kind, found.gpu.memory, found.num_gpus) == ("t4", 15 * GIB, 2)


def test_a_cluster_without_cards_is_a_cpu() -> None:
    found = machine_from([node(cpu=0), node(cpu=4)], "", no_probe)
    assert (found.gpu, found.num_gpus, found.cores) == (None, 0, 4)


def test_a_cluster_that_starts_its_machines_later_says_what_they_are() -> None:
    head = node(cpu=0)
    with pytest.raises(ConfigError, match="TRIMTAB_GPU=KIND:N"):
        machine_from([head], "", no_probe)
    found = machine_from([head], "a100-80gb:32", no_probe)
    assert (found.name, found.gpus_per_node) == ("32 x a100-80gb", 8)
    with pytest.raises(ConfigError, match="KIND:N"):
        machine_from([head], "a100", no_probe)


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_the_local_ray_is_a_machine() -> None:
    found = ray_machine(1e9)
    assert found.cores == ray.cluster_resources()["CPU"]
    assert found.host_bytes > GIB
    assert found.read_rate == 1e9


def test_a_plan_for_machines_elsewhere_needs_no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("TRIMTAB_GPU", "h100-80gb:16")
    with known_machine() as found:
        assert (found.gpu, found.num_gpus, found.gpus_per_node) == (GPUS["h100-80gb"], 16, 8)
        assert found.cores == 0
    monkeypatch.setenv("TRIMTAB_GPU", "abacus")
    with pytest.raises(ConfigError, match="abacus"), known_machine():
        pass
