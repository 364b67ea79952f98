"""Check the types of all that the wheel holds, `projects`, `configs` and `tools` included.

A checkout has these folders beside the package, where no type checker finds them as `detrex_lite.projects`. Links in
build/types put the parts together as an installed package has them; mypy reads that, and so can editors.

python .ci/check_types.py [arguments of mypy]
"""

import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAID_OUT = ROOT / "build" / "types"
BESIDE = ("configs", "projects", "tools")


def lay_out() -> None:
    """Make the links, and remove those to what is there no longer."""
    package = LAID_OUT / "detrex_lite"
    package.mkdir(parents=True, exist_ok=True)
    parts = {part.name: part for part in [*(ROOT / "detrex_lite").iterdir(), *(ROOT / name for name in BESIDE)]}
    for link in package.iterdir():
        if link.readlink() != parts.get(link.name):
            link.unlink(missing_ok=True)
    for name, part in parts.items():
        with suppress(FileExistsError):
            (package / name).symlink_to(part)


def check(arguments: list[str]) -> int:
    """Print what mypy reports, by the paths of the checkout; return its exit status."""
    mypy = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    mypy += ["--cache-dir", str(ROOT / ".mypy_cache"), "--package", "detrex_lite", *arguments]
    # From that folder, as mypy takes a package of the current folder before all others.
    done = subprocess.run(mypy, cwd=LAID_OUT, stdout=subprocess.PIPE, text=True, check=False)
    print(re.sub(rf"^detrex_lite/(?=(?:{'|'.join(BESIDE)})/)", "", done.stdout, flags=re.MULTILINE), end="")
    return done.returncode


if __name__ == "__main__":
    lay_out()
    sys.exit(check(sys.argv[1:]))
