"""`trimtab locate` and `trimtab align` as a user meets them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trimtab.models.card import ModelConfig
from trimtab.models.loading import describe
from trimtab.sae.about import About
from trimtab.sae.coder import CoderConfig, Sae
from trimtab.sae.folder import save_sae


@pytest.fixture(scope="module")
def coder(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random coder of the toy's layer 1."""
    card, _ = describe(ModelConfig(id=str(toy)))
    sae = Sae(CoderConfig(kind="relu", width=32), card.d_model)
    with torch.no_grad():
        sae.W_enc.normal_(generator=torch.Generator().manual_seed(0))
        sae.W_dec.copy_(sae.W_enc / sae.W_enc.norm(dim=1, keepdim=True))
    folder = tmp_path_factory.mktemp("coders") / "layers.1"
    save_sae(folder, sae, About(model=card.id, revision=card.revision, layer=1, pooling="mean"))
    return folder


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_latents_are_located_and_aligned_and_said_in_words_and_in_json(
    run: Callable, toy: Path, few_rows: Path, coder: Path, tmp_path: Path
) -> None:
    common = ("--sae", coder, "--model", toy, "--data", few_rows, "--out", tmp_path)
    common += ("--fractions", "0.5,0.25", "--split", "action", "--min-rows", 5, "--threads", 1)
    said = run("locate", *common, "--permutations", 5)
    assert said.code == 0, said.err
    assert "Beyond chance" in said.out
    assert "monosemantic" in said.out
    found = json.loads(run("locate", *common, "--permutations", 5, "--json").out)
    assert found["reused"]
    assert found["repeats"] == {"validation": 0, "test": 0}
    said = run("align", *common, "--epochs", 2)
    assert said.code == 0, said.err
    assert "pair cosine, mean" in said.out
    found = json.loads(run("align", *common, "--epochs", 2, "--json").out)
    assert found["reused"]
    assert Path(found["coder"], "about.json").is_file()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--strong", "0.01"), "weak <= strong"),
        (("--layer", "2"), "reads layer 1, but layer 2 is asked for"),
        (("--min-rows", "1"), "min-rows"),
    ],
)
def test_what_a_user_gets_wrong_is_one_message(
    run: Callable, toy: Path, coder: Path, tmp_path: Path, options: tuple[str, ...], says: str
) -> None:
    out = tmp_path / "out"
    result = run("locate", "--sae", coder, "--model", toy, "--out", out, *options)
    assert result.code == 2
    assert says in " ".join(result.err.split())
    assert "Traceback" not in result.err
    assert not list(out.rglob("result.json"))


def test_a_folder_without_an_autoencoder_is_refused(
    run: Callable, toy: Path, tmp_path: Path
) -> None:
    result = run("align", "--sae", tmp_path, "--model", toy, "--out", tmp_path / "out")
    assert result.code == 2
    assert "There is no autoencoder in" in result.err
