"""Sweeps: a space of points, a trial for each, Ray Tune to run them, MLflow to compare them.

The only room that imports `ray.tune`.
"""
