"""Completion of commands in shells."""

import shutil
import subprocess
import sys

import pytest

from detrex_lite import cli
from detrex_lite.cli.completion import SHELLS


def test_without_shtab_the_error_says_how_to_install_the_package(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert cli.main(["completion", "bash"]) == 2
    assert "pip install 'detrex-lite[completion]'" in capsys.readouterr().err


@pytest.mark.parametrize("shell", SHELLS)
def test_scripts_have_commands_options_models_and_checkpoints(shell, capsys, tmp_path):
    pytest.importorskip("shtab")
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("convert-checkpoint", "fine-tune", "rtdetrv2_r18", "dino_r50_4scale_12ep_ema"):
        assert word in script
    program = shutil.which(shell)
    if program is not None:  # an installed shell accepts the script
        (tmp_path / "script").write_text(script)
        subprocess.run([program, "-n", str(tmp_path / "script")], check=True)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_models(capsys, tmp_path):
    pytest.importorskip("shtab")
    cli.main(["completion", "bash"])
    (tmp_path / "script").write_text(capsys.readouterr().out)
    shell_commands = (
        f"source {tmp_path / 'script'}; COMP_WORDS=(detrex-lite train rtdetrv2_r18_); COMP_CWORD=2; COMP_TYPE=9; "
        "$(complete -p detrex-lite | sed 's/.*-F \\([^ ]*\\).*/\\1/') detrex-lite rtdetrv2_r18_ train; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    result = subprocess.run(["bash", "-c", shell_commands], capture_output=True, text=True, check=True)
    assert {"rtdetrv2_r18_120ep", "rtdetrv2_r18_custom"} <= set(result.stdout.split()), result.stderr
