"""An autoencoder's folder: what goes in comes out, in our format and in two others.

The other formats' forwards are written out here by hand; `make interop` asks the real packages.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from trimtab.core.errors import CoderError, OutputError
from trimtab.sae.about import About, layer_of_hook
from trimtab.sae.coder import CoderConfig, Kind, Sae
from trimtab.sae.folder import ABOUT, OWN, load_sae, save_sae
from trimtab.sae.sparsify import export_sparsify

KINDS: tuple[Kind, ...] = ("relu", "topk", "batchtopk", "jumprelu")
D_MODEL, WIDTH, K = 6, 10, 3
ABOUT_IT = About(
    model="toy/model",
    revision="abc",
    layer=5,
    pooling="mean",
    prompt="{action} is morally",
    data_hash="0123",
    rows=40,
    training={"learning_rate": 1e-3, "coder": {"kind": "topk"}},
    quality={"sae/l0": 3.0},
    provenance={"commit": "f00"},
)


def coder(kind: Kind = "topk", seed: int = 0, offset: float = 1.0) -> Sae:
    generator = torch.Generator().manual_seed(seed)
    sae = Sae(CoderConfig(kind=kind, width=WIDTH, k=K), D_MODEL)
    for name, tensor in sae.state_dict().items():
        drawn = torch.randn(tensor.shape, generator=generator)
        if name == "threshold":
            drawn = drawn.abs() / 4 if kind == "jumprelu" else torch.full((WIDTH,), 0.3)
            drawn = drawn if kind in ("jumprelu", "batchtopk") else torch.zeros(WIDTH)
        tensor.copy_(offset * drawn if name == "center" else drawn)
    sae.W_dec.data /= sae.W_dec.data.norm(dim=1, keepdim=True)
    return sae


def rows(sae: Sae, n: int = 50) -> Tensor:
    return sae.center + torch.randn(n, D_MODEL, generator=torch.Generator().manual_seed(9))


def saelens_forward(folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    """SAELens' inference, by its documentation."""
    settings = json.loads((folder / "cfg.json").read_text())
    w = load_file(folder / "sae_weights.safetensors")
    pre = (x - w["b_dec"] * settings["apply_b_dec_to_input"]) @ w["W_enc"] + w["b_enc"]
    match settings["architecture"]:
        case "standard":
            z = pre.relu()
        case "jumprelu":
            z = pre.relu() * (pre > w["threshold"])
        case _:
            z = largest(pre, settings["k"])
    return z, z @ w["W_dec"] + w["b_dec"]


