"""What runs on GPUs runs there: on one and on two that are not there, with the CPU's numbers."""

import numpy as np
import pytest
import torch
from armed_toys import loaded_toy, make_arms, make_materials, make_sae
from pretend_gpus import pretend_gpus, put
from torch import Tensor

from trimtab.edits.steering import blend, delta, direct
from trimtab.evaluation.answer_store import Answer
from trimtab.evaluation.answers import Speaker, ask, known
from trimtab.evaluation.decoding import DecodingConfig
from trimtab.evaluation.fluency import answer_nll
from trimtab.evaluation.judges.local import LocalJudge
from trimtab.evaluation.judges.rubric import Rubric
from trimtab.evaluation.judges.verdict import Case, Verdict
from trimtab.evaluation.prompts import Question
from trimtab.evaluation.recovered import InModel, recovered
from trimtab.evaluation.resume import Resumable
from trimtab.evaluation.scores import Given, log_probabilities
from trimtab.models.engine import Prompt
from trimtab.models.loading import LoadedModel
from trimtab.sae.coder import Sae

GPUS = pytest.mark.parametrize("gpus", [1, 2])
TOKENS = torch.tensor([[5, 6, 7], [9, 5, 4]])


def loaded_on(gpus: int, name: str = "llama") -> LoadedModel:
    loaded = loaded_toy(name)
    put(loaded.model, gpus)
    return loaded


def test_the_pretence_refuses_what_cuda_refuses() -> None:
    with pretend_gpus() as waits:
        x, y = torch.ones(2, 3, device="cuda:0"), torch.ones(2, 3, device="cuda:1")
        here = torch.tensor([1], device="cuda:0")
        assert (x + torch.tensor(1.0))[torch.tensor([1])].device == x.device
        assert torch.equal((x + y.to(x)).cpu(), torch.full((2, 3), 2.0))
        assert torch.arange(3, device="cuda:1").device == y.device
        assert x.index_add_(0, here, x[here]).sum().item() == 9
        assert waits == ["aten._to_copy", "item"]
        for refused in (
            lambda: x + y,
            lambda: x + torch.ones(2, 3),
            lambda: x + y.sum(),
            lambda: x[y.long()],
            lambda: x.index_select(0, torch.tensor([1])),
            lambda: torch.cat([x, y]),
        ):
            with pytest.raises(RuntimeError, match="has tensors on cuda:0 and on"):
                refused()


def answers(loaded: LoadedModel, new_tokens: int, stop: frozenset[int]) -> list[Answer]:
    materials = make_materials().to(loaded.decoder.device, torch.float32)
    decoding = DecodingConfig(max_new_tokens=new_tokens, template="raw")
    questions = [Question("one", "giving a his"), Question("two", "stealing is of")]
    asked = ask(known(loaded), questions, make_arms(), materials, decoding)
    speaker = Speaker(loaded, materials, decoding)
    speaker.stop = stop
    return speaker.answer(asked)


@pytest.mark.parametrize(("name", "gpus"), [("llama", 1), ("qwen3_sliding", 2)])
def test_answers_are_those_of_the_cpu(name: str, gpus: int) -> None:
    some = frozenset({5, 9, 14, 17, 33})  # so that rows leave the batch one after another
    expected = answers(loaded_toy(name), 6, some)
    assert len({len(answer.tokens) for answer in expected}) > 2
    with pretend_gpus():
        assert answers(loaded_on(gpus, name), 6, some) == expected


def test_a_token_waits_for_the_gpu_once_however_many_rows_and_arms() -> None:
    waited = []
    for new_tokens in (3, 4):
        with pretend_gpus() as waits:
            answers(loaded_on(1), new_tokens, frozenset())
        waited.append(len(waits))
    assert waited[1] - waited[0] == 1


def scores(loaded: LoadedModel) -> np.ndarray:
    materials = make_materials().to(loaded.decoder.device, torch.float32)
    given = [Given([5, 6, 7], [8]), Given([9, 5], [3, 4]), Given([5, 6, 7], [3, 9, 11])]
    return log_probabilities(Resumable(loaded.model), given, make_arms(), materials)


def likelihoods(loaded: LoadedModel) -> np.ndarray:
    return answer_nll(loaded.model, [[1, 5, 9], [1, 7]], [[3, 4], [8, 8, 8]])


def quality(loaded: LoadedModel) -> dict[int, InModel]:
    saes: dict[int, Sae] = {0: make_sae("relu"), 2: make_sae("topk"), 3: make_sae("relu", 3)}
    for sae in saes.values():
        sae.to(loaded.decoder.device)
    prompts = [Prompt([5, 6, 7], "a"), Prompt([5, 9, 7], "b"), Prompt([8, 6, 7, 9], "c")]
    found = recovered(loaded, prompts, saes, 64)
    assert all(sae.W_enc.device == loaded.decoder.device for sae in saes.values())
    assert not any(sae.W_enc.is_inference() for sae in saes.values())
    return found


def verdicts(loaded: LoadedModel) -> list[Verdict]:
    rubric = Rubric(kind="score", labels={"is": 1.0, "of": 2.0}, prompt="{question} {answer}")
    return LocalJudge(loaded, "toy", 64).judge(
        rubric, [Case("a his", ("the",)), Case("a", ("in",))]
    )


@GPUS
@pytest.mark.parametrize("measure", [scores, likelihoods, quality, verdicts])
def test_a_measure_is_that_of_the_cpu(measure, gpus: int) -> None:  # noqa: ANN001
    expected = measure(loaded_toy())
    with pretend_gpus():
        np.testing.assert_equal(measure(loaded_on(gpus)), expected)


def edited(loaded: LoadedModel, layer: int) -> Tensor:
    device = loaded.decoder.device
    materials = make_materials().to(device, torch.float32)
    aligned, plain = (materials.coders[name].sae for name in ("aligned", "plain"))
    with (
        torch.inference_mode(),
        blend(loaded.model, aligned, layer=layer, alpha=0.3) as outer,
        delta(loaded.model, aligned, plain, layer=layer, alpha=0.2),
        direct(loaded.model, materials.directions["away"], layer=layer, alpha=0.1),
    ):
        logits = loaded.model(TOKENS.to(device)).logits
    return torch.cat([logits.cpu().flatten(), outer.strengths.cpu()])


@GPUS
@pytest.mark.parametrize("layer", [0, 3])
def test_nested_edits_are_those_of_the_cpu(layer: int, gpus: int) -> None:
    expected = edited(loaded_toy(), layer)
    with pretend_gpus():
        assert torch.equal(edited(loaded_on(gpus), layer), expected)
