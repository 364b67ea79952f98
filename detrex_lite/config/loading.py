"""Reading config files: Python files that import each other by relative path, and YAML files."""

import builtins
import os
import sys
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import detrex_lite

from ..errors import did_you_mean
from .error import ConfigError
from .nodes import FLAGS, first_line, is_mapping, new_config, to_plain
from .trusted import trust


class ConfigImportError(ConfigError, ImportError):
    """An import between config files that fails."""


def load(path: str | os.PathLike, keys: str | tuple[str, ...] | None = None) -> Any:
    """Load a Python or YAML config file. Results of separate calls share nothing, not even common imports.

    A Python file is code and is executed: only load files that you would run as a program. A YAML file is data, and may
    only call parts of trusted packages (see `trust`).

    In a Python file, the variables whose values are dicts or omegaconf containers make up the config, except for names
    that begin with `_`. Relative imports (`from ..common.train import train`) find config files by their path and
    convert dicts to config nodes. Imports of ordinary modules work as in Python, and also find modules in the folder of
    the file and the package that contains it. `train.trusted` names further packages for YAML files and overrides.

    Args:
        path: a file ending in .py, .yaml or .yml. If it does not exist, the configs of the package are searched:
            `projects/...`, `configs/...`.
        keys: return the value of this variable, of any type, or a tuple of the values of several variables.

    Raises:
        ConfigError: there is no such file or key, a config file cannot be read or imported, a Python file raises an
            exception (the `__cause__`) or exits, or a YAML file is not a mapping.
    """
    file = _existing_file(Path(os.path.expanduser(path)))
    if file.suffix == ".py":
        _make_importable(file.parent)
        values: Any = _run(file)
        _trust_packages(values.get("train"), file)
    elif file.suffix in (".yaml", ".yml"):
        values = _read_yaml(file)
    else:
        raise ConfigError(f"config file {str(path)!r} must end in .py, .yaml or .yml")
    if keys is None:
        return _config_of(values) if file.suffix == ".py" else values
    for key in (keys,) if isinstance(keys, str) else keys:
        if key not in values:
            raise ConfigError(f"{path} defines no {key!r}{did_you_mean(key, _public(values))}")
    if isinstance(keys, str):
        return _as_config(values[keys])
    return tuple(_as_config(values[key]) for key in keys)


def load_rel(path: str | os.PathLike, keys: str | tuple[str, ...] | None = None) -> Any:
    """`load` a file by its path relative to the calling file."""
    caller = Path(sys._getframe(1).f_code.co_filename)
    return load(caller.parent / path, keys)


def get_config(name: str) -> DictConfig:
    """Load a config file of the package.

    Args:
        name: its path below `configs/` (`"common/train.py"`), or from the top: `"projects/detr/configs/..."`.

    Raises:
        ConfigError: there is no such file.
    """
    file = _shipped_file(name)
    if file is None:
        names = [shipped.removeprefix("configs/") for shipped in _shipped_names()]
        raise ConfigError(f"no config {name!r} in configs/ and projects/{did_you_mean(name, names)}")
    return load(file)


def _existing_file(path: Path) -> Path:
    if path.is_file():
        return Path(os.path.abspath(path))
    if path.is_dir():
        files = sorted(file.name for file in path.iterdir() if file.suffix in (".py", ".yaml", ".yml"))
        holds = f", which holds {', '.join(files[:5])}{', ...' * (len(files) > 5)}" if files else ""
        raise ConfigError(f"config file {str(path)!r} is a folder{holds}; give a file")
    shipped = None if path.is_absolute() else _shipped_file(path.as_posix())
    if shipped is None:
        neighbours = [str(file) for file in path.parent.glob("*.*")]
        hint = did_you_mean(str(path), [*neighbours, *_shipped_names()])
        raise ConfigError(f"there is no config file {str(path)!r}, here or in the package{hint}")
    return shipped


