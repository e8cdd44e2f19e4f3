"""What a checkpoint's weights are in, what was asked for, and which loader makes the one the other.

Decided from the configuration, before any weight is read. A checkpoint that is quantised already
is loaded as it is; asking for NF4 on top of another quantisation is an error, because it would
round twice.
"""

import logging
from copy import deepcopy
from typing import Any, Final, NamedTuple

import torch
from transformers import PretrainedConfig
from transformers.integrations.hub_kernels import get_kernel
from transformers.utils.import_utils import is_kernels_available, is_triton_available
from transformers.utils.quantization_config import QuantizationConfigMixin

from trimtab.core.errors import ConfigError

log = logging.getLogger(__name__)

NF4: Final = "trimtab_nf4"
"""Our NF4 among transformers' quantisation methods."""
MXFP4: Final = "trimtab_mxfp4"
"""Our MXFP4 among them."""
OURS: Final = {NF4: "nf4", MXFP4: "mxfp4"}
FOUR_BIT: Final = ("nf4", "fp4", "mxfp4")
"""Precisions that `check_quantised` is for."""
_KERNELS: Final = "kernels-community/gpt-oss-triton-kernels"
_CAPABILITY: Final = (7, 5)


class Loading(NamedTuple):
    """How to hand a model to `from_pretrained`."""

    config: PretrainedConfig
    """The model's, with the quantisation that is to read it."""
    quantization_config: QuantizationConfigMixin | None
    """What to quantise to while loading."""
    precision: str
    """What the weights will be in: a dtype, nf4, mxfp4, ..."""
    skipped: list[str]
    """Modules that the checkpoint itself says it left alone."""


def published_precision(config: PretrainedConfig) -> str | None:
    """The quantisation a checkpoint is in; None for plain floats."""
    quantisation = _quantisation(config)
    if quantisation is None:
        return None
    method = str(quantisation.get("quant_method", "bitsandbytes"))
    if method != "bitsandbytes":
        return OURS.get(method, method)
    four = quantisation.get("load_in_4bit") or quantisation.get("_load_in_4bit")
    return str(quantisation.get("bnb_4bit_quant_type", "fp4")) if four else "int8"


def resolve_precision(config: PretrainedConfig, asked: str, dtype: str, model: str) -> str:
    """What the weights will be in.

    Args:
        config: the model's.
        asked: `published` or `nf4`.
        dtype: what it computes in.
        model: its id, for the message.

    Raises:
        ConfigError: NF4 over a checkpoint that is quantised to something else.
    """
    published = published_precision(config)
    if asked == "nf4" and published not in (None, "nf4"):
        bits = "4-bit already" if published in FOUR_BIT else "quantised already"
        raise ConfigError(
            f"`precision: nf4` needs a checkpoint in bfloat16, float16 or float32, but {model} is "
            f"{bits} ({published}). Drop `precision: nf4`: it is loaded as it is."
        )
    return published or ("nf4" if asked == "nf4" else dtype)


def plan_loading(
    config: PretrainedConfig, asked: str, dtype: str, device: torch.device, model: str
) -> Loading:
    """Picks the quantizer; arguments and errors as `resolve_precision`."""
    precision = resolve_precision(config, asked, dtype, model)
    quantisation = _quantisation(config)
    if quantisation is None:
        return Loading(config, _nf4() if precision == "nf4" else None, precision, [])
    config = deepcopy(config)
    skipped = quantisation.get("llm_int8_skip_modules", quantisation.get("skip_modules"))
    if precision in ("nf4", "fp4"):
        _replace(config, {"quant_method": NF4, "skip_modules": skipped})
    elif precision == "mxfp4" and not _kernels_run(device):
        _replace(config, {"quant_method": MXFP4})
    return Loading(config, None, precision, list(skipped or ()))


def _nf4() -> QuantizationConfigMixin:
    """Imported here: bitsandbytes takes 2 s in every process, and few models need it."""
    from trimtab.models.fourbit import Nf4Config

    return Nf4Config()


def _quantisation(config: PretrainedConfig) -> dict[str, Any] | None:
    found = getattr(config, "quantization_config", None) or getattr(
        config.get_text_config(), "quantization_config", None
    )
    return found if found is None or isinstance(found, dict) else found.to_dict()


def _replace(config: Any, quantisation: dict[str, Any]) -> None:  # noqa: ANN401
    import trimtab.models.fourbit  # noqa: F401 (tells transformers of our quantisers)

    for part in (config, config.get_text_config()):
        part.quantization_config = quantisation


def _kernels_run(device: torch.device) -> bool:
    """Whether transformers' own MXFP4 kernels are here; where not, it would dequantise in silence."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < _CAPABILITY:
        return False
    if not (is_triton_available("3.4.0") and is_kernels_available()):
        log.warning("No MXFP4 kernels (triton >= 3.4 and `kernels`): unpacking layer by layer.")
        return False
    try:
        get_kernel(_KERNELS, version=1)
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        log.warning("No MXFP4 kernels (%s): unpacking layer by layer.", error)
        return False
    return True
