import json
import logging
import math
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from chat_server import (
    Behaviour,
    ChatServer,
    chat_server,
    completion,
    cut_body,
    fail,
    not_gzip,
    reset,
    say,
    send_bytes,
    stall,
)

from trimtab.core.config import build
from trimtab.core.errors import ConfigError, JudgeError
from trimtab.evaluation.judges.build import make_judge
from trimtab.evaluation.judges.endpoint import HttpJudge, HttpJudgeConfig
from trimtab.evaluation.judges.pace import retry_after
from trimtab.evaluation.judges.rubric import load_rubric
from trimtab.evaluation.judges.verdict import Case, Judge

SAFETY = load_rubric("safety")
PAIRWISE = load_rubric("pairwise")
KEY = "sk-not-a-real-key-93171"
SECRET = "the words of an answer"
KEPT = '{"text": 3, "finish": "stop", "prompt_tokens": 1, "completion_tokens": 1}'
"""A reply whose text is none."""
MakeJudge = Callable[..., HttpJudge]


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server(say("3")) as running:
        yield running


@pytest.fixture
def make(server: ChatServer, tmp_path: Path) -> Iterator[MakeJudge]:
    made = []

    def make_one(**settings: object) -> HttpJudge:
        base = {"url": server.url, "model": "judge-1", "cache": tmp_path / "judged"}
        quick = {"backoff": 0.002, "num_attempts": 3, "timeout": 5.0}
        made.append(HttpJudge(HttpJudgeConfig(**(base | quick | settings))))
        return made[-1]

    yield make_one
    for judge in made:
        judge.close()


def cases(n: int) -> list[Case]:
    return [Case(f"How do I water plant {i}?", (f"With a can, {i} times.",)) for i in range(n)]


def test_it_asks_as_the_protocol_says_and_reads_the_grade(
    server: ChatServer, make: MakeJudge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    server.script = [say("Verdict: 2")]
    judge = make(api_key_env="JUDGE_KEY", sampling={"temperature": 0.5, "seed": 7})
    (verdict,) = judge.judge(SAFETY, cases(1))
    assert verdict == (2.0, "2", "Verdict: 2", None)
    (request,) = server.requests
    assert request.path == "/v1/chat/completions"
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert {k: request.body[k] for k in ("model", "temperature", "seed")} == {
        "model": "judge-1",
        "temperature": 0.5,
        "seed": 7,
    }
    assert "How do I water plant 0?" in request.message
    assert isinstance(judge, Judge)


def test_verdicts_come_in_the_order_of_the_cases_whatever_order_answers_come_in(
    server: ChatServer, make: MakeJudge
) -> None:
    def by_number(handler) -> None:  # noqa: ANN001
        number = int(handler.request_seen.message.split("plant ")[1].split("?")[0])
        time.sleep(0.02 * (3 - number % 3))
        say(str(1 + number % 3))(handler)

    server.usual = by_number
    verdicts = make(num_concurrent=6).judge(SAFETY, cases(12))
    assert [v.value for v in verdicts] == [1.0 + i % 3 for i in range(12)]


def test_no_more_requests_are_under_way_than_allowed(server: ChatServer, make: MakeJudge) -> None:
    under_way, most = [0], [0]

    def busy(handler) -> None:  # noqa: ANN001
        under_way[0] += 1
        most[0] = max(most[0], under_way[0])
        time.sleep(0.02)
        under_way[0] -= 1
        say("1")(handler)

    server.usual = busy
    make(num_concurrent=3).judge(SAFETY, cases(12))
    assert 2 <= most[0] <= 3


def test_over_a_hundred_requests_are_under_way_if_allowed(
    server: ChatServer, make: MakeJudge
) -> None:
    all_here = threading.Barrier(120)

    def together(handler) -> None:  # noqa: ANN001
        all_here.wait(timeout=10.0)
        say("1")(handler)

    server.usual = together
    verdicts = make(num_concurrent=120, timeout=15.0, num_attempts=1).judge(SAFETY, cases(120))
    assert {v.value for v in verdicts} == {1.0}


@pytest.mark.parametrize(
    "trouble",
    [
        fail(500),
        fail(503),
        fail(429),
        send_bytes(b'{"choices": ['),
        send_bytes(b"<html>"),
        cut_body,
        not_gzip,
        reset,
    ],
    ids=["500", "503", "429", "half a JSON", "HTML", "cut body", "no gzip", "reset"],
)
def test_a_trouble_that_passes_is_asked_again(
    trouble: Behaviour, server: ChatServer, make: MakeJudge
) -> None:
    server.script = [trouble, trouble]
    judge = make()
    (verdict,) = judge.judge(SAFETY, cases(1))
    assert verdict.value == 3.0
    assert judge.usage.attempts == len(server.requests) == 3


def test_a_timeout_is_asked_again(server: ChatServer, make: MakeJudge) -> None:
    server.script = [stall(0.4)]
    judge = make(timeout=0.15)
    assert judge.judge(SAFETY, cases(1))[0].value == 3.0
    assert judge.usage.attempts == 2


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (fail(500), "HTTP 500"),
        (fail(429), "HTTP 429"),
        (send_bytes(b"not JSON"), "not a chat completion"),
        (send_bytes(b'{"choices": []}'), "not a chat completion"),
        (cut_body, "the connection broke"),
        (not_gzip, "cannot be decompressed"),
        (reset, "the connection broke"),
        (stall(0.3), "no answer within 0.15 s"),
    ],
    ids=["500", "429", "no JSON", "no choice", "cut body", "no gzip", "reset", "timeout"],
)
def test_a_trouble_that_stays_is_a_failed_case_and_not_a_score(
    trouble: Behaviour, reason: str, server: ChatServer, make: MakeJudge
) -> None:
    server.usual = trouble
    judge = make(timeout=0.15, num_attempts=2)
    (verdict,) = judge.judge(SAFETY, cases(1))
    assert math.isnan(verdict.value)
    assert reason in str(verdict.failed)
    assert judge.usage.unanswered == 1
    assert len(server.requests) == 2


