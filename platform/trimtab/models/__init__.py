"""Models: what they are, loading them, running them block by block, and the nursery.

Pure torch and transformers: nothing here knows Ray, MLflow or a data frame.
"""
