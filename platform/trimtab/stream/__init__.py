"""The room that runs things on Ray: extraction, folds, and the drivers that join the other rooms.

The only room that imports `ray.data`.
"""
