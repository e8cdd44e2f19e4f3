"""One OpenAI-compatible endpoint: a message in, a reply out, retried where that can help.

Asked again, with exponential backoff and full jitter: a timeout, a connection that breaks, 429
(waiting as long as `Retry-After` says), 408, any 5xx, and a body that is not a whole completion. Not
asked again: any other 4xx. What is still unanswered then is one failed case, except where the
endpoint itself is the trouble: it cannot be connected to, refuses the key or the model, or leaves
`dead_after` cases in a row without an answer, for whatever reason. That is a `JudgeError`; what
was judged is cached.

The key comes from an environment variable. No message here quotes the key, a request or the body
of a reply, and no error carries one that might. Cost: nothing but time on the wire.
"""

import json
import os
import re
import threading
from typing import Annotated, Any, Final

import httpx2
from pydantic import (
    BaseModel,
    Field,
    JsonValue,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
)
from pydantic_core import PydanticCustomError
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt

from trimtab.core.config import Config
from trimtab.core.errors import JudgeError
from trimtab.core.explain import SECRET
from trimtab.core.seeds import Seed
from trimtab.evaluation.judges.cache import Reply
from trimtab.evaluation.judges.pace import Pace, retry_after

_REFUSED: Final = {401: "the key", 403: "the key", 404: "the address or the model"}
_AGAIN: Final = (408, 429)
_OURS: Final = {"model", "messages", "stream"}
_CONNECT_SECONDS: Final = 10.0
_KEY_OPTION: Final = "`api_key_env` (`--judge-key`)"
"""In a file, and on the command line."""


