"""Secrets by their name and by their shape, the innocents that look like them, and the time it takes."""

from __future__ import annotations

import base64
import json
import time

import pytest

from llmbench.redact import command_line, redact
from llmbench.redact.names import kind

SECRET = "Zq7hunter2"  # noqa: S105 - made up

NAMED = (
    f"DB_PWD={SECRET}", f"Password: {SECRET}", f"password is {SECRET}", f"wrong password '{SECRET}'", f"pwd={SECRET}",
    f"{{'DB_PWD': '{SECRET}', 'n': 1}}", f'{{"apiKey": "{SECRET}"}}', f'{{\\"api_key\\": \\"{SECRET}\\"}}',
    f"['--api-key', '{SECRET}']", f"--api-key {SECRET} --n 1", f"--password={SECRET}", f'--hf-token "{SECRET}"',
    f"Authorization: Bearer {SECRET}", f"Authorization: {SECRET}", f'Authorization: Digest a="b", c="{SECRET}"',
    f"curl -H 'Proxy-Authorization: Basic {SECRET}' x", f"Cookie: a=b; c={SECRET}", f"Set-Cookie: sid={SECRET}; Path=/",
    f"X-Api-Key: {SECRET}", f"Server=x;Uid=y;Pwd={SECRET};Database=z", f"AccountKey={SECRET}==;EndpointSuffix=x",
    f"SharedAccessSignature=sr=x&sig={SECRET}", f"https://x.example/?sv=1&sig={SECRET}&n=1",
    f"https://x.example/?X-Amz-Signature={SECRET}", f"client_secret: {SECRET}", f"export GH_TOKEN={SECRET}",
    f"aws_secret_access_key = {SECRET}/a+b", f"password%3D{SECRET}", f"License-Key: {SECRET}", f"JWT={SECRET}",
    f"machine x login y password {SECRET}", f'PASSWORD="it\'s a \\"quoted\\" {SECRET}" done', f"SENTRY_DSN={SECRET}",
    f"AzureWebJobsStorage__ConnectionString={SECRET}", f"PHP_SESSION_ID={SECRET}", f"password=ab,cd;ef {SECRET}"[:14],
    f"AZURE_SAS={SECRET}", f"signing-key={SECRET}", f"REQUEST_SIGNATURE={SECRET}", f"GITHUB_PAT={SECRET}",
)  # fmt: skip

SHAPED = (
    "ghp_Zq7abcdefghijklmnopqrstuvwxyz0123456", "gho_Zq7abcdefgh", "ghu_Zq7abcdefgh", "ghs_Zq7abcdefgh", "ghr_Zq7abcd",
    "github_pat_11AAZq7_abcdef", "glpat-Zq7abcdefgh_12345", "xoxb-1234-Zq7abcdef", "xoxp-1234-Zq7abcdef",
    "sk-Zq7abcdefghijklmnop", "sk-proj-Zq7abc_def-ghi", "sk-ant-api03-Zq7abcdef", "AKIAIOSZQ7NN7EXAMPLE",
    "ASIAIOSZQ7NN7EXAMPLE", "AIzaSyZq7a1234567890abcdefghijklmnopqrs", "hf_Zq7abcdefghijklmnopqr",
    "nvapi-Zq7abcdefgh", "npm_Zq7abcdefghijklmnopqrstuvwxyz012345", "pypi-AgEIcHlwaS5vcmcCZq7abc",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJacTcifQ.Zq7-def_123", "https://hooks.slack.com/services/T0/B0/Zq7abc",
    "https://discord.com/api/webhooks/123/Zq7abc", "Basic WnE3OnBhc3N3b3Jk",
)  # fmt: skip

LOGINS = (
    "postgres://bob:p@ss/w0#rd:x@db.example:5432/x", "redis://:Zq7@cache:6379/0", "https://Zq7token@hub.example/x",
    "amqp://u:p%40ss%20w@h", "mysql+pymysql://u:a?b#c/d@h/db", "'http://u:Zq7'", "user:p@ss/w0rd@host.example",
    "me:Zq7secret@10.0.0.1:80", "http://a:b@h1.example,http://c:Zq7@h2.example",
)  # fmt: skip

