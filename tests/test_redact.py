"""What is taken out of text before it is written, and what is shown of it on a terminal."""

import json

import pytest

from llmbench.redact import redact, redact_all, shown, spelled


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("MY_API_KEY", "p4ss/w ord+")


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "aws_secret_access", "DB_PASSWORD", "GCP_CREDENTIALS", "X_AUTH"]
)
def test_the_value_of_a_variable_named_like_a_secret_is_taken_out(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "correct-horse")

    assert redact("login with correct-horse failed") == "login with <redacted> failed"


def test_a_secret_spelled_for_a_link_is_taken_out_too() -> None:
    text = redact("GET https://host/?q=p4ss%2Fw%20ord%2B")

    assert text == "GET https://host/?q=<redacted>"


def test_a_secret_that_contains_another_is_taken_out_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "abcdef")
    monkeypatch.setenv("B_TOKEN", "abcdef-ghijkl")

    assert redact("abcdef-ghijkl abcdef") == "<redacted> <redacted>"


def test_a_short_setting_does_not_blot_out_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")

    assert redact("false alarm") == "false alarm"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("token hf_AbCdEfGhIjKlMn refused", "token <redacted> refused"),
        ("https://me:pa@ss@hub.example/x", "https://<redacted>@hub.example/x"),
        ("https://me@hub.example/x", "https://<redacted>@hub.example/x"),
        ("https://cdn.example/f?X-Sig=abc&n=1", "https://cdn.example/f?X-Sig=<redacted>&n=1"),
        ("Authorization: Bearer abcdefghijk", "Authorization: Bearer <redacted>"),
        ("/home/someone/models/x", "~/models/x"),
        ("in /home/someone: no file", "in ~: no file"),
    ],
)
def test_what_must_not_be_written_is_taken_out(text: str, clean: str) -> None:
    assert redact(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        "llama-7b@tiny measured 16 tokens",
        "/home/someoneelse/models",
        "https://hub.example/org/model@main",
        "max_new_tokens=16, eos_token_id=None",
    ],
)
def test_ordinary_text_is_left_as_it_is(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("org/model[/bold]", "org/model[/bold]"),
        ("a\x1b[31mred\x1b[0m", r"a\x1b[31mred\x1b[0m"),
        ("two\nlines\r\t", r"two\nlines\r\t"),
        ("abc\u202edef\u200b", r"abc\u202edef\u200b"),
        ("\x9b2J\x00", r"\x9b2J\x00"),
        ("模型 naïve 🚀", "模型 naïve 🚀"),
        ("bad\udcffbyte", r"bad\udcffbyte"),
    ],
)
def test_nothing_shown_can_act_on_the_terminal(text: str, safe: str) -> None:
    assert shown(text) == safe


def test_a_value_is_clean_in_every_depth() -> None:
    value = {"a": ["in /home/someone", {"hf_AbCdEfGhIjKlMn": "p4ss/w ord+"}], "n": 1, "none": None}

    assert redact_all(value) == {"a": ["in ~", {"<redacted>": "<redacted>"}], "n": 1, "none": None}


def test_json_says_the_same_without_what_acts() -> None:
    text = json.dumps(["\x9b2J", "abc\u202edef", "\u2028", "模型 naïve 🚀"], ensure_ascii=False)

    assert json.loads(spelled(text)) == json.loads(text)
    assert spelled(text) == r'["\u009b2J", "abc\u202edef", "\u2028", "模型 naïve 🚀"]'
