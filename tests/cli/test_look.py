"""One look for all commands: help, JSON, mistakes, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from fxcache.cli import look, main
from fxcache.errors import ConfigError


def commands(group: click.Group = main, *names: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *names, name)
        else:
            yield (*names, name), command


@pytest.mark.parametrize(("names", "command"), [pytest.param(n, c, id="-".join(n)) for n, c in commands()])
def test_every_command_has_json_and_explains_itself(names: tuple[str, ...], command: click.Command) -> None:
    assert any(o.name == "as_json" for o in command.params)
    result = CliRunner().invoke(main, [*names, "--help"])
    assert result.exit_code == 0 and max(map(len, result.output.splitlines())) <= 80


def test_help_has_exit_codes_and_completion() -> None:
    text = " ".join(CliRunner().invoke(main, ["--help"]).output.split())
    assert "Exit codes: 0 done; 1" in text and "_FXCACHE_COMPLETE=bash_source" in text


def test_the_shell_completes() -> None:
    words = {"_FXCACHE_COMPLETE": "bash_complete", "COMP_WORDS": "fxcache do", "COMP_CWORD": "1"}
    result = CliRunner().invoke(main, [], prog_name="fxcache", env=words)
    assert result.output.strip() == "plain,doctor"


@pytest.mark.parametrize(
    "words", [["--help"], ["export", "--help"], ["bench", "run", "--help"]], ids=" ".join
)
def test_help_waits_for_no_library(words: list[str]) -> None:
    code = (
        f"import sys; from fxcache.cli import main; main({words}, standalone_mode=False); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "Usage:" in done.stdout, done.stderr
    slow = {"torch", "diffusers", "transformers", "matplotlib", "numpy", "yaml"}
    assert not slow & set(done.stdout.splitlines()[-1].split())


def test_any_error_of_fxcache_is_one_line_and_exit_code_1() -> None:
    @click.group(cls=look.Commands)
    def group() -> None: ...

    @group.command()
    def fails() -> None:
        raise ConfigError("steps", -1, "must be\nat least 1")

    result = CliRunner().invoke(group, ["fails"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: CacheConfig.steps = -1: must be at least 1\n"


def test_a_table_fits_a_pipe_and_keeps_all_words() -> None:
    @click.command()
    def prints() -> None:
        look.table("a [title]", ("setting", "psnr"), [("F1B0_" * 30, "[42.0] dB")])

    text = CliRunner().invoke(prints).output
    assert max(map(len, text.splitlines())) <= 80 and "[title]" in text and "[42.0] dB" in text
    assert "".join(line.split()[0] for line in text.splitlines() if "F1B0" in line) == "F1B0_" * 30


def test_json_is_all_of_stdout() -> None:
    @click.command()
    def prints() -> None:
        with look.aside(True):
            print("on the way")
        look.print_json({"found": 1})

    assert json.loads(CliRunner().invoke(prints).stdout) == {"found": 1}
