"""Parameters by kind, and their bytes by precision.

NF4 is in blocks of 64 with double quantisation: half a byte a weight, a byte per block, and a
float32 per 256 blocks: 0.516 bytes a weight. MXFP4 has a byte per 32 weights (0.531), and only
experts are in it. What a precision does not quantise is held in 16 bits. METHODS 4.
"""

from typing import Any, Final, Literal, NamedTuple

from transformers import PretrainedConfig

Precision = Literal["float32", "bf16", "fp16", "mxfp4", "nf4", "int8"]

NF4_BYTES: Final = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Per weight: two to the byte, an 8-bit scale per 64, a float32 scale per 256 of those."""
_NF4_TABLES: Final = 64 + 1_024 + 4
"""Per quantised tensor: the 16 values, the 256 values of its scales, their offset."""
WEIGHT_BYTES: Final[dict[Precision, float]] = {
    "float32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "mxfp4": 0.5 + 1 / 32,
    "nf4": NF4_BYTES,
    "int8": 1.0,  # and a scale per row, below 0.4 %
}
RESIDENT_ONLY: Final = ("nf4", "int8")
"""Precisions that are made while a model is loaded, or loaded as bitsandbytes packed them."""
PACKED: Final = ("nf4", "mxfp4")
"""Precisions in which experts are multiplied with only after dequantising a block's experts."""
_DTYPES: Final[dict[str, Precision]] = {"float32": "float32", "float16": "fp16"}


class Parts(NamedTuple):
    """Parameters by kind, of a model or of one of its blocks."""

    linear: int
    """Weights of plain linear layers, the head apart."""
    experts: int
    """Weights of fused (3-D) expert tensors."""
    embedding: int
    """Token embedding and head; tied ones once."""
    other: int
    """Norms, routers, biases, sinks."""
    tensors: int
    """How many tensors `linear` and `experts` are."""

    @property
    def total(self) -> int:
        """All parameters."""
        return self.linear + self.experts + self.embedding + self.other

    def bytes_in(self, precision: Precision) -> int:
        """Bytes when held in a precision: what it does not quantise is in bf16 (16 bits)."""
        plain = 4.0 if precision == "float32" else 2.0
        quantised = {
            "nf4": self.linear + self.experts,
            "int8": self.linear + self.experts,
            "mxfp4": self.experts,
        }.get(precision, 0)
        tables = self.tensors * _NF4_TABLES if precision == "nf4" else 0
        return round(
            WEIGHT_BYTES[precision] * quantised + plain * (self.total - quantised) + tables
        )


def published(config: PretrainedConfig, dtype: str = "auto") -> Precision:
    """The precision that a configuration says its checkpoint is in.

    A quantisation that we do not know counts as 16 bits, which is more than it is.
    """
    said: Any = getattr(config, "quantization_config", None) or {}
    quantised = said if isinstance(said, dict) else said.to_dict()
    method = str(quantised.get("quant_method", "")).rpartition(".")[2].lower()
    if "mxfp4" in method:
        return "mxfp4"
    if "nf4" in method or quantised.get("load_in_4bit") or quantised.get("bnb_4bit_quant_type"):
        return "nf4"  # or fp4, of the same size
    if quantised.get("load_in_8bit"):
        return "int8"
    if dtype == "auto":
        dtype = str(getattr(config.get_text_config(), "dtype", None) or "float32")
    name = dtype.removeprefix("torch.")
    return _DTYPES.get(name, "bf16")
