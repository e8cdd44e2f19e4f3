"""Scenarios: judged everyday actions, read, checked, turned into moral vectors, split and sampled.

The only room below the drivers that knows what a data file looks like. It hands plain rows,
prompts and `trimtab.core.rows.Labels` upwards; no model, no torch and no Ray comes near it.
"""
