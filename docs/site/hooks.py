"""What MkDocs does besides its plugins: pages from the whole repository, links to code, mathematics as MathML.

MkDocs calls the functions `on_*`; mkdocs.yml names this file.
"""

import os.path
import re
from html import unescape
from pathlib import PurePosixPath

from latex2mathml.converter import convert
from links import IMAGES, ROOT, cells, configs, imported, links, map_links, notebooks, pages, resolve, slug
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

LANGUAGES = {".py": "python", ".sbatch": "bash", ".sh": "bash", ".toml": "toml", ".yml": "yaml", ".yaml": "yaml"}
MATHEMATICS = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
# The name of a module, or a string with the name of a Python file, in highlighted code.
NAME_IN_CODE = re.compile(
    r'(?P<start><span class="(?:nn">|s2">(?:&quot;|")))(?P<name>(?<=nn">)[\w.]+|[\w/]+\.py)(?=(?:&quot;|")?</span>)'
)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Give headings the anchors that GitHub gives them."""
    config.mdx_configs["toc"]["slugify"] = slug
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Pages, notebooks, configs and files that a page links to, at their paths in the repository, and the theme."""
    linked = set(configs())
    result = []
    for page in pages():
        result.append(File(page, str(ROOT), config.site_dir, config.use_directory_urls))
        targets = {resolve(page, target) for target, _ in links((ROOT / page).read_text())}
        linked |= {target for target in targets if target and not target.endswith((".md", ".ipynb"))}
    for notebook in notebooks():
        result.append(File.generated(config, f"{notebook}.md", content=notebook_page(notebook)))
    for path in sorted(linked):
        if path.endswith(IMAGES):
            result.append(File(path, str(ROOT), config.site_dir, config.use_directory_urls))
        else:
            result.append(File.generated(config, f"{path}.md", content=source_page(path)))
    result += [file for file in files if file.src_dir in config.theme.dirs]
    return Files(result)


def source_page(path: str) -> str:
    """A page that shows a file of code."""
    language = LANGUAGES.get(PurePosixPath(path).suffix, "text")
    return (
        f"---\nsearch:\n  exclude: true\n---\n# `{path}`\n\n~~~~~~~~{language}\n{(ROOT / path).read_text()}\n~~~~~~~~\n"
    )


def notebook_page(path: str) -> str:
    """A page that shows the cells of a notebook."""
    parts = [f"*This page is the notebook `{path}`, which runs in Jupyter.*"]
    for cell in cells(path):
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    heading, *rest = parts[1:]
    return "\n\n".join([heading, parts[0], *rest])


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to folders to their READMEs, and links to code to the pages that show it."""
    source = page.file.src_uri

    def change(target: str, anchor: str) -> str:
        path = resolve(source, target)
        if not target or path is None:  # MkDocs reports what leads nowhere
            return target + anchor
        shown = path if path.endswith((".md", *IMAGES)) else f"{path}.md"
        return os.path.relpath(shown, PurePosixPath(source).parent) + anchor

    return map_links(markdown, change)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn TeX into MathML, which browsers draw by themselves, and link what a page of code imports."""

    def draw(match: re.Match[str]) -> str:
        return convert(unescape(match[2]), display="block" if match[1] == "div" else "inline")

    if page.file.src_uri.endswith(".py.md"):
        html = linked_code(html, page.file, files)
    return MATHEMATICS.sub(draw, html)


def linked_code(html: str, file: File, files: Files) -> str:
    """Link the modules and the configs that a page of Python names to the pages that show them."""

    def link(match: re.Match[str]) -> str:
        path = imported(file.src_uri.removesuffix(".md"), match["name"])
        shown = files.get_file_from_path(f"{path}.md") if path else None
        if shown is None or shown is file:
            return match[0]
        return f'{match["start"]}<a href="{shown.url_relative_to(file)}">{match["name"]}</a>'

    return NAME_IN_CODE.sub(link, html)