def sparsify_forward(folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    settings = json.loads((folder / "cfg.json").read_text())
    w = load_file(folder / "sae.safetensors")
    z = largest((x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"], settings["k"])
    return z, z @ w["W_dec"] + w["b_dec"]


def largest(pre: Tensor, k: int) -> Tensor:
    smallest = pre.sort(dim=-1, descending=True).values[:, k - 1 : k]
    return torch.where(pre >= smallest, pre.relu(), 0)


def same(left: Sae, right: Sae) -> bool:
    pairs = zip(left.state_dict().values(), right.state_dict().values(), strict=True)
    return left.config == right.config and all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_comes_back_bit_for_bit(kind: Kind, tmp_path: Path) -> None:
    sae = coder(kind, offset=1e4)
    save_sae(tmp_path / "a" / "b", sae, ABOUT_IT)
    loaded = load_sae(tmp_path / "a" / "b")
    assert same(loaded.sae, sae)
    assert loaded.about == ABOUT_IT
    x = rows(sae)
    assert torch.equal(loaded.sae(x), sae(x))
    assert all(parameter.requires_grad for parameter in loaded.sae.parameters())


@given(seed=st.integers(0, 10_000), kind=st.sampled_from(KINDS))
def test_saving_twice_gives_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, seed: int, kind: Kind
) -> None:
    sae = coder(kind, seed)
    folders = [tmp_path_factory.mktemp("sae") for _ in range(2)]
    save_sae(folders[0], sae, ABOUT_IT)
    save_sae(folders[1], load_sae(folders[0]).sae, ABOUT_IT)
    files = sorted(path.name for path in folders[0].iterdir())
    assert files == sorted(path.name for path in folders[1].iterdir())
    assert all((folders[0] / f).read_bytes() == (folders[1] / f).read_bytes() for f in files)


@pytest.mark.parametrize("kind", KINDS)
def test_our_folder_is_saelens_layout_and_gives_its_latents(kind: Kind, tmp_path: Path) -> None:
    sae = coder(kind)
    save_sae(tmp_path, sae, ABOUT_IT)
    weights = load_file(tmp_path / "sae_weights.safetensors")
    threshold = {"threshold": (WIDTH,)} if kind in ("batchtopk", "jumprelu") else {}
    assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == {
        "W_enc": (D_MODEL, WIDTH),
        "W_dec": (WIDTH, D_MODEL),
        "b_enc": (WIDTH,),
        "b_dec": (D_MODEL,),
    } | threshold
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    settings = json.loads((tmp_path / "cfg.json").read_text())
    assert settings["architecture"] == {"relu": "standard", "topk": "topk"}.get(kind, "jumprelu")
    assert (settings["d_in"], settings["d_sae"]) == (D_MODEL, WIDTH)
    assert settings["dtype"] == "float32"
    assert settings["normalize_activations"] == settings["reshape_activations"] == "none"
    assert settings.get("k") == (K if kind == "topk" else None)
    assert settings["metadata"]["model_name"] == "toy/model"
    assert settings["metadata"]["hook_name"] == "blocks.5.hook_resid_post"
    assert settings["metadata"]["hf_hook_name"] == "model.layers.5"
    x = rows(sae)
    latents, output = saelens_forward(tmp_path, x)
    torch.testing.assert_close(latents, sae.encode(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output, sae(x), rtol=1e-5, atol=1e-5)
    assert (latents > 0).any()


@pytest.mark.parametrize("kind", KINDS)
def test_folding_keeps_the_latents_of_rows_far_from_the_origin(kind: Kind, tmp_path: Path) -> None:
    sae = coder(kind, offset=1e4)
    save_sae(tmp_path, sae, ABOUT_IT)
    x = rows(sae)
    latents, _ = saelens_forward(tmp_path, x)
    torch.testing.assert_close(latents, sae.encode(x), rtol=1e-5, atol=1e-5)


def test_the_matrices_are_on_disk_once(tmp_path: Path) -> None:
    save_sae(tmp_path, coder(), ABOUT_IT)
    assert set(load_file(tmp_path / OWN)) == {"center", "b_enc", "b_dec", "threshold"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_folder_without_our_files_loads_as_saelens_own(kind: Kind, tmp_path: Path) -> None:
    sae = coder(kind)
    save_sae(tmp_path, sae, ABOUT_IT)
    (tmp_path / ABOUT).unlink()
    (tmp_path / OWN).unlink()
    loaded = load_sae(tmp_path)
    assert loaded.about.written_by == "saelens"
    assert (loaded.about.model, loaded.about.layer) == ("toy/model", 5)
    assert loaded.sae.config.kind == ("jumprelu" if kind == "batchtopk" else kind)
    x = rows(sae)
    torch.testing.assert_close(loaded.sae.encode(x), sae.encode(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loaded.sae(x), sae(x), rtol=1e-5, atol=1e-5)


def write_saelens(folder: Path, **changes: Any) -> Path:  # noqa: ANN401
    """A folder as SAELens writes one; a change of None takes a setting away."""
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(3)
    settings = {
        "architecture": "topk",
        "d_in": D_MODEL,
        "d_sae": WIDTH,
        "k": K,
        "apply_b_dec_to_input": True,
        "rescale_acts_by_decoder_norm": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.54.12", "hook_name": "blocks.2.hook_mlp_out"},
    } | changes
    weights = {
        "W_enc": torch.randn(D_MODEL, WIDTH, generator=generator),
        "W_dec": torch.randn(WIDTH, D_MODEL, generator=generator),
        "b_enc": torch.randn(WIDTH, generator=generator),
        "b_dec": torch.randn(D_MODEL, generator=generator),
    }
    if settings["architecture"] == "batchtopk":
        weights["topk_threshold"] = torch.tensor(0.4, dtype=torch.float64)
    save_file(weights, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("subtracted", [True, False])
def test_a_decoder_bias_is_subtracted_from_the_input_only_where_it_says_so(
    tmp_path: Path, subtracted: bool
) -> None:
    folder = write_saelens(tmp_path, apply_b_dec_to_input=subtracted)
    sae = load_sae(folder).sae
    x = rows(sae)
    latents, output = saelens_forward(folder, x)
    torch.testing.assert_close(sae.encode(x), latents)
    torch.testing.assert_close(sae(x), output)


def test_an_sae_of_another_place_than_a_blocks_output_has_no_layer(tmp_path: Path) -> None:
    about = load_sae(write_saelens(tmp_path)).about
    assert about.layer is None
    assert about.hook_points is None
    assert about.provenance["saelens"]["hook_name"] == "blocks.2.hook_mlp_out"


def test_activations_that_are_rescaled_by_the_decoders_norm_are_folded(tmp_path: Path) -> None:
    folder = write_saelens(tmp_path, rescale_acts_by_decoder_norm=True)
    sae = load_sae(folder).sae
    w = load_file(folder / "sae_weights.safetensors")
    norm = w["W_dec"].norm(dim=1)
    x = rows(sae)
    latents = largest(((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]) * norm, K)
    torch.testing.assert_close(sae.encode(x), latents)
    torch.testing.assert_close(sae(x), (latents / norm) @ w["W_dec"] + w["b_dec"])
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(WIDTH))


def test_a_batchtopk_checkpoint_of_saelens_trainer_uses_its_threshold(tmp_path: Path) -> None:
    folder = write_saelens(tmp_path, architecture="batchtopk", k=3.0)
    sae = load_sae(folder).sae
    w = load_file(folder / "sae_weights.safetensors")
    x = rows(sae)
    pre = (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    assert (sae.config.kind, sae.config.k) == ("batchtopk", 3)
    torch.testing.assert_close(sae.encode(x), pre * (pre > 0.4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "gated"}, "`architecture: gated`.* known are standard, topk"),
        ({"normalize_activations": "layer_norm"}, "`normalize_activations: layer_norm`"),
        ({"reshape_activations": "hook_z"}, "`reshape_activations: hook_z`"),
        ({"metadata": {"sae_lens_version": "5.9.1"}}, "SAELens 6 or newer, but says '5.9.1'"),
        ({"metadata": {"sae_lens_version": "soon"}}, "SAELens 6 or newer, but says 'soon'"),
        ({"metadata": {}}, "SAELens 6 or newer"),
        ({"metadata": None}, "SAELens 6 or newer"),
        ({"k": WIDTH + 1}, r"`k <= d_sae` must hold .* k=11, d_sae=10"),
        ({"k": 0}, "`k >= 1` must hold"),
        ({"k": "many"}, "`k` must be a whole number"),
        ({"d_sae": None}, "`d_sae` must be a whole number"),
        ({"d_in": 2.5}, "`d_in` must be a whole number"),
        ({"d_in": D_MODEL + 1}, r"`W_enc` must have the shape \[7, 10\] .* has \[6, 10\]"),
        ({"architecture": "jumprelu"}, "lacks threshold"),
    ],
)
def test_what_saelens_has_and_we_have_not_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CoderError, match=message):
        load_sae(write_saelens(tmp_path, **changes))


def test_a_tensor_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    folder = write_saelens(tmp_path)
    weights = load_file(folder / "sae_weights.safetensors")
    save_file(weights | {"W_skip": torch.zeros(2)}, folder / "sae_weights.safetensors")
    with pytest.raises(CoderError, match="holds W_skip, which an autoencoder of this kind"):
        load_sae(folder)


def test_sparsify_export_has_its_layout_and_gives_its_latents(tmp_path: Path) -> None:
    sae = coder()
    folder = export_sparsify(tmp_path, sae, ABOUT_IT)
    assert folder == tmp_path / "layers.5"
    weights = load_file(folder / "sae.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == {
        "encoder.weight": (WIDTH, D_MODEL),
        "encoder.bias": (WIDTH,),
        "W_dec": (WIDTH, D_MODEL),
        "b_dec": (D_MODEL,),
    }
    settings = json.loads((folder / "cfg.json").read_text())
    assert (settings["d_in"], settings["num_latents"], settings["k"]) == (D_MODEL, WIDTH, K)
    assert settings["activation"] == "topk"
    x = rows(sae)
    latents, output = sparsify_forward(folder, x)
    torch.testing.assert_close(latents, sae.encode(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output, sae(x), rtol=1e-5, atol=1e-5)
    loaded = load_sae(folder)
    assert (loaded.about.model, loaded.about.layer) == ("toy/model", 5)
    assert loaded.about.written_by == "sparsify"
    torch.testing.assert_close(loaded.sae.encode(x), latents)
    torch.testing.assert_close(loaded.sae(x), output)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "topk"])
def test_sparsify_has_no_other_kind(kind: Kind, tmp_path: Path) -> None:
    with pytest.raises(CoderError, match=f"topk coders only, but this one is {kind}"):
        export_sparsify(tmp_path, coder(kind), ABOUT_IT)


def test_sparsify_wants_a_layer(tmp_path: Path) -> None:
    with pytest.raises(CoderError, match=r"is not known\. Give `layer`"):
        export_sparsify(tmp_path, coder(), About())


def change(folder: Path, **changes: Any) -> Path:  # noqa: ANN401
    path = folder / "cfg.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transcode": True}, "`transcode: True`"),
        ({"skip_connection": True}, "`skip_connection: True`"),
        ({"activation": "groupmax"}, "`activation: groupmax`"),
        ({"k": 40}, "`k <= num_latents` must hold"),
        ({"num_latents": 11}, r"`encoder.weight` must have the shape \[11, 6\]"),
        ({"num_latents": 0, "expansion_factor": 2}, r"must have the shape \[12, 6\]"),
        ({"num_latents": "ten"}, "`num_latents` must be a whole number"),
        ({"d_in": None}, "`d_in` must be a whole number"),
    ],
)
def test_what_sparsify_has_and_we_have_not_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = export_sparsify(tmp_path, coder(), ABOUT_IT)
    with pytest.raises(CoderError, match=message):
        load_sae(change(folder, **changes))