class EndpointConfig(Config):
    """Where a judge is, and how it is asked."""

    url: str
    """The API's base address, like `https://host/v1`; `/chat/completions` is added."""
    model: str
    """What the endpoint calls the model."""
    api_key_env: str = ""
    """The environment variable that holds the key (its name, never the key); empty for none."""
    sampling: dict[str, JsonValue] = Field(default={"temperature": 0.0, "max_tokens": 1024})
    """Sent along as it is: temperature, max_tokens, seed, reasoning_effort, ..."""
    timeout: PositiveFloat = 120.0
    """Seconds without a byte before an attempt is given up."""
    num_concurrent: PositiveInt = 8
    """Requests under way at a time."""
    requests_per_minute: PositiveFloat | None = None
    """The rate limit; None for none."""
    num_attempts: PositiveInt = 6
    """How often a case is asked before it counts as unanswered."""
    backoff: NonNegativeFloat = 1.0
    """Seconds before the second attempt, at most; doubles with each attempt."""
    longest_wait: PositiveFloat = 60.0
    """Seconds that a backoff grows to. A longer `Retry-After` ends the run, which resumes."""
    dead_after: PositiveInt = 8
    """So many unanswered cases in a row end the run."""

    @field_validator("url")
    @classmethod
    def _plain(cls, url: str) -> str:
        try:
            parsed = httpx2.URL(url)
        except httpx2.InvalidURL as error:
            raise ValueError(f"must be a web address: {error}") from error
        if parsed.userinfo or parsed.query:
            raise PydanticCustomError(
                SECRET,
                "must hold no user, password or query, because it is logged; put the key into an "
                f"environment variable and the name of that into {_KEY_OPTION}",
            )
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ValueError("must begin with http:// or https:// and name a host")
        return url.rstrip("/")

    @field_validator("sampling")
    @classmethod
    def _can_be_sent(cls, sampling: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if ours := sorted(_OURS & sampling.keys()):
            raise ValueError(f"must leave out {', '.join(ours)}, which the judge itself sets")
        try:
            json.dumps(sampling, allow_nan=False)
        except ValueError as error:
            raise ValueError("must hold finite numbers") from error
        return sampling

    @field_validator("api_key_env")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        if not re.fullmatch(r"([A-Z_][A-Z0-9_]*)?", name):
            raise PydanticCustomError(
                SECRET, "must be the name of an environment variable, in capitals, never a key"
            )
        return name


class Unanswered(Exception):  # noqa: N818 (it is a result more than an error)
    """A case that got no answer; the text says why and quotes nothing."""


class _Again(Unanswered):
    """An attempt that may be repeated."""

    def __init__(self, why: str, wait: float = 0.0, reached: bool = True) -> None:
        super().__init__(why)
        self.wait = wait
        """Seconds that the server asked for."""
        self.reached = reached
        """Whether there was a server at all."""


class _Part(BaseModel):
    type: str = ""
    text: str = ""


class _Message(BaseModel):
    content: str | list[_Part] | None = None

    @property
    def text(self) -> str:
        """What was said, in one piece or in parts, of which thoughts are none."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content if part.type == "text")
        return self.content or ""


class _Option(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Completion(BaseModel):
    choices: Annotated[list[_Option], Field(min_length=1)]
    usage: Any = None
    """Counts, where they are any: no reply is thrown away for them."""

    def tokens(self, name: str) -> int:
        found = self.usage.get(name) if isinstance(self.usage, dict) else None
        return max(found, 0) if isinstance(found, int) else 0


class Client:
    """Asks an endpoint; used by many threads at once."""

    def __init__(self, config: EndpointConfig) -> None:
        """Connects to nothing yet.

        Raises:
            JudgeError: the variable that should hold the key is not set, is empty, or holds what
                no key can.
        """
        self._config = config
        self._pace = Pace(config.requests_per_minute)
        self._jitter = Seed(0).child("judge/backoff").python()
        self._lock = threading.Lock()
        self._in_a_row = 0
        self.stopped = threading.Event()
        """Set it to end all waiting: what has not gone out will not."""
        self.num_attempts = 0
        """Requests that went out, over all cases."""
        self._http = httpx2.Client(
            headers=_authorisation(config.api_key_env),
            timeout=httpx2.Timeout(config.timeout, connect=min(config.timeout, _CONNECT_SECONDS)),
            limits=httpx2.Limits(
                max_connections=config.num_concurrent,
                max_keepalive_connections=config.num_concurrent,
            ),
        )

    def ask(self, message: str) -> Reply:
        """The endpoint's reply to one message.

        Raises:
            Unanswered: this case got no answer.
            JudgeError: the endpoint is not there, refuses us, or is dead.
        """
        retrying = Retrying(
            retry=retry_if_exception_type(_Again),
            stop=stop_after_attempt(self._config.num_attempts),
            wait=self._wait,
            sleep=self._sleep,
            reraise=True,
        )
        try:
            reply = retrying(self._attempt, message)
        except Unanswered as error:
            if isinstance(error, _Again) and not error.reached:
                raise self._dead(str(error)) from None
            self._unanswered(str(error))
            raise
        with self._lock:
            self._in_a_row = 0
        return reply

    def close(self) -> None:
        """Gives the connections back."""
        self._http.close()

    def _attempt(self, message: str) -> Reply:
        self._pace.wait(self.stopped)
        if self.stopped.is_set():
            raise Unanswered("the run was ended")
        with self._lock:
            self.num_attempts += 1
        body = {
            "model": self._config.model,
            "messages": [{"role": "user", "content": message}],
            **self._config.sampling,
        }
        try:
            response = self._http.post(f"{self._config.url}/chat/completions", json=body)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            why = f"there is nobody at that address ({str(error) or 'it does not react'})"
            raise _Again(why, reached=False) from None
        except httpx2.TimeoutException:
            raise _Again(f"no answer within {self._config.timeout:g} s") from None
        except httpx2.DecodingError:
            raise _Again("the body cannot be decompressed") from None
        except httpx2.TransportError as error:
            raise _Again(f"the connection broke ({type(error).__name__})") from None
        self._check(response)
        return _reply(response.content)

    def _check(self, response: httpx2.Response) -> None:
        status = response.status_code
        if status == httpx2.codes.OK:
            return
        if status in _REFUSED:
            raise self._end(
                f"refuses {_REFUSED[status]} (HTTP {status}, model {self._config.model!r}). Check "
                f"the address, the model (`model`, `--judge-model`) and {self._key_sent()}."
            )
        if status not in _AGAIN and status < httpx2.codes.INTERNAL_SERVER_ERROR:
            raise Unanswered(f"HTTP {status}")
        wait = retry_after(response.headers.get("retry-after")) or 0.0
        if wait > self._config.longest_wait:
            raise self._dead(f"asks for a pause of {wait:.0f} s, over `longest_wait`")
        self._pace.hold(wait)
        raise _Again(f"HTTP {status}", wait)

    def _key_sent(self) -> str:
        if self._config.api_key_env:
            return f"the key in the variable {self._config.api_key_env}"
        return f"the key: none was sent, because no variable is named in {_KEY_OPTION}"

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        most = min(
            self._config.backoff * 2.0 ** (state.attempt_number - 1), self._config.longest_wait
        )
        with self._lock:
            jitter = self._jitter.uniform(0.0, most)
        return (error.wait if isinstance(error, _Again) else 0.0) + jitter

    def _unanswered(self, why: str) -> None:
        if self.stopped.is_set():
            return  # nobody waits for an answer any more
        with self._lock:
            self._in_a_row += 1
            dead = self._in_a_row >= self._config.dead_after
        if dead:
            raise self._dead(f"left {self._config.dead_after} cases in a row unanswered ({why})")

    def _sleep(self, seconds: float) -> None:
        self.stopped.wait(seconds)

    def _dead(self, why: str) -> JudgeError:
        return self._end(
            f"cannot be asked: {why}. What it has judged is kept in the cache: when it is back, run "
            "the same command again to go on."
        )

    def _end(self, why: str) -> JudgeError:
        self.stopped.set()
        return JudgeError(f"The judge at {self._config.url} {why}")


def _authorisation(variable: str) -> dict[str, str]:
    if not variable:
        return {}
    key = os.environ.get(variable, "").strip()
    if not key:
        raise JudgeError(
            f"The judge's key must be in the environment variable {variable}, but that is not set. "
            f"Say `export {variable}=...`, or leave {_KEY_OPTION} empty if it needs no key."
        )
    if not re.fullmatch(r"[!-~]+", key):
        raise JudgeError(
            f"A judge's key must be one word of visible ASCII, but that in the environment variable "
            f"{variable} has a space, a line break or another character within. Look for two keys "
            "or a torn line in it, and export it anew."
        )
    return {"Authorization": f"Bearer {key}"}


def _reply(body: bytes) -> Reply:
    try:
        completion = _Completion.model_validate_json(body)
    except ValidationError:
        raise _Again("the body is not a chat completion") from None
    option = completion.choices[0]
    if option.finish_reason == "error":  # what a router says where the server behind it broke off
        raise _Again("the reply broke off with an error")
    return Reply(
        option.message.text,
        option.finish_reason or "",
        completion.tokens("prompt_tokens"),
        completion.tokens("completion_tokens"),
    )
