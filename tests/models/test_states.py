"""Hidden states between blocks: wherever they stay, and across a restart, the same bits."""

import json
import math
from collections.abc import Generator
from pathlib import Path

import pytest
import torch
from checkpoints import random_prompts, save_sharded
from pretend_gpus import pretend_gpus
from torch import Tensor, nn
from toys import make_toy
from transformers import PreTrainedModel

from trimtab.core.errors import ConfigError, OutputError
from trimtab.models.blocks import BlockSource, Start, find_decoder
from trimtab.models.card import ModelConfig
from trimtab.models.engine import Engine, Extraction, Prompt, Request
from trimtab.models.journal import Resume
from trimtab.models.states import Keep, StateFiles, States, free_memory, where
from trimtab.models.streamed import open_streamed

CPU = torch.device("cpu")
EVERY_LAYER = Request(layers=(0, 1, 2, 3), poolings=("mean", "last"), token_budget=32)
PROMPTS = random_prompts([3, 12, 7, 7, 12, 1, 9, 3, 16, 7, 12, 2, 12])
SHAPES = [(2, 3, 4), (1, 5, 4)]


class Dying:
    """A block source that counts what it hands out and dies before a layer."""

    def __init__(self, inner: BlockSource, before: int = 10**9, tight: int = 10**9) -> None:
        self.inner, self.before, self.tight = inner, before, tight
        self.num_layers, self.d_model = inner.num_layers, inner.d_model
        self.handed_out: list[int] = []

    def start(self, tokens: Tensor) -> Start:
        if tokens.numel() > self.tight:
            raise torch.OutOfMemoryError("no room")
        return self.inner.start(tokens)

    def blocks(self, deepest: int, first: int = 0) -> Generator[nn.Module, None, None]:
        for layer, block in enumerate(self.inner.blocks(deepest, first), first):
            if layer == self.before:
                raise KeyboardInterrupt
            self.handed_out.append(layer)
            yield block


def assert_same_bits(ours: Extraction, theirs: Extraction) -> None:
    assert ours.pooled.keys() == theirs.pooled.keys()
    for key, rows in ours.pooled.items():
        assert torch.equal(rows, theirs.pooled[key]), key
    assert ours.num_tokens == theirs.num_tokens


@pytest.fixture
def model() -> PreTrainedModel:
    """gpt_oss in bfloat16: masks, windows, sinks and experts."""
    return make_toy("gpt_oss").to(torch.bfloat16)


@pytest.fixture
def whole(model: PreTrainedModel) -> Extraction:
    """What an uninterrupted run gives."""
    return Engine(find_decoder(model), EVERY_LAYER, CPU).extract(PROMPTS)


@pytest.mark.parametrize("keep", ["device", "host", "disk"])
def test_states_are_the_same_bits_wherever_they_stay(
    model: PreTrainedModel, whole: Extraction, tmp_path: Path, keep: Keep
) -> None:
    engine = Engine(find_decoder(model), EVERY_LAYER, CPU, keep)
    assert_same_bits(engine.extract(PROMPTS, Resume(tmp_path / "run", "m")), whole)
    if keep != "disk":
        assert_same_bits(engine.extract(PROMPTS), whole)


@pytest.mark.parametrize("gpus", [1, 2])
def test_states_of_another_gpu_are_on_the_host_before_they_are_read(gpus: int) -> None:
    with pretend_gpus() as waits:
        first, last = torch.device("cuda:0"), torch.device(f"cuda:{gpus - 1}")
        states = States("host", first, None)
        for layer in (-1, 0, 1):
            states.put(0, torch.full(SHAPES[0], layer, device=last))
            assert torch.equal(states.get(0).cpu(), torch.full(SHAPES[0], layer))
    # One GPU's stream keeps its copies in turn; another's knows nothing of it.
    assert waits.count("aten.copy_") == (0 if gpus == 1 else 3)


@pytest.mark.parametrize("keep", ["device", "host", "disk"])
@pytest.mark.parametrize("layer", [0, 1, 2, 3])
def test_an_interrupted_run_goes_on_at_its_layer_with_the_same_bits(
    model: PreTrainedModel, whole: Extraction, tmp_path: Path, keep: Keep, layer: int
) -> None:
    resume = Resume(tmp_path / "run", "m")
    dying = Dying(find_decoder(model), before=layer)
    with pytest.raises(KeyboardInterrupt):
        Engine(dying, EVERY_LAYER, CPU, keep).extract(PROMPTS, resume)
    again = Dying(find_decoder(model))
    assert_same_bits(Engine(again, EVERY_LAYER, CPU, keep).extract(PROMPTS, resume), whole)
    assert again.handed_out == list(range(layer, 4))


@pytest.mark.parametrize(("keep", "begins"), [("device", 2), ("host", 2), ("disk", 3)])
def test_states_that_are_saved_less_often_cost_a_restart_a_few_blocks_and_no_bit(
    model: PreTrainedModel, whole: Extraction, tmp_path: Path, keep: Keep, begins: int
) -> None:
    resume = Resume(tmp_path / "run", "m", every=2)
    dying = Dying(find_decoder(model), before=3)
    with pytest.raises(KeyboardInterrupt):
        Engine(dying, EVERY_LAYER, CPU, keep).extract(PROMPTS, resume)
    again = Dying(find_decoder(model))
    assert_same_bits(Engine(again, EVERY_LAYER, CPU, keep).extract(PROMPTS, resume), whole)
    assert again.handed_out == list(range(begins, 4))