def test_latents_that_are_not_counted_are_the_expansion_factors(tmp_path: Path) -> None:
    sae = Sae(CoderConfig(kind="topk", width=2 * D_MODEL, k=K), D_MODEL)
    folder = export_sparsify(tmp_path, sae, ABOUT_IT)
    assert load_sae(change(folder, num_latents=0)).sae.width == 2 * D_MODEL


def test_a_runs_folder_names_its_hookpoints(tmp_path: Path) -> None:
    for layer in (5, 7):
        export_sparsify(tmp_path, coder(), About(layer=layer))
    with pytest.raises(CoderError, match=r"holds several: layers\.5, layers\.7\. Name one"):
        load_sae(tmp_path)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def not_a_number(path: Path) -> None:
    weights = load_file(path)
    weights["W_dec"][0, 0] = torch.nan
    save_file(weights, path)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "gone": (lambda f: (f / "sae_weights.safetensors").unlink(), "is missing. Copy the folder"),
    "cut": (lambda f: truncate(f / "sae_weights.safetensors"), "checksum differs"),
    "edited": (lambda f: change(f, d_in=9), "cfg.json is not the file that was written"),
    "no json": (lambda f: (f / ABOUT).write_text("{"), "must be JSON"),
    "a list": (lambda f: (f / ABOUT).write_text("[]"), "must hold a JSON object"),
    "newer": (lambda f: (f / ABOUT).write_text('{"format_version": 2}'), "format version 1"),
    "empty": (lambda f: (f / ABOUT).write_text('{"format_version": 1}'), "is damaged"),
    "unfinished": (lambda f: (f / ABOUT).unlink(), "is not finished: it has no about.json"),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_folder_is_an_error_that_says_what_is_wrong(how: str, tmp_path: Path) -> None:
    save_sae(tmp_path, coder(), ABOUT_IT)
    damage, message = DAMAGE[how]
    damage(tmp_path)
    with pytest.raises(CoderError, match=message):
        load_sae(tmp_path)


