"""What `trimtab doctor` looks at, one function per subject.

Nothing is changed and nothing secret is read: of a token only whether it is there.

Cost: 10 s, nearly all of it importing torch, ray and mlflow to see that they can be.
"""

import importlib
import os
import re
import shutil
import socket
import sys
import urllib.parse
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

from trimtab import __version__
from trimtab.core.errors import TrackError

_GB = 1e9
_LITTLE_DISK = 5 * _GB
_NO_DISK = 0.5 * _GB
_PATIENCE = 3.0
"""Seconds to wait for a cluster to answer."""
_PARTS_IN_C = {"torch": "torch", "ray": "ray", "mlflow": "trimtab.track.mlflow"}
"""Name -> what to import, which for MLflow is the one file that may."""
_INSTALL = "`make setup`, or `pip install` it"


class Check(NamedTuple):
    """One line of the doctor."""

    name: str
    """What was looked at."""
    state: Literal["ok", "note", "problem"]
    """`note`: only some runs need it. `problem`: no run works."""
    detail: str
    """What was found."""
    remedy: str = ""
    """What to do about it; empty if nothing."""


def all_checks(out: Path) -> list[Check]:
    """Every check, in the order shown.

    Args:
        out: the folder of runs.
    """
    return [
        Check("trimtab", "ok", __version__),
        python(),
        *packages(),
        *(importable(*names) for names in _PARTS_IN_C.items()),
        *devices(),
        disk(out),
        ray_cluster(),
        ray_token(),
        mlflow_store(),
        hub_token(),
        corpus(),
        nursery(out),
    ]


def python() -> Check:
    """The interpreter."""
    return Check("python", "ok", f"{sys.version.split()[0]} at {sys.executable}")


def packages() -> Iterator[Check]:
    """Each of our dependencies, with its version."""
    try:
        required = metadata.requires("trimtab") or []
    except metadata.PackageNotFoundError:
        yield Check("packages", "note", "trimtab runs from its source, not installed", _INSTALL)
        return
    for line in required:
        name = re.split(r"[^\w.-]", line, maxsplit=1)[0]
        if "extra ==" in line:
            continue
        try:
            yield Check(name, "ok", metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Check(name, "problem", "not installed", _INSTALL)


def importable(name: str, module: str) -> Check:
    """Whether a package that has parts in C can be imported here."""
    try:
        importlib.import_module(module)
    except (ImportError, OSError) as error:
        return Check(f"import {name}", "problem", str(error), "install it anew")
    return Check(f"import {name}", "ok", "works")


def devices() -> Iterator[Check]:
    """CPU, memory and each GPU that torch sees."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GB
    yield Check("CPU", "ok", f"{os.cpu_count()} cores, {memory:.0f} GB of memory")
    try:
        from torch import cuda
    except (ImportError, OSError):
        return
    for number in range(cuda.device_count()):
        gpu = cuda.get_device_properties(number)
        yield Check(f"GPU {number}", "ok", f"{gpu.name}, {gpu.total_memory / _GB:.0f} GB")
    if not cuda.device_count():
        yield Check("GPU", "note", "none: models run on the CPU", "for more than 1 B use a GPU")


def disk(out: Path) -> Check:
    """Whether runs can be written."""
    place = out.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    detail = f"{free / _GB:.0f} GB free for {out}"
    if not place.is_dir() or not os.access(place, os.W_OK) or free < _NO_DISK:
        return Check("disk", "problem", f"{detail}, or not writable", "choose another --out")
    if free < _LITTLE_DISK:
        return Check(
            "disk", "note", detail, "large stores need more: the 23 models' take up to 116 GB"
        )
    return Check("disk", "ok", detail)


def ray_cluster() -> Check:
    """The cluster that RAY_ADDRESS names, if it names one."""
    address = os.environ.get("RAY_ADDRESS", "")
    if address in ("", "local", "auto"):
        return Check("Ray cluster", "ok", "RAY_ADDRESS names none: a local Ray is started")
    host = urllib.parse.urlsplit(address if "://" in address else f"ray://{address}")
    try:
        socket.create_connection((host.hostname or "", host.port or 8265), _PATIENCE).close()
    except (OSError, ValueError) as error:
        remedy = "start it (`ray up cluster.yaml`), correct RAY_ADDRESS, or unset it"
        return Check("Ray cluster", "problem", f"{address} does not answer: {error}", remedy)
    return Check("Ray cluster", "ok", f"{address} answers")


def ray_token() -> Check:
    """Whether a cluster that asks for a token would get one."""
    mode = os.environ.get("RAY_AUTH_MODE", "")
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    there = "RAY_AUTH_TOKEN" in os.environ or file.is_file()
    if mode == "token" and not there:
        remedy = "`ray get-auth-token --generate`, and the same token on every node"
        return Check("Ray token", "problem", "RAY_AUTH_MODE=token, but there is none", remedy)
    if not mode and there:
        remedy = "for `ray job submit`: export RAY_AUTH_MODE=token"
        return Check("Ray token", "note", "there is one; RAY_AUTH_MODE is not set", remedy)
    detail = "there is one" if there else "none; a local Ray makes its own"
    return Check("Ray token", "ok", f"{detail} (RAY_AUTH_MODE={mode})" if mode else detail)


def mlflow_store() -> Check:
    """The tracking store that MLFLOW_TRACKING_URI names, if it names one."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        return Check("MLflow", "ok", "MLFLOW_TRACKING_URI names none: mlflow.db in --out is used")
    from trimtab.track.mlflow import probe

    try:
        probe(uri)
    except TrackError as error:
        return Check("MLflow", "problem", str(error), "unset MLFLOW_TRACKING_URI to use a file")
    return Check("MLflow", "ok", f"{urllib.parse.urlsplit(uri).hostname or uri} answers")


def hub_token() -> Check:
    """Whether gated models can be fetched."""
    from huggingface_hub import get_token

    if get_token():
        return Check("Hugging Face token", "ok", "there is one")
    remedy = "for gated models (Llama): `hf auth login`"
    return Check("Hugging Face token", "note", "none", remedy)


def corpus() -> Check:
    """The packaged corpus."""
    from trimtab.scenarios.corpus import corpus_path

    if corpus_path().is_file():
        return Check("packaged corpus", "ok", f"{corpus_path().stat().st_size / 1e3:.0f} kB")
    return Check(
        "packaged corpus", "problem", f"{corpus_path()} is missing", "install trimtab anew"
    )


def nursery(out: Path) -> Check:
    """Whether the demo's models are trained."""
    if any((out / "nursery").glob("*/guard")):
        return Check("nursery", "ok", f"trained, in {out / 'nursery'}")
    return Check("nursery", "note", "not trained yet", "`trimtab demo` does it in two minutes")
