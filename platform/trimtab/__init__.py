"""trimtab: find what in a language model carries a moral concept, change it, measure what changes.

The rooms and which of them may import which stand in pyproject.toml ([tool.importlinter]), which
enforces them. Nothing is imported here, so `import trimtab` costs nothing.
"""

__version__ = "0.1.0"
