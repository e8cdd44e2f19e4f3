"""What a model says and what it costs: answers, judges, fluency, cross-entropy recovered.

Imports torch, transformers, pyarrow and an HTTP client; no ray, no mlflow, no polars.
"""
