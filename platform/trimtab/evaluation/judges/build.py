"""From a judge's configuration to the judge."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from pydantic import Field

from trimtab.evaluation.judges.endpoint import HttpJudge, HttpJudgeConfig
from trimtab.evaluation.judges.local import LocalJudge, LocalJudgeConfig
from trimtab.evaluation.judges.rule import RuleJudge, RuleJudgeConfig, load_rules
from trimtab.evaluation.judges.verdict import Judge
from trimtab.models.loading import load

JudgeConfig = Annotated[
    LocalJudgeConfig | HttpJudgeConfig | RuleJudgeConfig, Field(discriminator="kind")
]
"""A judge in a YAML file: `kind: local`, `http` or `rule`, and what that kind needs."""


def make_judge(config: LocalJudgeConfig | HttpJudgeConfig | RuleJudgeConfig) -> Judge:
    """The judge that a configuration describes; a local one is loaded.

    Raises:
        JudgeError: its key or its file is missing.
        ModelError: a local judge's model cannot be loaded.
        OutputError: the cache cannot be written to.
    """
    match config:
        case LocalJudgeConfig():
            return LocalJudge(load(config.model), config.model.label, config.token_budget)
        case HttpJudgeConfig():
            return HttpJudge(config)
        case RuleJudgeConfig():
            return RuleJudge(load_rules(config.rules))


@contextmanager
def asking(judge: Judge | HttpJudgeConfig) -> Iterator[Judge]:
    """A judge; an endpoint's connections are open only while it is asked.

    Raises:
        JudgeError: the key of an endpoint is missing.
        OutputError: its cache cannot be written to.
    """
    if not isinstance(judge, HttpJudgeConfig):
        yield judge
        return
    asked = HttpJudge(judge)
    try:
        yield asked
    finally:
        asked.close()


def usage_of(judge: Judge) -> dict[str, float]:
    """What was asked of an endpoint and what it cost, as metrics; nothing of another judge."""
    return judge.usage.named() if isinstance(judge, HttpJudge) else {}
