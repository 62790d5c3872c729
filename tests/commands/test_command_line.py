"""`python -m lib_oms`: commands, exit codes, and that an error is one readable line."""

from __future__ import annotations

import os
import subprocess
import sys
import types

import pytest
from module_helpers import tiny_psi

from lib_oms import __main__ as command_line
from lib_oms.errors import OMSError


@pytest.fixture
def command(monkeypatch):
    """A command `try` that does what the test puts into `module.main`."""
    module = types.ModuleType("oms_test_command")
    module.add_arguments = lambda parser: parser.add_argument("--number", type=int, default=1)
    module.main = lambda args: args.number
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(command_line.COMMANDS, "try", (module.__name__, "does nothing"))
    return module


def test_a_command_gets_its_arguments_and_gives_the_exit_code(command):
    assert command_line.main(["try", "--number", "7"]) == 7


def test_an_error_is_one_line_and_code_2(command, capsys):
    def fail(args):
        raise OMSError("The picture x.png cannot be read: replace it.")

    command.main = fail
    assert command_line.main(["try"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "error: The picture x.png cannot be read: replace it.\n"
    assert captured.out == ""


def test_ctrl_c_is_code_130(command, capsys):
    def interrupt(args):
        raise KeyboardInterrupt

    command.main = interrupt
    assert command_line.main(["try"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_other_errors_keep_their_traceback(command):
    def bug(args):
        raise RuntimeError("a bug")

    command.main = bug
    with pytest.raises(RuntimeError, match="a bug"):
        command_line.main(["try"])


@pytest.mark.parametrize("words", [[], ["nonsense"], ["try", "--number", "many"]])
def test_wrong_words_are_code_2(command, words):
    with pytest.raises(SystemExit) as stopped:
        command_line.main(words)
    assert stopped.value.code == 2


def test_help_names_the_commands_without_importing_them(root):
    code = (
        "import sys\nfrom lib_oms.__main__ import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    for name in command_line.COMMANDS:
        assert name in done.stdout


@pytest.mark.parametrize("words", [["models"], ["models", "--json"], ["inspect"], ["convert"]])
def test_a_name_that_the_console_cannot_show(root, tmp_path, words):
    """As where the output goes into a file on Windows."""
    module = tmp_path / "暗.safetensors"
    tiny_psi(24, metadata={"oms.latents": "sd"}).save_pretrained(module)
    more = {"models": ["--models-dir", tmp_path], "inspect": [module], "convert": [module, tmp_path / "明.safetensors"]}
    done = subprocess.run(
        [sys.executable, "-m", "lib_oms", *words, *map(str, more[words[0]])],
        cwd=root,
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "cp1252"},
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b"\\u" in done.stdout


def test_train_says_what_its_options_are(capsys):
    with pytest.raises(SystemExit) as stopped:
        command_line.main(["train", "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for option in ("--data", "--model", "--resolution", "--ema-decay", "--no-channels-last", "{tiny,base,large}"):
        assert option in text


def test_train_without_pictures_is_one_line(tmp_path, capsys):
    words = ["train", "--data", str(tmp_path), "--model", str(tmp_path), "--latents", "sd", "--output", str(tmp_path)]
    assert command_line.main(words) == 2
    assert capsys.readouterr().err.startswith(f"error: No pictures in {tmp_path}")
