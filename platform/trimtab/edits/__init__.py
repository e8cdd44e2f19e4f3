"""Changes to a model or a coder, each of which can be taken back bitwise.

Imports torch; no ray, no mlflow, no polars.
"""