INNOCENT = (
    "keyboard=german monkey=banana123456 compass=1234 author=abcdefghijk12345678 hotkey: ctrl",
    "https://hub.example/org/model@main http://host:8080/org/model@main git@github.com:org/repo.git me@example.com",
    "max_new_tokens=16, eos_token_id=None, pad_token='<pad>', bos_token: <s>, token_count=12, 12.5 ms a token: 12.5 ms",
    "num_key_value_heads: 4 key_value=abcdefghijkl1234567890 tokens_per_second: 123.4 tokens/s=12",
    "KeyError: 'model.layers.0.self_attn.q_proj.weight'; missing keys: ['model.layers.0.self_attn.q_proj.weight']",
    "Unexpected key 'model.layers.0.self_attn.q_proj.weight123', size mismatch for key: model.layers.0.weight",
    "PATH=/usr/bin:/bin PATTERN=abc123 SSH_AUTH_SOCK=/tmp/ssh-abc/agent.1 PWD=/data/x XAUTHORITY=/run/x/.Xauthority",
    "basic functionality of Basic Authentication; forward pass: 12.3 ms, pass 1 of 3, pass=3; the token's value",
    "sk-learn hf_transformers hf_checkpoints task-abcdefghijkl123456 session=1,attempt=1 signature: (self, x)",
    "TOKENIZERS_PARALLELISM=false CUDA_VISIBLE_DEVICES=0,1 AUTH_TYPE=basic USE_AUTH=1 API_KEY_ENABLED=true cuda:0",
    "llama-7b@tiny-fake-float32-b1-i128-o8-fault=leak-jitter=0.01-tpot-ms=2.0-ttft-ms=8.0-f595ae4ae8",
    "Cheapest under 20ms a token: model=pythia-70m, tokens: llama-2-70b-chat-hf, auth=kerberos-5-something",
    "PASSWORD_FILE=/run/secrets/db GOOGLE_APPLICATION_CREDENTIALS=/etc/gcp/key.json password=None secret: ''",
    "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
)  # fmt: skip


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")


@pytest.mark.parametrize("text", NAMED)
def test_what_stands_beside_a_secrets_name_is_taken_out(text: str) -> None:
    for around in (text, f"12:00 INFO {text}", json.dumps(f"x\n{text}")):
        clean = redact(around)

        assert SECRET not in clean
        assert "<redacted>" in clean
        assert redact(clean) == clean


@pytest.mark.parametrize("text", [*SHAPED, *LOGINS[:5], *LOGINS[6:]])
def test_what_looks_like_a_secret_is_taken_out(text: str) -> None:
    for around in (text, f"see {text} there", repr({"a": f"b\n{text}"}), f"--x={text}"):
        clean = redact(around)

        assert not any(part in clean for part in ("Zq7", "ZQ7", "WnE3", "ss/w0", "ss%20w", "?b#c"))
        assert "<redacted>" in clean


