"""The shell commands in the documentation are valid: programs, options, configs, keys and names exist."""

import copy
import functools
import re
import shlex

import pytest

from detrex_lite.cli import COMMANDS, parser_of
from detrex_lite.cli.models import shipped_names
from detrex_lite.config import ConfigError, LazyConfig
from detrex_lite.errors import printable
from detrex_lite.tools.benchmark import commands as benchmark
from detrex_lite.zoo import ZooError, load_zoo, select

from .pages import ROOT, commands, links, text

# Programs that are not part of this project; their arguments are not checked.
FOREIGN_PROGRAMS = ("git", "sbatch", "source", "trtexec", "twine", ".venv/bin/pre-commit")
INLINE = re.compile(r"`(detrex-lite [^`]+)`")
PLACEHOLDERS = {  # the word on a page -> a valid value
    "FILE": "config.py",
    "CONFIG": "config.py",
    "F": "config.py",
    "MODEL": "dino",
    "NAME": "dino_r50_4scale_12ep",
}
SHIPPED = ("projects/", "configs/")
PAGES = [page for page in links.pages() if page != "CHANGELOG.md"]


def commands_of(page):
    """The words of each command of a page, in code blocks (up to a pipe or redirection) and in sentences."""
    for words in commands(page):
        yield first_command(words)
    for command in INLINE.findall(text(page)):
        words = shlex.split(re.sub(r"\|\w+", "", command))  # only the first of several alternatives
        is_name = len(words) == 2 or (words[1] == "benchmark" and len(words) == 3)
        if "..." not in words and not is_name:
            yield first_command(words)


def first_command(words):
    """The words up to a pipe or a redirection."""
    end = next((index for index, word in enumerate(words) if word in ("|", "||", "&&", ">")), len(words))
    return words[:end]


def command_and_arguments(words):
    """The command of detrex-lite that a command line runs, and its arguments; None for programs of others.

    Raises:
        ValueError: when the program is unknown.
    """
    if words[0] == "torchrun" and "-m" in words:
        return command_and_arguments(["python", *words[words.index("-m") :]])
    if words[0] == "torchrun":
        program = next(index for index, word in enumerate(words) if word == "-m" or word.endswith(".py"))
        return command_and_arguments(["python", *words[program:]])
    if words[0] == "detrex-lite":
        return words[1], words[2:]
    if words[:2] == ["python", "-m"]:
        if words[2] == "detrex_lite":
            return words[3], words[4:]
        name = re.fullmatch(r"detrex_lite(?:\.tools)?\.(\w+)", words[2])[1]
        return script_command(name) if name in scripts() else name, words[3:]
    if words[0] == "python" and words[1].startswith("tools/"):
        return script_command(words[1].removeprefix("tools/").removesuffix(".py")), words[2:]
    if words[0] in FOREIGN_PROGRAMS or (words[0] == "python" and words[1].startswith("detectron2/")):
        return None
    raise ValueError(f"unknown program {words[0]!r}")


def scripts():
    return {path.stem for path in ROOT.glob("tools/*.py")} - {"__init__"}


def script_command(name):
    return re.search(r'program\("(.+?)"\)', (ROOT / f"tools/{name}.py").read_text())[1]


def fault_of(words):
    """The fault of a command line, as text; None if it is valid."""
    if re.fullmatch(r"\w+=.*", words[0]) or words[0] == "export":
        return None
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return next((f"no target {word}" for word in words[1:] if "=" not in word and word not in targets), None)
    if words[0] == "pip" or words[:3] == ["python", "-m", "pip"]:
        extras = re.findall(r"(?:lite|\.)\[(.+?)\]", " ".join(words))
        unknown = {name for names in extras for name in names.split(",")} - declared_extras()
        return f"no extra {', '.join(unknown)}" if unknown else None
    parsed = command_and_arguments(words)
    if parsed is None:
        return None
    name, arguments = parsed
    if name not in COMMANDS:
        return f"no command {name}"
    arguments = [PLACEHOLDERS.get(word, word) for word in arguments if not word.startswith("$")]
    args = parser_of(name).parse(arguments)
    if name == "benchmark":
        benchmark.PARSERS[args.what]().parse(args.arguments)
    return fault_of_names(name, args) or fault_of_config(args)


def declared_extras():
    return set(re.findall(r'^        "([\w-]+)": ', (ROOT / "setup.py").read_text(), re.MULTILINE))


@functools.cache
def zoo():
    return load_zoo()


def fault_of_names(name, args):
    published = [args.model] if name in ("predict", "export") and args.model else []
    if name == "zoo" and not args.table:
        published += args.names
    for checkpoint in published:
        try:
            select(zoo(), [checkpoint])
        except ZooError as error:
            return str(error)
    return None


@functools.cache
def load_config(file):
    return LazyConfig.load(file)


def fault_of_config(args):
    config = next((value for key in ("config_file", "file", "model") if (value := getattr(args, key, None))), "")
    file = shipped_names().config_of(config) or ROOT / config
    words = [*getattr(args, "opts", ()), *getattr(args, "overrides", ())]
    overrides = [word for word in words if "=" in word]
    if not config.startswith(SHIPPED) and not file.is_file():
        return None  # a file that the reader writes
    if not file.is_file():
        return f"no config {config}"
    try:
        if overrides:
            LazyConfig.apply_overrides(copy.deepcopy(load_config(str(file))), overrides)
    except ConfigError as error:
        return str(error)
    return None


@pytest.mark.parametrize("page", [page for page in PAGES if any(commands_of(page))])
def test_commands_of_pages_are_valid(page, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    faults = []
    for words in commands_of(page):
        if "--data" in words:
            (tmp_path / words[words.index("--data") + 1]).mkdir(parents=True, exist_ok=True)
        try:
            fault = fault_of(words)
        except SystemExit:
            fault = capsys.readouterr().err
        if fault:
            faults.append(f"{printable(' '.join(words))}: {fault}")
    assert faults == []


@pytest.mark.parametrize(
    "line",
    [
        "detrex-lite trian --config-file FILE",
        "python tools/train_net.py --config FILE",
        "python tools/train_net.py --config-file projects/detr/configs/detr_r51_300ep.py",
        "python tools/train_net.py --config-file projects/detr/configs/detr_r50_300ep.py train.max_itr=1",
        "detrex-lite predict --model dino_r51 photo.jpg",
        "detrex-lite benchmark model --batches 3 FILE",
        "detrex-lite zoo list dinosaur",
        "detrex-lite train dinosaur",
        "make demos",
        "pip install 'detrex-lite[fast]'",
    ],
)
def test_wrong_commands_are_reported(line, capsys):
    try:
        fault = fault_of(shlex.split(line))
    except SystemExit:
        fault = capsys.readouterr().err
    assert fault