def test_a_streamed_run_that_goes_on_never_reads_the_earlier_blocks_again(tmp_path: Path) -> None:
    folder = save_sharded(tmp_path / "toy", "qwen3_moe", torch.bfloat16)
    spec = ModelConfig(id=str(folder), device="cpu")
    source, resume = open_streamed(spec), Resume(tmp_path / "run", "m")
    whole = Engine(source, EVERY_LAYER, CPU).extract(PROMPTS)
    per_run = source.bytes_read
    with pytest.raises(KeyboardInterrupt):
        Engine(Dying(source, before=3), EVERY_LAYER, CPU).extract(PROMPTS, resume)
    again = open_streamed(spec)
    assert_same_bits(Engine(again, EVERY_LAYER, CPU).extract(PROMPTS, resume), whole)
    blocks = [sum(p.numel() * 2 for p in block.parameters()) for block in again.blocks(3)]
    embedding = per_run - sum(blocks)
    assert again.bytes_read == embedding + blocks[3] + sum(blocks)  # the last: counted just now


def test_a_half_written_layer_does_not_hurt_the_finished_one(
    model: PreTrainedModel, whole: Extraction, tmp_path: Path
) -> None:
    """Killed between two batches of layer 2, after it wrote some of its states."""
    decoder, resume, calls = find_decoder(model), Resume(tmp_path / "run", "m"), []

    def die_later(*_: object) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    hook = model.model.layers[2].register_forward_pre_hook(die_later)
    with pytest.raises(KeyboardInterrupt):
        Engine(decoder, EVERY_LAYER, CPU).extract(PROMPTS, resume)
    hook.remove()
    again = Dying(find_decoder(model))
    assert_same_bits(Engine(again, EVERY_LAYER, CPU).extract(PROMPTS, resume), whole)
    assert again.handed_out == [2, 3]


@pytest.mark.parametrize("what", ["model", "prompts", "request"])
def test_another_identity_starts_over(
    model: PreTrainedModel, whole: Extraction, tmp_path: Path, what: str
) -> None:
    request, prompts, name = EVERY_LAYER, PROMPTS, "m"
    if what == "model":
        name = "another"
    elif what == "prompts":
        prompts = [*PROMPTS[:-1], Prompt([9, 8, 7], "x")]
    else:
        request = EVERY_LAYER.model_copy(update={"token_budget": 64})
    with pytest.raises(KeyboardInterrupt):
        Engine(Dying(find_decoder(model), before=2), request, CPU).extract(
            prompts, Resume(tmp_path, name)
        )
    again = Dying(find_decoder(model))
    resume = Resume(tmp_path, "m")
    assert_same_bits(Engine(again, EVERY_LAYER, CPU).extract(PROMPTS, resume), whole)
    assert again.handed_out == [0, 1, 2, 3]


def test_a_finished_run_answers_from_its_folder_and_keeps_no_states(
    model: PreTrainedModel, whole: Extraction, tmp_path: Path
) -> None:
    resume = Resume(tmp_path / "run", "m")
    Engine(find_decoder(model), EVERY_LAYER, CPU).extract(PROMPTS, resume)
    assert not list(resume.folder.glob("states-*"))
    again = Dying(find_decoder(model))
    assert_same_bits(Engine(again, EVERY_LAYER, CPU).extract(PROMPTS, resume), whole)
    assert again.handed_out == []


def test_a_budget_that_was_halved_is_remembered(model: PreTrainedModel, tmp_path: Path) -> None:
    narrow = EVERY_LAYER.model_copy(update={"token_budget": 16})
    expected = Engine(find_decoder(model), narrow, CPU).extract(PROMPTS)
    resume = Resume(tmp_path / "run", "m")
    with pytest.raises(KeyboardInterrupt):
        Engine(Dying(find_decoder(model), before=2, tight=20), EVERY_LAYER, CPU).extract(
            PROMPTS, resume
        )
    again = Dying(find_decoder(model), tight=20)
    extraction = Engine(again, EVERY_LAYER, CPU).extract(PROMPTS, resume)
    assert_same_bits(extraction, expected)
    assert extraction.token_budget == 16
    assert again.handed_out == [2, 3]


def test_running_out_of_memory_halfway_forgets_the_layers_of_the_old_batches(
    model: PreTrainedModel, tmp_path: Path
) -> None:
    narrow = EVERY_LAYER.model_copy(update={"token_budget": 16})
    expected = Engine(find_decoder(model), narrow, CPU).extract(PROMPTS)

    class Short(Dying):
        def blocks(self, deepest: int, first: int = 0) -> Generator[nn.Module, None, None]:
            for block in super().blocks(deepest, first):
                if len(self.handed_out) == 3:
                    raise torch.OutOfMemoryError("no room")
                yield block

    source = Short(find_decoder(model))
    engine = Engine(source, EVERY_LAYER, CPU)
    assert_same_bits(engine.extract(PROMPTS, Resume(tmp_path / "run", "m")), expected)
    assert source.handed_out == [0, 1, 2, 0, 1, 2, 3]


