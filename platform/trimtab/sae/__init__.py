"""Sparse autoencoders: coders, losses, training, quality on stored activations, file formats.

Imports torch and safetensors; no ray, no mlflow, no polars.
"""