def _shipped_file(name: str) -> Path | None:
    candidates = [f"configs/{name}"]
    if name.startswith(("configs/", "projects/")):
        candidates.append(name)
    files = [detrex_lite.SHIPPED_IN / candidate for candidate in candidates]
    return next((file for file in files if file.is_file()), None)


def _shipped_names() -> list[str]:
    files = {
        file.relative_to(detrex_lite.SHIPPED_IN).as_posix()
        for pattern in ("configs/*/**/*.py", "projects/*/configs/**/*.py")
        for file in detrex_lite.SHIPPED_IN.glob(pattern)
    }
    return sorted(files)


def _run(file: Path, importers: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Execute a config file and return its namespace, a new one for each call.

    The `__import__` of the file executes other config files in the same way, instead of sharing them through
    `sys.modules`. Therefore changes after one load do not affect another, and folders need no `__init__.py`.
    """

    def import_(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        imported = _relative_file(file, name, level) if level else shipped_module(name)
        if imported is None or not fromlist:
            return builtins.__import__(name, globals, locals, fromlist, level)
        return _module(imported, fromlist, (*importers, file))

    if file in importers:
        chain = " -> ".join(str(path) for path in (*importers[importers.index(file) :], file))
        raise ConfigImportError(f"config files import each other in a cycle: {chain}")
    namespace = {
        "__name__": f"lazyconfig.{file.stem}",
        "__file__": str(file),
        "__builtins__": {**vars(builtins), "__import__": import_},
    }
    try:
        exec(_compile(file), namespace)
    except SystemExit as error:
        raise ConfigError(f"{file} exits (sys.exit({error.code!r})) before the config is complete") from error
    except ConfigError:  # of an imported file, or of a function that the file calls
        raise
    except Exception as error:
        kind = ConfigImportError if isinstance(error, ImportError) else ConfigError
        raise kind(_located(error, file)) from error
    return namespace


def _located(error: Exception, file: Path) -> str:
    """Describe an exception of a config file, with its line in the file and the location where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    line = [frame.lineno for frame in frames if frame.filename == str(file)][-1]
    text = first_line(error) if isinstance(error, OmegaConfBaseException) else str(error)
    message = f"{file}, line {line}: {type(error).__name__}: {text}"
    # Missing modules and missing attributes of a config are faults of the config, wherever they are raised.
    origin = next((frame for frame in reversed(frames) if not frame.filename.startswith("<")), frames[-1])
    is_config_fault = origin.filename == str(file) or isinstance(error, (ModuleNotFoundError, OmegaConfBaseException))
    return message if is_config_fault else f"{message} (raised in {origin.filename}, line {origin.lineno})"


def _compile(file: Path) -> CodeType:
    try:
        # Read as bytes, as Python does: with a byte order mark or a line that names another encoding.
        return compile(_bytes(file), str(file), "exec", dont_inherit=True)
    except SyntaxError as error:
        text = f": {error.text.strip()}" if error.text else ""
        raise ConfigError(f"{file}, line {error.lineno or 1}: {error.msg}{text}") from error
    except ValueError as error:  # for example for null bytes
        raise ConfigError(f"{file}: {error}") from error


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(f"config file {file} cannot be read: {error.strerror or error}") from error


def _make_importable(folder: Path) -> None:
    """Let a config import modules from its folder and its package; modules found elsewhere have precedence."""
    if folder.is_relative_to(detrex_lite.SHIPPED_IN):
        return
    outside = folder
    while (outside / "__init__.py").is_file():
        outside = outside.parent
    sys.path += [str(path) for path in dict.fromkeys((folder, outside)) if str(path) not in sys.path]


def _trust_packages(train: Any, file: Path) -> None:
    """Trust the packages in `train.trusted` of a Python config."""
    names = to_plain(train, resolve=False).get("trusted") if is_mapping(train) else None
    if not isinstance(names, (list, tuple, type(None))):
        raise ConfigError(f"{file}: train.trusted={names!r} must be a list of packages, such as ['my_detectors']")
    trust(*names or ())


def _relative_file(importer: Path, name: str, level: int) -> Path:
    folder = importer.parents[level - 1]
    base = folder.joinpath(*name.split(".")) if name else folder
    file = base.with_name(f"{base.name}.py")
    if name and file.is_file():
        return file
    written = "." * level + name
    if base.is_dir():
        raise ConfigImportError(f"{importer}: {written!r} is a folder; import from a file in it")
    hint = did_you_mean(base.name, [path.stem for path in base.parent.glob("*.py")])
    raise ConfigImportError(f"{importer}: cannot import {written!r}, there is no {file}{hint}")


def shipped_module(name: str) -> Path | None:
    """Return the file of a config with a full module name, such as `detrex_lite.configs.common.train`."""
    package, _, module = name.partition(".")
    parts = module.split(".")
    if package != detrex_lite.__name__ or "configs" not in (parts[0], *parts[2:3]):
        return None
    return _shipped_file("/".join(parts) + ".py")


def config_module(path: str | os.PathLike) -> dict[str, Any]:
    """Return the variables of a config file, with dicts as config nodes."""
    return {name: _as_config(value) for name, value in _run(Path(path)).items() if not name.startswith("__")}


def _module(file: Path, names: Iterable[str], importers: tuple[Path, ...]) -> ModuleType:
    """Create a module with the imported names of a config file, with dicts as config nodes."""
    values = _run(file, importers)
    module = ModuleType(values["__name__"])
    vars(module).update(values)
    public = _public(values)
    for name in public if "*" in names else names:
        if name not in values:
            raise ConfigImportError(f"{importers[-1]}: {file} defines no {name!r}{did_you_mean(name, public)}")
        setattr(module, name, _as_config(values[name]))
    return module


def _public(values: Mapping[str, Any]) -> list[str]:
    return [name for name in values if not str(name).startswith("_")]


def _as_config(value: Any) -> Any:
    return new_config(value) if isinstance(value, dict) else value


def _config_of(values: Mapping[str, Any]) -> DictConfig:
    """Join the variables of a config file that are configs to one config."""
    names = [name for name in _public(values) if isinstance(values[name], (dict, DictConfig, ListConfig))]
    return new_config({name: to_plain(values[name], resolve=False) for name in names})


def _read_yaml(file: Path) -> DictConfig:
    content = _bytes(file)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(f"{file}, line {line} is not UTF-8 text: {error.reason}") from error
    return load_text(text, f"config file {file}")


def load_text(text: str, source: str) -> DictConfig:
    """Read a config from YAML text, such as that in a checkpoint.

    Args:
        text: YAML.
        source: a description of where the text is from, for messages.

    Raises:
        ConfigError: when it is not a mapping of keys.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if not isinstance(root, yaml.MappingNode):
            kind = "is empty" if root is None else "holds a list" if root.id == "sequence" else "holds a single value"
            raise ConfigError(f"{source} {kind}; a config is a mapping of keys such as model and train")
        cfg: Any = OmegaConf.create(text, flags=FLAGS)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise ConfigError(f"{source}{where} is not a YAML config: {problem}") from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{source} is not a YAML config: {first_line(error)}") from error
    _refuse_trust(cfg, source)
    return cfg


def _refuse_trust(cfg: DictConfig, source: str) -> None:
    """Raise an error if a YAML file, which may come from anyone, allows its checkpoint to run code."""
    train = to_plain(cfg, resolve=False).get("train")
    trust_checkpoint = train.get("trust_init_checkpoint", False) if isinstance(train, dict) else False
    if trust_checkpoint is not False:
        raise ConfigError(
            f"{source}: train.trust_init_checkpoint={trust_checkpoint} is not allowed in YAML, which may come from "
            "anyone; if you trust the checkpoint, remove the line and pass it on the command line"
        )
