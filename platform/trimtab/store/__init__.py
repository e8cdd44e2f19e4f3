"""The activation store: what a model's blocks put out, kept on disk in memory-mappable shards.

Imports torch, safetensors and numpy; knows nothing of scenarios, models or Ray.
"""