def test_only_layers_asked_for_are_written(model: PreTrainedModel, tmp_path: Path) -> None:
    request = Request(layers=(1, 3), token_budget=32)
    Engine(find_decoder(model), request, CPU).extract(PROMPTS, Resume(tmp_path, "m"))
    assert sorted(p.name for p in tmp_path.glob("pooled-*")) == [
        "pooled-001.safetensors",
        "pooled-003.safetensors",
    ]
    assert json.loads((tmp_path / "progress.json").read_text("utf-8"))["layer"] == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_files_take_turns(tmp_path: Path, dtype: torch.dtype) -> None:
    files = StateFiles(tmp_path, SHAPES, dtype)
    old = [torch.randn(shape).to(dtype) for shape in SHAPES]
    new = [torch.randn(shape).to(dtype) for shape in SHAPES]
    for number in (1, 0):
        files.write(number, old[number])
    files.turn()
    files.write(0, new[0])
    assert all(torch.equal(files.read(i), old[i]) for i in range(2))
    files.write(1, new[1])
    files.turn()
    assert all(torch.equal(files.read(i), new[i]) for i in range(2))
    files.close()
    assert {p.stat().st_size for p in tmp_path.iterdir()} == {
        sum(math.prod(shape) for shape in SHAPES) * dtype.itemsize
    }


def test_a_shortened_file_is_said_to_be_short(tmp_path: Path) -> None:
    files = StateFiles(tmp_path, SHAPES, torch.float32)
    with pytest.raises(OutputError, match="shortened"):
        files.read(1)
    files.close()


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    (tmp_path / "states-1.bin").symlink_to(full)
    files = StateFiles(tmp_path, SHAPES, torch.float32)
    with pytest.raises(OutputError, match="No space left"):
        files.write(0, torch.zeros(SHAPES[0]))
    files.close()


@pytest.mark.parametrize("keep", ["device", "host"])
def test_what_is_kept_is_what_was_put_last(keep: Keep) -> None:
    states = States(keep, CPU, None)
    for _ in range(2):
        hidden = torch.randn(2, 3, 4)
        states.put(5, hidden)
        assert torch.equal(states.get(5), hidden)


def test_auto_goes_from_the_device_to_the_disk_by_size() -> None:
    free = free_memory(CPU)
    assert free > 0
    assert where("auto", 1000, CPU, has_folder=True) == "device"
    assert where("auto", free, CPU, has_folder=True) == "disk"
    assert where("auto", free, CPU, has_folder=False) == "device"
    assert where("host", free, CPU, has_folder=False) == "host"
    with pytest.raises(ConfigError, match="folder"):
        where("disk", 1, CPU, has_folder=False)


def test_what_torch_keeps_of_a_gpu_for_its_next_tensors_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the states of a second block of prompts would leave the GPU for want of the first's."""
    gpu = torch.device("cuda")
    said = {"mem_get_info": (10, 80), "memory_reserved": 70, "memory_allocated": 20}
    for name, value in said.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert free_memory(gpu) == 60
    assert where("auto", 30, gpu, has_folder=True) == "device"
    assert where("auto", 31, gpu, has_folder=True) == "host"


def test_states_that_are_taken_up_on_the_host_are_pinned_for_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned: list[Tensor] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: pinned.append(self) or self)
    files = StateFiles(tmp_path, SHAPES, torch.float32)
    for number, shape in enumerate(SHAPES):
        files.write(number, torch.zeros(shape))
    files.turn()
    for device in (CPU, torch.device("cuda", 0)):
        States("host", device, files).resume(1)
    files.close()
    assert [tuple(x.shape) for x in pinned] == SHAPES


def test_states_too_large_for_memory_go_through_the_disk_by_themselves(
    model: PreTrainedModel, whole: Extraction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimtab.models.states.free_memory", lambda device: 1000)
    reads: list[int] = []
    read = StateFiles.read
    monkeypatch.setattr(StateFiles, "read", lambda self, i: reads.append(i) or read(self, i))
    engine = Engine(find_decoder(model), EVERY_LAYER, CPU)
    assert_same_bits(engine.extract(PROMPTS, Resume(tmp_path / "run", "m")), whole)
    assert len(reads) == 4 * len({*reads}) > 0


def test_prompts_of_equal_tokens_are_the_same_run_whatever_they_are_called(
    model: PreTrainedModel, tmp_path: Path
) -> None:
    engine = Engine(find_decoder(model), EVERY_LAYER, CPU)
    first = engine.extract(PROMPTS, Resume(tmp_path, "m"))
    renamed = [Prompt(prompt.tokens, f"other {i}") for i, prompt in enumerate(PROMPTS)]
    source = Dying(find_decoder(model))
    assert_same_bits(
        Engine(source, EVERY_LAYER, CPU).extract(renamed, Resume(tmp_path, "m")), first
    )
    assert source.handed_out == []