def test_an_unanswered_case_is_asked_again_by_the_next_run(
    server: ChatServer, make: MakeJudge
) -> None:
    server.usual = fail(500)
    assert make().judge(SAFETY, cases(1))[0].failed
    server.usual = say("1")
    assert make().judge(SAFETY, cases(1))[0].value == 1.0


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (say("I like turtles."), "does not end with a label"),
        (say("2 or 3, hard to tell"), "does not end with a label"),
        (say("7"), "does not end with a label"),
        (say(""), "does not end with a label"),
        (say(None), "does not end with a label"),
        (say("3", finish="length"), "cut off at its token limit"),
        (say("", finish="content_filter"), "filtered"),
    ],
)
def test_nonsense_is_a_failure_and_is_not_paid_for_twice(
    reply: Behaviour, reason: str, server: ChatServer, make: MakeJudge
) -> None:
    server.usual = reply
    for judge in (make(), make()):
        (verdict,) = judge.judge(SAFETY, cases(1))
        assert math.isnan(verdict.value)
        assert reason in str(verdict.failed)
    assert len(server.requests) == 1


def message(content: object, **more: object) -> Behaviour:
    option = {"message": {"content": content, **more}, "finish_reason": "stop"}
    return send_bytes(json.dumps({"choices": [option, option]}).encode())


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        (message([{"type": "text", "text": "Verdict:"}, {"type": "text", "text": " 2"}]), 2.0),
        (
            message(
                [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "3"}]},
                    {"type": "text", "text": "1"},
                ]
            ),
            1.0,
        ),
        (say("<think>I weigh 1 and 3</think>2"), 2.0),
        (say("I weigh\n3\n</think>\n\n2"), 2.0),
        (say("<think>\nI weigh\n3"), None),
        (message([]), None),
        (message(None, refusal="I would rather not."), None),
        (message(None, tool_calls=[{"id": "x", "type": "function"}]), None),
    ],
)
def test_a_reply_is_what_is_said_after_all_thoughts(
    reply: Behaviour, value: float | None, server: ChatServer, make: MakeJudge
) -> None:
    server.usual = reply
    (verdict,) = make().judge(SAFETY, cases(1))
    assert verdict.value == value if value else "does not end with a label" in str(verdict.failed)
    assert len(server.requests) == 1


def test_a_reply_that_broke_off_with_an_error_is_asked_again(
    server: ChatServer, make: MakeJudge
) -> None:
    server.script = [say("3", finish="error")]
    assert make().judge(SAFETY, cases(1))[0].value == 3.0
    assert len(server.requests) == 2


def test_a_pair_that_gets_nonsense_is_no_tie(server: ChatServer, make: MakeJudge) -> None:
    server.usual = say("Both have their merits.")
    (verdict,) = make().judge(PAIRWISE, [Case("Tea?", ("Yes.", "No."))])
    assert verdict.failed
    assert verdict.value != 0.0


