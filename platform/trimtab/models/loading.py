"""Models by id or folder: what one is (cheaply), and the model itself.

`describe` reads the configuration and the tokenizer only, so that a driver can name, check and
plan a run before any weight is read or any GPU is asked for. `load` reads the weights; dtype and
device are decided there, once. Code that comes with a model is never run (`trust_remote_code`
stays off). Foreign exceptions are translated here and nowhere else.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from trimtab.core.errors import ModelError, TrimtabError
from trimtab.models.blocks import Decoder, find_decoder
from trimtab.models.card import PLAIN, ModelCard, ModelConfig
from trimtab.models.checkpoint import fingerprint, missing_expert
from trimtab.models.held import Held, check_quantised, held_bytes
from trimtab.models.precision import (
    FOUR_BIT,
    plan_loading,
    published_precision,
    resolve_precision,
)
from trimtab.models.registry import REGISTRY
from trimtab.models.tokens import tokenizer_hash

log = logging.getLogger(__name__)

DTYPES = {name: getattr(torch, name) for name in PLAIN}
_UNFIT = ("automatic conversion of the weights", "ignore_mismatched_sizes", "loading state_dict")


class LoadedModel(NamedTuple):
    """A model ready to run."""

    model: PreTrainedModel
    """In evaluation mode, gradients off."""
    tokenizer: PreTrainedTokenizerBase
    """Its own."""
    decoder: Decoder
    """Its blocks, verified."""
    held: Held
    """What its weights take, by precision."""


def describe(spec: ModelConfig) -> tuple[ModelCard, PreTrainedTokenizerBase]:
    """The card and the tokenizer of a model.

    Raises:
        ModelError: there is no such model, it lacks a configuration or a tokenizer, or
            transformers does not know its architecture.
        ConfigError: NF4 over a checkpoint that is quantised already.
    """
    config = read_config(spec)
    tokenizer = read_tokenizer(spec)
    text = config.get_text_config()
    dtype = dtype_name(spec, config)
    with translated(spec), torch.device("meta"):
        parameters = AutoModelForCausalLM.from_config(config).num_parameters()
    known = REGISTRY.get(spec.id)
    card = ModelCard(
        label=spec.label,
        id=spec.id,
        revision=getattr(config, "_commit_hash", None) or fingerprint(Path(spec.id)),
        architecture=config.model_type,
        group=spec.group or (known.group if known else "other"),
        family=known.family if known else config.model_type,
        num_layers=text.num_hidden_layers,
        d_model=text.hidden_size,
        parameters=parameters,
        dtype=dtype,
        tokenizer_hash=tokenizer_hash(tokenizer),
        precision=resolve_precision(config, spec.precision, dtype, spec.id),
        context=context_of(config),
    )
    return card, tokenizer


def load(spec: ModelConfig) -> LoadedModel:
    """Reads the weights, onto their device, and finds the blocks.

    Raises:
        ModelError: as `describe`, or the weights are missing or damaged, or do not fit into the
            GPUs, or the architecture cannot be run block by block, or cannot be held in 4 bits.
        ConfigError: NF4 over a checkpoint that is quantised already.
    """
    model = load_weights(spec)
    held = held_bytes(model)
    log.info("%s: %s", spec.label, held)
    return LoadedModel(model, read_tokenizer(spec), find_decoder(model), held)


def load_weights(spec: ModelConfig) -> PreTrainedModel:
    """The model alone, its weights on their device, never run; errors as `load`."""
    config = read_config(spec)
    device = torch.device(device_of(spec))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"{spec.id} was asked for on a GPU, but this process sees none.")
    dtype = dtype_name(spec, config)
    plan = plan_loading(config, spec.precision, dtype, device, spec.id)
    multi_gpu = device.type == "cuda" and torch.cuda.device_count() > 1
    with translated(spec):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            spec.id,
            config=plan.config,
            revision=spec.revision,
            dtype=DTYPES[dtype],
            device_map="auto" if multi_gpu else device,
            quantization_config=plan.quantization_config,
            trust_remote_code=False,
            output_loading_info=True,
        )
    model, info = loaded
    if info["missing_keys"]:
        raise ModelError(
            f"The checkpoint {spec.id} lacks {len(info['missing_keys'])} weights of its architecture, "
            f"{sorted(info['missing_keys'])[0]} among them. Download or save it again."
        )
    if device.type == "cuda":
        _refuse_offloaded(model, spec)
    if plan.precision in FOUR_BIT:
        check_quantised(model, plan.skipped, experts_only=plan.precision == "mxfp4")
    return model.eval().requires_grad_(False)


def _refuse_offloaded(model: PreTrainedModel, spec: ModelConfig) -> None:
    """What the GPUs have no room for would be copied to them for every batch, without a word."""
    places: dict[str, Any] = getattr(model, "hf_device_map", None) or {}
    left = [part for part, place in places.items() if str(place) in ("cpu", "disk")]
    if left:
        raise ModelError(
            f"{spec.id} must fit into the {torch.cuda.device_count()} GPUs that this process sees, but "
            f"{len(left)} of its parts did not, {left[0]} among them. Give it more GPUs or emptier "
            "ones, `source: streamed`, or `precision: nf4`."
        )


def read_config(spec: ModelConfig) -> PretrainedConfig:
    """A model's configuration, from its folder, the cache or the hub.

    Raises:
        ModelError: there is none, or transformers does not understand it.
    """
    folder = Path(spec.id).expanduser()
    marked = spec.id.startswith((".", "/", "~")) or spec.id.endswith("/")
    looks_like_path = marked or spec.id.count("/") > 1
    if looks_like_path and not folder.is_dir():
        raise ModelError(
            f"There is no model folder {spec.id}. Give a folder or a hub id like org/name."
        )
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ModelError(
            f"A model folder must hold a config.json, but {spec.id} does not. Give the folder that "
            "`save_pretrained` wrote or a snapshot from the hub."
        )
    with translated(spec):
        return AutoConfig.from_pretrained(spec.id, revision=spec.revision, trust_remote_code=False)


def read_tokenizer(spec: ModelConfig) -> PreTrainedTokenizerBase:
    """A model's tokenizer, from its folder, the cache or the hub.

    Raises:
        ModelError: there is none.
    """
    folder = Path(spec.id).expanduser()
    files = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")
    if folder.is_dir() and not any((folder / file).is_file() for file in files):
        raise ModelError(
            f"A model folder must hold its tokenizer ({', '.join(files[:3])}), but {spec.id} has "
            "none. Copy the tokenizer files of the model next to its weights."
        )
    with translated(spec):
        return AutoTokenizer.from_pretrained(
            spec.id, revision=spec.revision, trust_remote_code=False
        )


@contextmanager
def translated(spec: ModelConfig) -> Iterator[None]:
    """Turns what transformers and safetensors raise about a model's files into a `ModelError`."""
    try:
        yield
    except (OSError, ValueError, KeyError, SafetensorError, StrictDataclassError) as error:
        if isinstance(error, TrimtabError):
            raise
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"{spec.id} cannot be loaded: {first} If it is a hub id, check its spelling, the network "
            "(or the local cache), and for a gated model `hf auth login`."
        ) from error
    except RuntimeError as error:
        if not any(said in str(error) for said in _UNFIT):
            raise
        missing = missing_expert(Path(spec.id).expanduser())
        raise ModelError(
            f"The weights in {spec.id} do not fit its architecture"
            + (f": {missing} is missing" if missing else "")
            + ". Download or save it again."
        ) from error


def context_of(config: PretrainedConfig) -> int | None:
    """Tokens that a model's positions were made for, where its configuration says so."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def device_of(spec: ModelConfig) -> str:
    """The kind of device that a model is asked to run on: cpu or cuda.

    Ray does not hide GPUs from a worker that gets none, so whoever asks for none is believed here.
    """
    if spec.device != "auto":
        return spec.device
    return "cuda" if torch.cuda.is_available() and spec.num_gpus != 0 else "cpu"


def dtype_name(spec: ModelConfig, config: PretrainedConfig) -> str:
    """What a model computes in; gpt-oss is published without saying that it is bfloat16."""
    if spec.dtype != "auto":
        return spec.dtype
    silent = "bfloat16" if published_precision(config) == "mxfp4" else "float32"
    said: Any = getattr(config.get_text_config(), "dtype", None) or silent
    published = str(said).removeprefix("torch.")
    return published if published in DTYPES else "float32"