@pytest.mark.parametrize("text", INNOCENT)
def test_what_only_resembles_a_secret_stays(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize("escape", ["\n", "\\n", "\\\\n", "\r\n", "\nINFO: "])
@pytest.mark.parametrize("label", ["RSA PRIVATE KEY", "OPENSSH PRIVATE KEY", "PRIVATE KEY", "KEY"])
def test_a_private_key_is_taken_out_in_every_spelling(escape: str, label: str) -> None:
    body = escape.join(["MIIEpAIBAAKCAQEA", "Zq7Zq7Zq7Zq7Zq7+", "abc="])
    key = f"-----BEGIN {label}-----{escape}{body}{escape}-----END {label}-----"

    assert redact(f"a {key} b") == "a <redacted> b"


def test_a_private_key_that_was_cut_short_is_taken_out() -> None:
    assert redact("a -----BEGIN PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\nZq7") == "a <redacted>"


@pytest.mark.parametrize(
    "name",
    ["GITHUB_PAT", "DB_PWD", "SESSION_COOKIE", "SLACK_WEBHOOK", "SENTRY_DSN", "OPENAI_API_KEY", "PGPASSWORD", "SSHPASS",
     "AZURE_STORAGE_CONNECTION_STRING", "JWT_PRIVATE", "REQUEST_SIGNATURE", "GCP_CREDENTIALS", "LICENSE_KEY",
     "BLOB_SAS", "BEARER", "REDISCLI_AUTH", "client_secret", "x-api-key", "HFTOKEN", "npm_config__authToken",
     "KEY_OPENAI"],
)  # fmt: skip
def test_names_of_secrets_are_known(name: str) -> None:
    assert kind(name)


@pytest.mark.parametrize(
    "name",
    ["KEYBOARD", "PATH", "MONKEY", "GIT_AUTHOR_NAME", "AUTHOR", "TOKENIZERS_PARALLELISM", "MAX_TOKENS", "COMPASS",
     "BYPASS", "SSH_AUTH_SOCK", "AUTH_TYPE", "PATTERN", "PASSIVE", "DESIGN", "CONNECTIONS", "SESSION", "DISPATCH",
     "EOS_TOKEN_ID"],
)  # fmt: skip
def test_names_that_resemble_those_of_secrets_are_not(name: str) -> None:
    assert not kind(name)


def test_a_short_secret_goes_where_it_is_a_whole_value_and_stays_within_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DB_PWD", "abcd")

    clean = redact("DB_PWD=abcd\n{'DB_PWD': 'abcd'}\nabcd\nuser 'abcd'\nabcdef and abcd-1")

    assert clean == (
        "DB_PWD=<redacted>\n{'DB_PWD': '<redacted>'}\n<redacted>\nuser '<redacted>'\nabcdef and abcd-1"
    )


def test_a_plain_word_that_a_key_holds_blots_out_no_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SORT_KEY", "models")
    monkeypatch.setenv("DB_PASSWORD", "transform")

    assert redact("models transformers transform") == "models transformers <redacted>"


@pytest.mark.parametrize("kept", [13, 20, 32])
def test_a_secret_cut_in_half_is_taken_out(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLE"  # noqa: S105 - made up
    monkeypatch.setenv("CLOUD_SECRET", secret)

    assert redact(f"in {secret[:kept]}... and ...{secret[-kept:]}") == (
        "in <redacted>... and ...<redacted>"
    )


def test_a_secret_in_base64_is_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUD_SECRET", "correct-horse-1")
    header = base64.b64encode(b"me:correct-horse-1").decode()

    assert header not in redact(f"sent Basic {header}")
    assert "Y29ycmVj" not in redact(f"sent {base64.b64encode(b'correct-horse-1').decode()}")


def test_the_password_of_an_address_in_any_variable_is_taken_out_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REPOSITORY", "https://me:p%40ss/Zq7@host.example/x")

    assert redact("tried p@ss/Zq7 and p%40ss/Zq7") == "tried <redacted> and <redacted>"


def test_json_stays_json() -> None:
    value = {
        "api_key": "Zq7\\", "token": 5, "note": "password=Zq7", "n": 1.5, "key": None, "url": "http://u:Zq7@h",
        "a": ["Cookie: Zq7", 'say {"password": "Zq7"}'],
    }  # fmt: skip

    clean = json.loads(redact(json.dumps(value)))

    assert "Zq7" not in str(clean)
    assert list(clean) == list(value)
    assert (clean["token"], clean["n"], clean["key"]) == (5, 1.5, None)


def test_a_command_line_is_told_without_its_secrets() -> None:
    words = ["llmbench", "sweep", "--api-key", "two words' Zq7", "--model", "a b", "s.yaml"]

    told = command_line(words)

    assert told == "llmbench sweep --api-key <redacted> --model 'a b' s.yaml"


@pytest.mark.parametrize(
    "piece",
    ["x", "key ", "key", "password='", "://a:b", "ghp_", "sk-", "-----BEGIN PRIVATE KEY-----\n", "eyJa.", "a:b@c", "'",
     "\\", "?a=", "bearer ", "Authorization: ", '\\"key\\": \\"', "http://", "--token ", "token is ", "npm_a", "a.b-"],
)  # fmt: skip
def test_no_text_takes_long(piece: str) -> None:
    text = piece * (2**19 // len(piece))
    began = time.perf_counter()

    redact(text)

    assert time.perf_counter() - began < 3  # 0.1 to 0.4 s; what is quadratic takes minutes


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "DB_PASSWORD", "value": "hunter2x"}',
        "{'name': 'DB_PASSWORD', 'value': 'hunter2x'}",
        "- name: DB_PASSWORD\n  value: hunter2x",
        "name=DB_PASSWORD value=hunter2x",
        "<password>hunter2x</password>",
        "curl -u me:hunter2x http://h",
        "curl --user me:hunter2x http://h",
    ],
)
def test_a_value_that_is_listed_after_its_name_is_taken_out(text: str) -> None:
    assert redact(text) == text.replace("hunter2x", "<redacted>")


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "batch_size", "value": "16"}',
        "name: quickstart value: fast",
        "<model>llama-7b</model>",
        "sort -u names.txt",
    ],
)
def test_a_value_of_another_name_stays(text: str) -> None:
    assert redact(text) == text
