import json
import resource
import subprocess
import sys

import pytest

from detrex_lite import cli
from detrex_lite.checkpoint import KEY_MAPS
from detrex_lite.cli import benchmark as benchmark_arguments
from detrex_lite.cli import convert_checkpoint, export
from detrex_lite.cli.registry import find_command
from detrex_lite.inference import description
from detrex_lite.inference.export import FORMATS, api, formats
from detrex_lite.tools.benchmark import commands as benchmark
from detrex_lite.tools.benchmark import contenders, measurements, models, settings

PRINT_HELP_OF_ALL = """
import contextlib, io, json, sys, time
from detrex_lite import cli
seconds, helps = {}, {}
from detrex_lite.cli.benchmark import MEASURED
for words in [*([name] for name in cli.COMMANDS), *(["benchmark", name] for name in MEASURED)]:
    name = " ".join(words)
    start, text = time.process_time(), io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        cli.main([*words, "--help"])
    seconds[name], helps[name] = time.process_time() - start, text.getvalue()
print(json.dumps([seconds, helps, sorted({name.split(".")[0] for name in sys.modules})]))
"""


def test_help_of_every_command_is_fast_and_imports_no_heavy_package():
    result = subprocess.run([sys.executable, "-c", PRINT_HELP_OF_ALL], capture_output=True, text=True, check=True)
    seconds, helps, modules = json.loads(result.stdout)
    assert {"torch", "numpy", "omegaconf"} & set(modules) == set()
    assert max(seconds.values()) < 0.5
    for name in cli.COMMANDS:
        assert find_command(name).SUMMARY in helps[name]
        assert 1 <= helps[name].count(f"\n  detrex-lite {name}") <= 3


def test_help_takes_less_than_half_a_second():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run(
        [sys.executable, "-m", "detrex_lite", "train", "--help"], capture_output=True, text=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # The time on a processor, which is the time to wait on an idle machine; other programs do not change it.
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 0.5
    assert result.stdout.startswith("usage: detrex-lite train")


def test_the_main_help_lists_every_command(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--help"])
    listed = capsys.readouterr().out
    assert cli.main([]) == 2
    assert capsys.readouterr().err == listed
    for name in cli.COMMANDS:
        assert name == find_command(name).NAME
        assert f"  {name} " in listed


def test_the_function_of_each_command_exists():
    for name in cli.COMMANDS:
        module, _, function = find_command(name).RUN.rpartition(".")
        assert callable(getattr(__import__(module, fromlist=[function]), function))


def test_constants_in_the_help_equal_those_of_the_heavy_modules():
    assert tuple(FORMATS) == export.FORMATS
    assert tuple(api.LIMITS) == export.PRECISIONS
    assert (description.INSIDE, description.OUTSIDE) == (export.INSIDE, export.OUTSIDE)
    assert formats.FIRST_OPSET == export.FIRST_OPSET
    assert tuple(dict.fromkeys(key_map.name for key_map in KEY_MAPS)) == convert_checkpoint.FORMATS
    assert tuple(benchmark.PARSERS) == tuple(measurements.MEASUREMENTS) == benchmark_arguments.MEASURED
    assert tuple(models.AUTOCAST_DTYPES) == settings.PRECISIONS
    assert tuple(contenders.CONTENDERS) == settings.OTHERS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "did you mean 'train'?"),
        (["yolo"], "there is no command 'yolo'"),
        (["--vers"], "did you mean --version?"),
        (["report", "a", "--ou", "b"], "--ou: did you mean --out?"),  # no abbreviations
        (["predict", "a.jpg", "--model", "a", "--cnof", "0.2"], "--cnof: did you mean --conf?"),
        (["predict", "a.jpg", "--model", "a", "--save-dir=b"], "--save-dir: did you mean --output?"),
    ],
)
def test_misspelt_commands_and_options_are_corrected(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments)
    assert message in capsys.readouterr().err


def test_benchmarks_need_the_repository(monkeypatch, capsys):
    monkeypatch.setattr("detrex_lite.cli.benchmark.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["benchmark", "op", "deformable_attention"])
    assert exit_info.value.code == 2
    assert "repository" in capsys.readouterr().err