@pytest.mark.parametrize("how", [truncate, not_a_number])
def test_a_damaged_foreign_file_is_an_error(how: Callable[[Path], None], tmp_path: Path) -> None:
    folder = write_saelens(tmp_path)
    how(folder / "sae_weights.safetensors")
    with pytest.raises(CoderError, match=r"cannot be read|`W_dec` .* not finite"):
        load_sae(folder)


def test_where_there_is_none_it_says_what_it_looked_for(tmp_path: Path) -> None:
    with pytest.raises(CoderError, match="There is no autoencoder in"):
        load_sae(tmp_path)
    with pytest.raises(CoderError, match="is a folder, but"):
        load_sae(tmp_path / "nowhere")
    (tmp_path / "sae.safetensors").write_bytes(b"")
    with pytest.raises(CoderError, match=r"cfg\.json must be there"):
        load_sae(tmp_path)


def test_a_folder_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        save_sae(tmp_path / "file", coder(), ABOUT_IT)


def test_saving_that_fails_leaves_an_unfinished_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_sae(tmp_path, coder(seed=0), ABOUT_IT)

    def fail(*_: object) -> None:
        raise OutputError("full")

    monkeypatch.setattr("trimtab.sae.folder.write_tensors", fail)
    with pytest.raises(OutputError):
        save_sae(tmp_path, coder(seed=1), ABOUT_IT)
    with pytest.raises(CoderError, match="not finished"):
        load_sae(tmp_path)
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.5", 5),
        ("layers.12", 12),
        ("blocks.5.hook_resid_post", 5),
        ("blocks.6.hook_resid_pre", 5),
        ("blocks.0.hook_resid_pre", None),
        ("blocks.5.hook_mlp_out", None),
        ("layers.5.mlp", None),
        ("", None),
    ],
)
def test_a_hook_point_is_the_output_of_a_block_or_nothing(name: str, layer: int | None) -> None:
    assert layer_of_hook(name) == layer
