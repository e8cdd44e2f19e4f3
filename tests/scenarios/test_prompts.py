import pytest

from trimtab.core.errors import ConfigError
from trimtab.scenarios.prompts import prompts


def test_the_prompt_is_the_raw_action_and_three_words() -> None:
    actions = ["being kind.", "writing {action} in braces", "being kind."]
    assert prompts(actions) == [
        "being kind. is morally",
        "writing {action} in braces is morally",
        "being kind. is morally",
    ]


def test_a_template_may_hold_other_braces() -> None:
    assert prompts(["lying"], '{"act": "{action}"}') == ['{"act": "lying"}']


@pytest.mark.parametrize("template", ["", "is it right?", "{action} or {action}", "{ action }"])
def test_a_template_without_exactly_one_action_is_refused(template: str) -> None:
    with pytest.raises(ConfigError, match="exactly once"):
        prompts(["lying"], template)