def test_other_4xx_are_not_asked_again_and_singly_do_not_end_the_run(
    server: ChatServer, make: MakeJudge
) -> None:
    bad = fail(400, b'{"error": {"message": "filtered: With a can"}}')
    server.script = [bad, say("3"), bad, say("3")]
    verdicts = make(num_concurrent=1, dead_after=2).judge(SAFETY, cases(4))
    assert [v.failed for v in verdicts] == ["no answer: HTTP 400", None] * 2
    assert len(server.requests) == 4


@pytest.mark.parametrize("status", [400, 402])
def test_other_4xx_in_a_row_end_the_run(status: int, server: ChatServer, make: MakeJudge) -> None:
    server.script = [say("3")] * 2
    server.usual = fail(status)
    with pytest.raises(JudgeError, match=rf"4 cases in a row unanswered \(HTTP {status}\)"):
        make(num_concurrent=1, dead_after=4).judge(SAFETY, cases(20))
    assert len(server.requests) == 6


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        "none",
        {"prompt_tokens": 7, "completion_tokens": None},
        {"prompt_tokens": 7, "completion_tokens": math.nan},
        {"prompt_tokens": 7, "completion_tokens": -2},
        {"prompt_tokens": 7, "completion_tokens": "2"},
    ],
)
def test_a_completion_that_does_not_count_its_tokens_is_read(
    usage: object, server: ChatServer, make: MakeJudge
) -> None:
    server.usual = send_bytes(completion("2", usage=usage))
    judge = make()
    assert judge.judge(SAFETY, cases(1))[0].value == 2.0
    assert judge.usage.prompt_tokens == (7 if isinstance(usage, dict) and usage else 0)
    assert judge.usage.completion_tokens == 0


@pytest.mark.parametrize(
    ("status", "what"), [(401, "the key"), (403, "the key"), (404, "the model")]
)
def test_a_refusal_ends_the_run_at_once(
    status: int, what: str, server: ChatServer, make: MakeJudge
) -> None:
    server.usual = fail(status)
    with pytest.raises(JudgeError, match=rf"refuses .*{what}.*HTTP {status}.*judge-1"):
        make(num_concurrent=1).judge(SAFETY, cases(20))
    assert len(server.requests) == 1


def test_a_refusal_says_whether_a_key_was_sent_and_where_one_is_named(
    server: ChatServer, make: MakeJudge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    server.usual = fail(401)
    with pytest.raises(JudgeError, match=r"none was sent.*`api_key_env` \(`--judge-key`\)"):
        make().judge(SAFETY, cases(1))
    with pytest.raises(JudgeError, match="the key in the variable JUDGE_KEY"):
        make(api_key_env="JUDGE_KEY").judge(SAFETY, cases(1))


def test_retry_after_is_honoured_by_all_threads(server: ChatServer, make: MakeJudge) -> None:
    server.script = [fail(429, retry_after="1")]
    judge = make(num_concurrent=1)
    verdicts = judge.judge(SAFETY, cases(2))
    assert [v.value for v in verdicts] == [3.0, 3.0]
    first, *later = [request.time for request in server.requests]
    assert all(moment - first >= 1.0 for moment in later)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        (" 2000 ", 2000.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        (format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True), 3600.0),
        ("soon", None),
        ("-1", None),
        ("Jan 2015 99999999999 24:61:61 1 0", None),
    ],
)
def test_a_pause_is_asked_for_as_a_number_or_as_a_date(
    header: str | None, seconds: float | None
) -> None:
    assert retry_after(header) == (None if seconds is None else pytest.approx(seconds, abs=600.0))


def test_a_retry_after_that_is_too_long_ends_the_run(server: ChatServer, make: MakeJudge) -> None:
    server.usual = fail(429, retry_after="3600")
    with pytest.raises(JudgeError, match="pause of 3600 s"):
        make().judge(SAFETY, cases(1))


def test_the_backoff_doubles_and_is_bounded(server: ChatServer, make: MakeJudge) -> None:
    server.usual = fail(500)
    started = time.monotonic()
    make(backoff=0.05, longest_wait=0.1, num_attempts=6).judge(SAFETY, cases(1))
    # full jitter: at most .05 + .1 + .1 + .1 + .1 of sleeping
    assert time.monotonic() - started < 0.45 + 0.5
    gaps = [b.time - a.time for a, b in zip(server.requests, server.requests[1:], strict=False)]
    assert len(gaps) == 5
    assert max(gaps) > 0.01


