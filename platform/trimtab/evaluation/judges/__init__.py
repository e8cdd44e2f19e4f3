"""Judges: (question, answers) -> verdicts, by a rubric that is a file.

`local` reads any causal LM at its score tokens, `endpoint` asks any OpenAI-compatible server,
`rule` compares with a reference by patterns. One protocol (`verdict.Judge`), one record
(`verdict.Verdict`), for scores and for pairs alike.
"""
