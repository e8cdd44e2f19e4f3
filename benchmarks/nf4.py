"""How far NF4 moves each of the four measures from bfloat16, on the nursery.

Runs `sweeps/diagnose-nf4.yaml` (or a file like it: models in pairs, bfloat16 first) and prints, for
each pair and headline measure, the value at the best layer in both precisions and the largest
difference over all layers. What is finished is reused.

    python benchmarks/nf4.py --out runs
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from trimtab.core.config import load_job
from trimtab.core.names import LOWER_IS_PEAK
from trimtab.stream.config import DiagnoseConfig
from trimtab.stream.diagnose import diagnose
from trimtab.stream.diagnosis import Diagnosis

SWEEP: Final = Path(__file__).parent.parent / "sweeps" / "diagnose-nf4.yaml"
HEADLINES: Final = (
    "categorical/cosine/mean",
    "gradient/spearman/mean",
    "structural/ari/polarity",
    "structural/noise",
    "dimensional/r2",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sweep", type=Path, default=SWEEP)
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--json", action="store_true", help="one JSON document")
    options = parser.parse_args()
    config = load_job(options.sweep, DiagnoseConfig, [f"out={options.out}"])
    found = diagnose(config).diagnoses
    rows = [row for pair in zip(found[::2], found[1::2], strict=True) for row in compare(*pair)]
    print(json.dumps(rows, indent=2) if options.json else "\n".join(report(rows)))


def compare(exact: Diagnosis, packed: Diagnosis) -> Iterator[dict[str, Any]]:
    """One row per headline measure that both have at some layer."""
    for name in HEADLINES:
        ours, theirs = exact.curves.get(name, {}), packed.curves.get(name, {})
        both = sorted(set(ours) & set(theirs))
        if both:
            best = min if name in LOWER_IS_PEAK or name == "structural/noise" else max
            layer = best(both, key=ours.__getitem__)
            yield {
                "exact": exact.card.label,
                "packed": packed.card.label,
                "measure": name,
                "layer": layer,
                "value_exact": ours[layer],
                "value_packed": theirs[layer],
                "largest_difference": max(abs(ours[i] - theirs[i]) for i in both),
                "layers": len(both),
            }


def report(rows: list[dict[str, Any]]) -> Iterator[str]:
    """A Markdown table."""
    yield "| model | measure | layer | bfloat16 | NF4 | largest difference over layers |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        values = f"{row['value_exact']:.3f} | {row['value_packed']:.3f}"
        model = row["exact"].rsplit("-", 1)[0]
        yield (
            f"| {model} | {row['measure']} | L{row['layer']} | {values} | "
            f"{row['largest_difference']:.3f} ({row['layers']} layers) |"
        )


if __name__ == "__main__":
    main()
