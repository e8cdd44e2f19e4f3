"""`trimtab quantize`: a model becomes one that takes a quarter of the memory."""

from pathlib import Path
from typing import Annotated

import typer

from trimtab.cli.console import OUT, echo_json
from trimtab.cli.run import AsJson


def quantize(
    model: Annotated[
        str, typer.Option("--model", "-m", help="Hugging Face id, or a folder in its layout.")
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for the quantised model; must be new or empty.")
    ],
    revision: Annotated[
        str | None, typer.Option(help="Commit, branch or tag on the hub; default: main.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda: where to quantise.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Quantises a model's linear layers and experts to 4 bits (NF4) and writes it.

    Needs memory for the result and a few layers, not for the whole model. The folder can then be
    given as --model to every other command, and is not quantised again. gpt-oss is published in 4
    bits already and is used as it is.
    """
    from trimtab.core.config import build
    from trimtab.models.card import ModelConfig
    from trimtab.models.quantize import save_quantized

    tree = {"id": model, "revision": revision, "device": device}
    saved = save_quantized(build(ModelConfig, tree, where="trimtab quantize"), out)
    before, after = saved.bytes_before, saved.held.total
    if as_json:
        echo_json(
            {"folder": str(saved.folder), "bytes_before": before, "bytes_after": after}
            | {"held": saved.held.plain()}
        )
        return
    for precision, size in saved.held.bytes.items():
        parameters = saved.held.parameters[precision]
        OUT.print(f"  {precision:10}{size / 1e9:10.3f} GB{parameters / 1e6:14,.1f} M parameters")
    OUT.print(f"{before / 1e9:.3f} GB before, {after / 1e9:.3f} GB after ({after / before:.1%})")
    OUT.print(f"Written: {saved.folder}", soft_wrap=True)
