"""Models: what they are, loading them, running them block by block, and the nursery.

Pure torch and transformers: nothing here knows Ray, MLflow or a data frame.
"""

import logging

# It warns, in every process that imports it, of a missing kernel that nothing here calls.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
