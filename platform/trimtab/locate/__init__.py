"""What in a model carries a concept: moral latents, later harm weights and value neurons.

Imports torch; no ray, no mlflow, no polars.
"""