def test_requests_keep_to_the_rate(server: ChatServer, make: MakeJudge) -> None:
    make(requests_per_minute=1200.0).judge(SAFETY, cases(6))
    times = sorted(request.time for request in server.requests)
    assert times[-1] - times[0] >= 0.2


def test_an_error_ends_the_waiting_for_ones_turn(server: ChatServer, make: MakeJudge) -> None:
    server.usual = fail(401)
    started = time.monotonic()
    with pytest.raises(JudgeError, match="the key"):
        make(num_concurrent=4, requests_per_minute=20.0).judge(SAFETY, cases(4))
    assert time.monotonic() - started < 2.0
    assert len(server.requests) == 1


def test_an_endpoint_that_dies_half_way_keeps_what_was_judged_and_goes_on(
    server: ChatServer, make: MakeJudge
) -> None:
    server.script = [say("3")] * 5
    server.usual = fail(503)
    with pytest.raises(
        JudgeError, match=r"3 cases in a row unanswered.*run the same command again"
    ):
        make(num_concurrent=1, dead_after=3).judge(SAFETY, cases(20))
    server.usual = say("2")
    server.requests.clear()
    judge = make()
    values = [v.value for v in judge.judge(SAFETY, cases(20))]
    assert values == [3.0] * 5 + [2.0] * 15
    assert len(server.requests) == 15
    assert judge.usage[:3] == (15, 5, 0)


def test_a_server_that_is_gone_ends_the_run(tmp_path: Path) -> None:
    with chat_server(say("3")) as server:
        url = server.url
    config = HttpJudgeConfig(
        url=url, model="m", cache=tmp_path, backoff=0.001, num_attempts=2, num_concurrent=2
    )
    judge = HttpJudge(config)
    with pytest.raises(JudgeError, match=r"nobody at that address \(.*refused\)"):
        judge.judge(SAFETY, cases(3))
    judge.close()


def test_the_cache_answers_the_second_run_and_doubles_within_one(
    server: ChatServer, make: MakeJudge
) -> None:
    judge = make(price_in=2.0, price_out=10.0)
    judge.judge(SAFETY, cases(3) + cases(3))
    assert judge.usage == (3, 3, 0, 3, 300, 6, pytest.approx((300 * 2 + 6 * 10) / 1e6))
    again = make(price_in=2.0, price_out=10.0)
    assert [v.value for v in again.judge(SAFETY, cases(3))] == [3.0] * 3
    assert again.usage == (0, 3, 0, 0, 0, 0, 0.0)
    assert len(server.requests) == 3


def test_cost_is_unknown_without_prices(make: MakeJudge) -> None:
    judge = make()
    judge.judge(SAFETY, cases(1))
    assert judge.usage.cost is None
    assert judge.usage.prompt_tokens == 100


def test_another_model_rubric_question_or_setting_is_asked_anew(
    server: ChatServer, make: MakeJudge
) -> None:
    make().judge(SAFETY, cases(1))
    make(model="judge-2").judge(SAFETY, cases(1))
    make(sampling={"temperature": 1.0}).judge(SAFETY, cases(1))
    make().judge(load_rubric("emotion"), cases(1))
    make().judge(SAFETY, [Case("Another question?", cases(1)[0].answers)])
    assert len(server.requests) == 5
    make(num_concurrent=2, timeout=9.0).judge(SAFETY, cases(1))  # says nothing about the reply
    assert len(server.requests) == 5


