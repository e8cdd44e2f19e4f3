"""The packaged corpus: judged actions written for this project, so that it can be tried offline.

Same columns as Social-Chemistry-101 and read by the same reader, but none of its text. The demo
diagnoses it and the nursery models are trained on it.
"""

from importlib.resources import files
from pathlib import Path


def corpus_path() -> Path:
    """Where the installed package keeps the corpus."""
    return Path(str(files("trimtab.scenarios"))) / "data" / "corpus.tsv"
