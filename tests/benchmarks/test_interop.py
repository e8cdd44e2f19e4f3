"""`make interop` without the peers: a stand-in that reads and writes with our own code."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NAMES = ("saelens-relu", "saelens-topk", "saelens-batchtopk", "saelens-jumprelu", "sparsify-topk")
STAND_IN = """#!{python}
import sys
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file
from trimtab.sae.folder import load_sae

folder = Path(sys.argv[2])
x = load_file(folder / "x.safetensors")["x"]
(folder / "versions.txt").write_text("stand-in 1.0")
(folder / "theirs").mkdir()
(folder / "written").mkdir()
for path in sorted((folder / "ours").iterdir()):
    own = path / "layers.5" if "sparsify" in path.name else path
    (own / "about.json").unlink(missing_ok=True)
    (own / "trimtab.safetensors").unlink(missing_ok=True)
    sae = load_sae(own).sae
    with torch.no_grad():
        found = {{"latents": sae.encode(x) + {error}, "outputs": sae(x)}}
    save_file(found, folder / "theirs" / f"{{path.name}}.safetensors")
    own.rename(folder / "written" / path.name)
    save_file(found, folder / "written" / f"{{path.name}}.safetensors")
"""


@pytest.fixture(scope="module")
def interop() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        return importlib.import_module("interop")


@pytest.mark.parametrize(("error", "code", "verdict"), [("0", 0, "yes"), ("1e-4", 1, "NO")])
def test_every_format_is_compared_in_both_directions(
    interop: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: str,
    code: int,
    verdict: str,
) -> None:
    python = tmp_path / "python"
    python.write_text(STAND_IN.format(python=sys.executable, error=error))
    python.chmod(0o755)
    monkeypatch.setenv("PYTHONPATH", str(BENCHMARKS.parent / "platform"))
    monkeypatch.setattr(sys, "argv", ["interop.py", "--python", str(python)])
    assert interop.main() == code
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| s")]
    names = {line.split(" | ")[0] for line in lines}
    assert names == {f"| {name}" for name in NAMES}
    assert len(lines) == 10
    assert all(line.endswith(f"| {verdict} |") for line in lines)
