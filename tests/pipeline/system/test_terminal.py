from __future__ import annotations

import io

import pytest

from pipeline.system.terminal import print_stderr, print_stdout, width_of, wrapped


def test_lines_end_at_spaces_and_words_stay_whole() -> None:
    word = "x" * 50
    assert wrapped(f"one two {word} three", 30) == ["one two", f"  {word}", "  three"]
    assert wrapped("short", 30) == ["short"]
    assert wrapped("a " * 99, None) == ["a " * 99]


def test_parts_that_stay_on_a_line() -> None:
    name = "a name  with spaces.jpg"
    lines = wrapped(f"error: {name}: not an image that d2run reads", 30, [name])
    assert lines == ["error:", f"  {name}: not", "  an image that d2run reads"]


def test_messages_are_escaped_and_hold_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    print_stderr("error: a\x1b[2Jb api_token=hush")
    print_stdout("https://me:hush@host/x")
    out, err = capsys.readouterr()
    assert err == "error: a\\x1b[2Jb api_token=***\n"
    assert out == "https://***@host/x\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colors_and_width_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    print_stderr("error: " + "word " * 20)
    first, *more = terminal.getvalue().splitlines()
    assert first.startswith("\x1b[1;31merror:\x1b[0m word")
    assert more
    assert max(map(len, more)) <= 40
    monkeypatch.setenv("NO_COLOR", "1")
    print_stderr("warning: x")
    assert terminal.getvalue().endswith("\nwarning: x\n")


def test_a_closed_stream(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr", None)
    print_stderr("nobody reads it")
    assert capsys.readouterr().out == ""
    assert width_of(None) is None
    assert width_of(io.StringIO()) is None