@pytest.mark.parametrize("damage", ['{"text": "3', "", "[]", "\0\0", '{"text": 3}', KEPT])
def test_a_damaged_cache_entry_is_asked_again(
    damage: str,
    server: ChatServer,
    make: MakeJudge,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    make().judge(SAFETY, cases(1))
    (entry,) = (tmp_path / "judged").rglob("*.json")
    entry.write_text(damage)
    assert make().judge(SAFETY, cases(1))[0].value == 3.0
    assert len(server.requests) == 2
    assert "damaged" in caplog.text


def test_the_key_is_in_no_log_no_error_and_no_file(
    server: ChatServer,
    make: MakeJudge,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    judge = make(api_key_env="JUDGE_KEY")
    echo = json.dumps({"error": {"message": f"bad key {KEY}", "code": KEY}}).encode()
    server.script = [say("2"), fail(500, echo), fail(400, echo)]
    for n in (1, 2):
        judge.judge(SAFETY, cases(n))
    server.usual = fail(401, echo)
    with pytest.raises(JudgeError) as refusal:
        judge.judge(SAFETY, cases(5))
    written = "".join(file.read_text() for file in tmp_path.rglob("*.json"))
    everything = f"{refusal.value} {caplog.text} {written} {judge.identity()} {judge._config!r}"
    assert len(server.requests) >= 4
    assert KEY not in everything
    assert "water plant" not in caplog.text + written + str(refusal.value)


def test_a_missing_key_is_named_before_anything_is_asked(
    make: MakeJudge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(JudgeError, match=r"environment variable JUDGE_KEY.*`--judge-key`"):
        make(api_key_env="JUDGE_KEY")


@pytest.mark.parametrize("key", ["93171\n93171", "93171 x", "93171\x07", "93171\u00e9"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_quoted(
    key: str, make: MakeJudge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", key)
    with pytest.raises(JudgeError, match=r"one word of visible ASCII.*JUDGE_KEY") as refusal:
        make(api_key_env="JUDGE_KEY")
    assert "93171" not in "".join(traceback.format_exception(refusal.value))


@pytest.mark.parametrize(
    "trouble",
    [send_bytes(json.dumps({"choices": SECRET}).encode()), not_gzip, cut_body, fail(400), reset],
    ids=["no completion", "no gzip", "cut body", "400", "reset"],
)
def test_no_chain_of_errors_quotes_a_reply(
    trouble: Behaviour, server: ChatServer, make: MakeJudge
) -> None:
    server.usual = trouble
    with pytest.raises(JudgeError, match="in a row") as dead:
        make(num_concurrent=1, num_attempts=1, dead_after=1).judge(SAFETY, [Case(SECRET, ("x",))])
    told = "".join(traceback.format_exception(dead.value))
    assert SECRET not in told
    assert "ValidationError" not in told
    assert "httpx2." not in told


@pytest.mark.parametrize(
    "wrong",
    [
        {"api_key_env": "sk-secret123"},
        {"url": "https://me:secret123@host/v1"},
        {"url": "https://host/v1?key=secret123"},
    ],
)
def test_a_key_in_the_configuration_is_refused_and_not_quoted(wrong: dict[str, str]) -> None:
    tree = {"url": "http://host/v1", "model": "m"} | wrong
    with pytest.raises(ConfigError, match="environment variable") as error:
        build(HttpJudgeConfig, tree, where="sweep.yaml")
    assert "secret123" not in str(error.value)


def test_settings_may_be_of_any_shape_that_json_has(server: ChatServer, make: MakeJudge) -> None:
    sampling = {"stop": ["x"], "chat_template_kwargs": {"enable_thinking": False}, "seed": 1}
    make(sampling=sampling).judge(SAFETY, cases(1))
    assert {name: server.requests[0].body[name] for name in sampling} == sampling


@pytest.mark.parametrize(
    ("sampling", "says"),
    [
        ({"temperature": math.nan}, "finite numbers"),
        ({"inner": {"top_p": math.inf}}, "finite numbers"),
        ({"stream": True}, "must leave out stream"),
        ({"model": "m", "messages": []}, "must leave out messages, model"),
    ],
)
def test_settings_that_cannot_be_sent_are_refused(sampling: dict, says: str) -> None:
    tree = {"url": "http://host/v1", "model": "m", "sampling": sampling}
    with pytest.raises(ConfigError, match=f"`sampling`.*{says}"):
        build(HttpJudgeConfig, tree, where="sweep.yaml")


@pytest.mark.parametrize("url", ["host/v1", "ftp://host", "http://"])
def test_an_address_must_be_one(url: str) -> None:
    with pytest.raises(ConfigError, match="`url`"):
        build(HttpJudgeConfig, {"url": url, "model": "m"}, where="sweep.yaml")


def test_no_cases_ask_nothing(server: ChatServer, make: MakeJudge) -> None:
    assert make().judge(SAFETY, []) == []
    assert server.requests == []


def test_a_configuration_makes_its_judge(server: ChatServer, tmp_path: Path) -> None:
    judge = make_judge(HttpJudgeConfig(url=server.url, model="m", cache=tmp_path / "c"))
    assert isinstance(judge, HttpJudge)
    assert judge.judge(SAFETY, cases(1))[0].value == 3.0
    judge.close()
