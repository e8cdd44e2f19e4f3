"""Trackers: where a run's numbers go. Plain files, MLflow, and a recorder for tests.

Each implements `trimtab.core.tracker.Tracker`; only `mlflow.py` imports MLflow.
"""
