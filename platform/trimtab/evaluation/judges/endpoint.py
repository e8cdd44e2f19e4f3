"""A judge behind an OpenAI-compatible endpoint: cached, in parallel, counted.

Each distinct message is asked once, and its reply is kept on disk under the hash of endpoint,
model, rubric, message and sampling settings, so that a run that was stopped goes on where it was
and a second run costs nothing. Replies are read anew each time: what counts as a label may change
without asking again. A reply without a label, or cut off before its end, is a failed verdict; so
is a case that got no answer, which is not kept and is asked again next time.

Cost: `usage` counts what this process paid for; prices are yours to configure.
"""

import logging
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Final, Literal, NamedTuple

from pydantic import NonNegativeFloat

from trimtab.core.hashing import content_hash
from trimtab.evaluation.judges.cache import Cache, Reply
from trimtab.evaluation.judges.client import Client, EndpointConfig, Unanswered
from trimtab.evaluation.judges.rubric import Rubric
from trimtab.evaluation.judges.verdict import Case, Verdict, failure, spoken

_CUT_OFF: Final = {"length": "cut off at its token limit", "content_filter": "filtered"}

_log = logging.getLogger(__name__)


class HttpJudgeConfig(EndpointConfig):
    """A judge behind an endpoint."""

    kind: Literal["http"] = "http"
    """Says that this is a judge behind an endpoint."""
    cache: Path = Path("runs/judged")
    """Folder of replies; runs, processes and nodes may share one."""
    price_in: NonNegativeFloat | None = None
    """Of a million tokens read, in your currency; None if unknown."""
    price_out: NonNegativeFloat | None = None
    """Of a million tokens written."""


class Usage(NamedTuple):
    """What a judge has done in this process."""

    asked: int
    """Cases that were answered by the endpoint."""
    cached: int
    """Cases that were answered from disk, or that repeat another one."""
    unanswered: int
    """Cases that got no answer."""
    attempts: int
    """Requests that went out, repeated ones too."""
    prompt_tokens: int
    """Tokens read by the endpoint, by its own count."""
    completion_tokens: int
    """Tokens written by it."""
    cost: float | None
    """Of those tokens; None where a price is not configured."""

    def named(self) -> dict[str, float]:
        """As metrics; a cost that is unknown is left out."""
        known = {name: value for name, value in self._asdict().items() if value is not None}
        return {f"judge/{name}": float(value) for name, value in known.items()}


class HttpJudge:
    """See `verdict.Judge`."""

    def __init__(self, config: HttpJudgeConfig) -> None:
        """Opens the cache; asks nothing yet.

        Raises:
            JudgeError: the variable that should hold the key is not set.
            OutputError: the cache cannot be written to.
        """
        self._config = config
        self._client = Client(config)
        self._cache = Cache(config.cache)
        self._lock = threading.Lock()
        self._usage = Usage(0, 0, 0, 0, 0, 0, None)

    @property
    def usage(self) -> Usage:
        """What was asked so far, and what it cost."""
        found, config = self._usage, self._config
        if config.price_in is None or config.price_out is None:
            cost = None
        else:
            cost = found.prompt_tokens * config.price_in
            cost = (cost + found.completion_tokens * config.price_out) / 1e6
        return found._replace(attempts=self._client.num_attempts, cost=cost)

    def identity(self) -> dict[str, str]:
        """See `Judge`."""
        config = self._config
        sampling = content_hash(config.sampling)
        return {"kind": "http", "url": config.url, "model": config.model, "sampling": sampling}

    def judge(self, rubric: Rubric, cases: Sequence[Case]) -> list[Verdict]:
        """See `Judge`.

        Raises:
            JudgeError: the endpoint is not there, refuses us, or is dead; what was judged is kept.
            OutputError: the cache cannot be written to.
        """
        messages = [rubric.message(case.question, case.answers) for case in cases]
        keys = [self._key(rubric, message) for message in messages]
        questions = dict(zip(keys, messages, strict=True))
        replies: dict[str, Reply | str] = {
            key: kept for key in questions if (kept := self._cache.get(key)) is not None
        }
        missing = {key: message for key, message in questions.items() if key not in replies}
        self._count(cached=len(cases) - len(missing))
        replies |= self._ask_all(missing)
        return [_verdict(rubric, replies[key]) for key in keys]

    def close(self) -> None:
        """Closes its connections."""
        self._client.close()

    def _key(self, rubric: Rubric, message: str) -> str:
        return content_hash([self.identity(), rubric.hash, message])

    def _ask_all(self, missing: Mapping[str, str]) -> dict[str, Reply | str]:
        """A reply, or the reason why there is none, for every message."""
        self._client.stopped.clear()
        pool = ThreadPoolExecutor(self._config.num_concurrent, thread_name_prefix="judge")
        try:
            futures: dict[Future[Reply | str], str] = {
                pool.submit(self._ask, key, message): key for key, message in missing.items()
            }
            return {futures[done]: done.result() for done in as_completed(futures)}
        finally:
            # On an error or Ctrl-C what has not gone out stays unasked; what is answered is kept.
            self._client.stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _ask(self, key: str, message: str) -> Reply | str:
        try:
            reply = self._client.ask(message)
        except Unanswered as error:
            _log.warning("a case was not judged: %s", error)
            self._count(unanswered=1)
            return str(error)
        self._cache.put(key, reply)
        self._count(
            asked=1,
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
        )
        return reply

    def _count(self, **more: int) -> None:
        with self._lock:
            now = self._usage._asdict()
            self._usage = self._usage._replace(**{name: now[name] + n for name, n in more.items()})


def _verdict(rubric: Rubric, reply: Reply | str) -> Verdict:
    if isinstance(reply, str):
        return failure(f"no answer: {reply}")
    if reply.finish in _CUT_OFF:
        return failure(f"the reply was {_CUT_OFF[reply.finish]}", reply.text)
    label = rubric.read(spoken(reply.text))
    if label is None:
        return failure("the reply does not end with a label", reply.text)
    return Verdict(rubric.labels[label], label, reply.text)
