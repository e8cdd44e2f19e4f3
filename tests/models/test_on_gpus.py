"""Extraction on GPUs that are not there: the CPU's rows, wherever states stay between blocks."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest import mock

import pytest
import torch
from checkpoints import save_sharded
from pretend_gpus import pretend_gpus, put
from toys import TOYS, make_toy
from transformers import PreTrainedModel

from trimtab.models.blocks import find_decoder
from trimtab.models.card import ModelConfig
from trimtab.models.engine import Engine, Prompt, Request
from trimtab.models.states import Keep
from trimtab.models.streamed import open_streamed

PROMPTS = [Prompt(list(range(3, 3 + n)), f"{n}/care-harm") for n in (3, 7, 7, 12, 1, 9, 7)]
REQUEST = Request(layers=(0, 3), poolings=("mean", "last"), token_budget=32)
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def eager_toy(name: str) -> PreTrainedModel:
    """Experts one by one: their grouped kernel asks what device it is on, and knows no pretence."""
    model = make_toy(name)
    model.config._experts_implementation = "eager"
    return model


@pytest.mark.parametrize(
    ("name", "keep"), [*((name, "device") for name in TOYS), ("llama", "host")]
)
def test_rows_from_two_gpus_are_those_of_the_cpu(name: str, keep: Keep) -> None:
    expected = Engine(find_decoder(eager_toy(name)), REQUEST, CPU).extract(PROMPTS).pooled
    with torch.inference_mode(), pretend_gpus():
        model = eager_toy(name)
        put(model, 2)
        found = Engine(find_decoder(model), REQUEST, GPU, keep).extract(PROMPTS).pooled
    assert found.keys() == expected.keys()
    for key, rows in found.items():
        torch.testing.assert_close(rows.cpu(), expected[key], rtol=1e-5, atol=1e-6)


class Asked:
    """What streams and events were asked for, in order."""

    def __init__(self) -> None:
        self.log: list[tuple[str, str]] = []
        self.events = 0

    def stream(self, name: str) -> mock.Mock:
        made = mock.Mock()
        made.wait_event = lambda event: self.log.append((f"{name} waits for", event.name))
        made.name = name
        return made

    def event(self) -> mock.Mock:
        made = mock.Mock()
        made.name = ("copied", "even computed", "odd computed")[self.events]
        self.events += 1
        made.record = lambda stream: self.log.append((f"{stream.name} records", made.name))
        made.synchronize = lambda: self.log.append(("host waits for", made.name))
        return made


@contextmanager
def pretend_streams() -> Iterator[Asked]:
    """CUDA's streams in a torch without CUDA: what is asked of them is noted, and done at once."""
    asked = Asked()
    main = asked.stream("main")
    with (
        mock.patch.multiple(
            torch.cuda,
            Stream=lambda _: asked.stream("copies"),
            Event=asked.event,
            current_stream=lambda _: main,
            device=nullcontext,
            stream=nullcontext,
            is_available=lambda: True,
        ),
        mock.patch.object(torch.Tensor, "record_stream"),
    ):
        yield asked


def test_a_stream_of_weights_onto_a_gpu_waits_where_it_must_and_the_host_for_no_batch(
    tmp_path: Path,
) -> None:
    folder = str(save_sharded(tmp_path / "toy", "qwen3", torch.bfloat16))
    on_cpu = open_streamed(ModelConfig(id=folder, device="cpu"))
    expected = Engine(on_cpu, REQUEST, CPU).extract(PROMPTS).pooled
    with pretend_gpus() as waits, pretend_streams() as asked:
        source = open_streamed(ModelConfig(id=folder, device="cuda"))
        found = Engine(source, REQUEST, source.device, "host").extract(PROMPTS).pooled
    for key, rows in found.items():
        assert torch.equal(rows.cpu(), expected[key])
    assert "aten.copy_" not in waits  # states go to the host in their turn
    halves = ["even computed", "odd computed"]
    computing = [
        step
        for layer in range(4)
        for step in (("main waits for", "copied"), ("main records", halves[layer % 2]))
    ]
    copying = [
        step
        for layer in range(4)
        for step in (
            ("host waits for", "copied"),
            ("copies waits for", halves[layer % 2]),
            ("copies records", "copied"),
        )
    ]
    of_main = [step for step in asked.log if step[0].startswith("main")]
    assert of_main == [*computing, *(("main records", half) for half in halves)]
    assert [step for step in asked.log if step not in of_main] == copying
    for half in halves:  # the third and fourth block overwrite what has been computed from
        again = [i for i, one in enumerate(asked.log) if one == ("copies waits for", half)][1]
        assert ("main records", half) in asked.log[:again]
