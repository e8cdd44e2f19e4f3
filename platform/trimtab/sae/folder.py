"""An autoencoder's folder: ours and SAELens' at once, and what else can be read as one.

    cfg.json                   SAELens' settings
    sae_weights.safetensors    SAELens' weights: W_enc (transposed), W_dec and folded biases
    trimtab.safetensors        center, b_enc, b_dec, threshold before folding
    about.json                 written last: kind and size, `About`, and a checksum of each file

The two large matrices are kept once: folding the centre touches biases only, and a transposition
loses nothing, so ours come back to the bit. Without `about.json` the folder is not finished.

Cost: a checksum reads each file once (1 GB/s; 2.1 GB for 4,096 x 65,536).
"""

from pathlib import Path
from typing import Final

from trimtab.core.config import Config, build
from trimtab.core.errors import CoderError, ConfigError
from trimtab.core.files import writable_folder, write_json
from trimtab.core.hashing import file_hash
from trimtab.sae import saelens, sparsify
from trimtab.sae.about import About, Loaded
from trimtab.sae.coder import CoderConfig, Sae
from trimtab.sae.files import build as build_sae
from trimtab.sae.files import read_settings, read_tensors, write_tensors

FORMAT_VERSION: Final = 1
ABOUT: Final = "about.json"
OWN: Final = "trimtab.safetensors"

_FILES: Final = (saelens.SETTINGS, saelens.WEIGHTS, OWN)


class _Contents(Config):
    """What `about.json` says."""

    format_version: int
    """Version of the layout; this code reads exactly `FORMAT_VERSION`."""
    coder: CoderConfig
    """Kind and size."""
    d_model: int
    """Width of the residual stream."""
    hook_points: tuple[str, str] | None
    """Both names of the place it reads; for people and other programs."""
    about: About
    """Where it belongs and how it came about."""
    sha256: dict[str, str]
    """Checksum of each file, in hex."""


def save_sae(folder: Path, sae: Sae, about: About) -> None:
    """Writes an autoencoder; one that was there is replaced, and unfinished meanwhile.

    Args:
        folder: its own; made if need be.
        sae: any kind; weights are kept in float32.
        about: what is known about it.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    writable_folder(folder)
    (folder / ABOUT).unlink(missing_ok=True)
    saelens.write_saelens(folder, sae, about)
    small = {name: getattr(sae, name) for name in ("center", "b_enc", "b_dec", "threshold")}
    write_tensors(folder / OWN, small)
    contents = _Contents(
        format_version=FORMAT_VERSION,
        coder=sae.config,
        d_model=sae.d_model,
        hook_points=about.hook_points,
        about=about.model_copy(update={"written_by": "trimtab"}),
        sha256={name: file_hash(folder / name) for name in _FILES},
    )
    write_json(folder / ABOUT, contents.model_dump(mode="json"))


def load_sae(path: Path) -> Loaded:
    """Reads an autoencoder that trimtab, SAELens or sparsify wrote.

    Args:
        path: the autoencoder's own folder.

    Raises:
        CoderError: there is none, it is not finished or damaged, or it is of a kind or has an
            option that has no counterpart here.
    """
    if not path.is_dir():
        raise CoderError(f"An autoencoder is a folder, but {path} is none. Check the path.")
    if (path / ABOUT).exists():
        return _load_own(path)
    if (path / OWN).exists():
        raise CoderError(
            f"The autoencoder {path} is not finished: it has no {ABOUT}. "
            "Run the command that began it again."
        )
    if (path / saelens.WEIGHTS).exists():
        return saelens.read_saelens(path)
    if (path / sparsify.WEIGHTS).exists():
        return sparsify.read_sparsify(path)
    raise CoderError(_nothing_here(path))


def _nothing_here(path: Path) -> str:
    inner = sorted(file.parent.name for file in path.glob(f"*/{saelens.SETTINGS}"))
    if inner:
        return (
            f"{path} must be one autoencoder's folder, but holds several: {', '.join(inner)}. "
            f"Name one of them, for example {path / inner[0]}."
        )
    return (
        f"There is no autoencoder in {path}: it has neither {ABOUT} (trimtab), "
        f"{saelens.WEIGHTS} (SAELens) nor {sparsify.WEIGHTS} (sparsify). Check the path."
    )


def _load_own(path: Path) -> Loaded:
    contents = _contents(path / ABOUT)
    for name, checksum in contents.sha256.items():
        file = path / name
        if not file.exists():
            raise CoderError(f"{file} is missing. Copy the folder again, whole, or train it again.")
        if file_hash(file) != checksum:
            raise CoderError(
                f"{file} is not the file that was written: its checksum differs from the one in "
                f"{ABOUT}. Copy the folder again, whole, or train it again."
            )
    width, d_model = contents.coder.width, contents.d_model
    small = read_tensors(
        path / OWN,
        {"center": (d_model,), "b_enc": (width,), "b_dec": (d_model,), "threshold": (width,)},
    )
    large = saelens.read_matrices(path, contents.coder.kind, width, d_model)
    return Loaded(build_sae(contents.coder, large | small), contents.about)


def _contents(path: Path) -> _Contents:
    tree = read_settings(path)
    if (version := tree.get("format_version")) != FORMAT_VERSION:
        raise CoderError(
            f"{path} must be of format version {FORMAT_VERSION}, but is of {version}. "
            "Read it with the trimtab that wrote it, or train it again."
        )
    try:
        return build(_Contents, tree, where=str(path))
    except ConfigError as error:
        raise CoderError(f"{path} is damaged: {error}") from error
