"""How Sphinx builds the documentation: from Markdown, without anything fetched from elsewhere."""

import re
from pathlib import Path

_VERSION = re.compile(r'^__version__ = "(.+)"', re.MULTILINE)
_PACKAGE = Path(__file__).parents[1] / "src" / "claude_bus" / "__init__.py"

project = "claude-bus"
author = "The claude-bus authors"
copyright = author  # noqa: A001 - Sphinx's own name for it
release = version = _VERSION.findall(_PACKAGE.read_text(encoding="utf-8"))[0]

extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
exclude_patterns = ["_build"]
nitpicky = True

html_theme = "furo"
html_title = "claude-bus"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
