"""Models whose weights stream, through Ray."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient

from trimtab.core.errors import ConfigError, ModelError
from trimtab.models.card import ModelConfig
from trimtab.models.engine import Prompt, Request
from trimtab.models.hardware import Machine
from trimtab.models.plan import ModelPlan
from trimtab.store.layout import shard_path
from trimtab.store.reader import open_store
from trimtab.store.writer import Writer
from trimtab.stream.blocks import Block, to_tables
from trimtab.stream.config import DiagnoseConfig, ExtractJob, WorkerConfig
from trimtab.stream.diagnose import Outcome, diagnose
from trimtab.stream.extract import (
    SCRATCH,
    ExtractBlocks,
    calls_of,
    extract_to_store,
    source_for,
)
from trimtab.stream.scenarios import read
from trimtab.stream.tasks import Task, task

Configure = Callable[..., DiagnoseConfig]
CPU = Machine(None, 0, 0, 2**34, cores=2)


def streamed(config: DiagnoseConfig) -> tuple[ModelConfig, ...]:
    return tuple(model.model_copy(update={"source": "streamed"}) for model in config.models)


def planned(config: DiagnoseConfig) -> Task:
    config.out.mkdir(parents=True, exist_ok=True)
    return task(config.models[0], read(config.data, config.out), config, CPU)


def store_of(config: DiagnoseConfig) -> Path:
    return Writer(config.out / "activations", planned(config).identity, ("mean",)).path


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_a_streamed_model_writes_the_resident_models_store_to_the_bit(
    plain: Outcome, plain_config: DiagnoseConfig, configure: Configure
) -> None:
    config = configure(models=streamed(plain_config))
    outcome = diagnose(config)
    ours, theirs = store_of(config), store_of(plain_config)
    assert ours.name == theirs.name, "where weights come from decides no number"
    shards = {(s.block, s.sha256) for s in open_store(ours).manifest.shards}
    assert shards == {(s.block, s.sha256) for s in open_store(theirs).manifest.shards}
    assert outcome.diagnoses[0].curves == plain.diagnoses[0].curves
    assert not (ours / SCRATCH).exists()
    run = MlflowClient(outcome.tracking_uri).get_run(outcome.runs["toy-llama"])
    assert run.data.tags["block_source"] == "streamed"


def test_without_a_store_a_streamed_model_is_refused(
    plain_config: DiagnoseConfig, configure: Configure
) -> None:
    with pytest.raises(ConfigError, match="needs `store: true`"):
        diagnose(configure(models=streamed(plain_config), store=False))


def batch_of(todo: Task, job: ExtractJob) -> dict[str, Any]:
    (call,) = calls_of(todo.plan.blocks, todo.placement, job)
    (table,) = to_tables([call])
    return {"blocks": table["blocks"].to_numpy()}


def test_a_call_that_was_killed_while_writing_shards_reads_no_weight_again(
    configure: Configure, plain_config: DiagnoseConfig
) -> None:
    config = configure(models=streamed(plain_config))
    todo = planned(config)
    writer = Writer(config.out / "activations", todo.identity, ("mean",))
    source = source_for(todo.spec, todo.request, config, todo.placement)
    work, batch = ExtractBlocks(source, writer), batch_of(todo, config)
    row = work(batch)
    assert row["blocks"] == [len(todo.plan.blocks)]
    assert len(todo.plan.blocks) > 1
    path = shard_path(writer.path, "mean", 1)
    before = path.read_bytes()
    path.unlink()

    again = source_for(todo.spec, todo.request, config, todo.placement)
    ExtractBlocks(again, writer)(batch)
    assert path.read_bytes() == before
    assert again.engine.source.bytes_read == 0

    shutil.rmtree(writer.path / SCRATCH)
    path.unlink()
    ExtractBlocks(again, writer)(batch)
    assert path.read_bytes() == before
    assert again.engine.source.bytes_read > 0


@pytest.mark.parametrize(("gpus", "device"), [(0.0, "cpu"), (0.25, "auto"), (2.0, "auto")])
def test_a_worker_that_is_given_no_gpu_looks_for_none(
    plain_config: DiagnoseConfig, a_plan: ModelPlan, gpus: float, device: str
) -> None:
    """Ray hides no GPU from a worker without one, and the plan has counted on the host's memory."""
    spec = plain_config.models[0].model_copy(update={"device": "auto"})
    request = Request(layers=(0,))
    source = source_for(spec, request, plain_config, a_plan._replace(gpus_per_replica=gpus))
    assert source.spec.device == device
    on_card = spec.model_copy(update={"device": "cuda"})
    source = source_for(on_card, request, plain_config, a_plan._replace(gpus_per_replica=gpus))
    assert source.spec.device == "cuda"


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=30),
    replicas=st.integers(1, 9),
    at_once=st.integers(1, 40),
    source=st.sampled_from(["resident", "streamed"]),
)
def test_calls_hold_every_block_once_and_leave_no_replica_idle(
    sizes: list[int],
    replicas: int,
    at_once: int,
    source: str,
    a_plan: ModelPlan,
    plain_block: Block,
) -> None:
    job = ExtractJob(workers=WorkerConfig(replicas=replicas))
    blocks = [
        plain_block._replace(number=i, prompts=[Prompt([1], "a")] * n) for i, n in enumerate(sizes)
    ]
    calls = calls_of(blocks, a_plan._replace(source=source, block_prompts=at_once), job)
    assert [block.number for call in calls for block in call] == list(range(len(blocks)))
    for call in calls:
        if source == "resident":
            assert len(call) == 1
        else:
            assert len(call) <= -(-len(blocks) // replicas)
            assert len(call) == 1 or sum(len(block.prompts) for block in call) <= at_once


@pytest.fixture(scope="module")
def plain_block(tmp_path_factory: pytest.TempPathFactory, plain_config: DiagnoseConfig) -> Block:
    out = tmp_path_factory.mktemp("blocks")
    return planned(plain_config.model_copy(update={"out": out})).plan.blocks[0]


@pytest.fixture(scope="module")
def a_plan(tmp_path_factory: pytest.TempPathFactory, plain_config: DiagnoseConfig) -> ModelPlan:
    out = tmp_path_factory.mktemp("placed")
    return planned(plain_config.model_copy(update={"out": out})).placement


def test_a_model_that_fits_nowhere_is_refused_before_ray_is_started(
    tmp_path: Path, plain_config: DiagnoseConfig
) -> None:
    config = plain_config.model_copy(update={"out": tmp_path / "out"})
    config.out.mkdir()
    with pytest.raises(ModelError, match="must fit the host's"):
        task(config.models[0], read(config.data, config.out), config, CPU._replace(host_bytes=9))


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_ray_is_asked_for_exactly_what_the_plan_says(
    monkeypatch: pytest.MonkeyPatch, configure: Configure, plain_config: DiagnoseConfig
) -> None:
    config = configure(models=plain_config.models)
    todo = planned(config)
    placement = todo.placement._replace(gpus_per_replica=0.25, replicas=3)
    asked: dict[str, Any] = {}

    def map_batches(*_: object, **arguments: object) -> None:
        asked.update(arguments)
        raise InterruptedError

    monkeypatch.setattr("ray.data.Dataset.map_batches", map_batches)
    writer = Writer(config.out / "activations", todo.identity, ("mean",))
    source = source_for(todo.spec, todo.request, config, placement)
    with pytest.raises(InterruptedError):
        extract_to_store(todo.plan, writer, source, config, {})
    assert asked["num_gpus"] == 0.25
    assert asked["compute"].max_size == 3
    said = config.model_copy(update={"workers": WorkerConfig(replicas=2)})
    with pytest.raises(InterruptedError):
        extract_to_store(todo.plan, writer, source, said, {})
    assert asked["compute"].max_size == 2
