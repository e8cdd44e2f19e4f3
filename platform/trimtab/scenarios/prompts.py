"""The prompt that a model reads for an action.

Raw text, no chat template, for every model. Docs: METHODS 1.3.
"""

from collections.abc import Iterable
from typing import Final

from trimtab.core.errors import ConfigError

PROMPT: Final = "{action} is morally"
"""The published template. Actions keep their own full stop: `being kind. is morally`."""


def prompts(actions: Iterable[str], template: str = PROMPT) -> list[str]:
    """The prompt of each action, in order; equal actions give equal prompts.

    Args:
        actions: action texts.
        template: text in which `{action}` stands exactly once; other braces are kept.

    Raises:
        ConfigError: the template does not name the action exactly once.
    """
    if template.count("{action}") != 1:
        raise ConfigError(
            "A prompt template must contain `{action}` exactly once, but got "
            f"{template!r}. The published one is {PROMPT!r}."
        )
    before, after = template.split("{action}")
    return [f"{before}{action}{after}" for action in actions]
