"""A terminal's screen as an SVG picture that needs nothing from elsewhere: no font, no script, no address."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

_FONT = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"
_THEME = TerminalTheme(
    background=(22, 24, 33),
    foreground=(208, 212, 222),
    normal=[
        (69, 71, 90),
        (243, 139, 168),
        (166, 218, 149),
        (238, 212, 159),
        (138, 173, 244),
        (198, 160, 246),
        (139, 213, 202),
        (184, 192, 224),
    ],
)
_FORMAT = f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{width}} {{height}}" width="{{width}}" height="{{height}}">
<style>
.{{unique_id}}-matrix {{{{ font-family: {_FONT}; font-size: {{char_height}}px; }}}}
.{{unique_id}}-title {{{{ font-family: {_FONT}; font-size: 16px; }}}}
{{styles}}
</style>
<defs>
<clipPath id="{{unique_id}}-clip-terminal">
<rect x="0" y="0" width="{{terminal_width}}" height="{{terminal_height}}"/>
</clipPath>
{{lines}}
</defs>
{{chrome}}
<g transform="translate({{terminal_x}}, {{terminal_y}})" clip-path="url(#{{unique_id}}-clip-terminal)">
{{backgrounds}}
<g class="{{unique_id}}-matrix">
{{matrix}}
</g>
</g>
</svg>
"""
_SIZE = re.compile(r'<svg ([^>]*?) width="(?P<width>[\d.]+)" height="(?P<height>[\d.]+)">')
_CODES = re.compile(r"\x1b\[[0-9;]*m")
_RARE = str.maketrans("⎿", "└")
"""Characters that many fonts do not have, and those that stand for them here."""
_GAP = 16


def plain(line: str) -> str:
    """A line without its colours."""
    return _CODES.sub("", line)


def draw(screen: str, columns: int, title: str) -> str:
    """One terminal, with a title on its frame."""
    console = Console(record=True, width=columns, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi(screen.rstrip().translate(_RARE)), overflow="fold", highlight=False)
    console.print()  # the last line must not touch the frame
    name = f"screen-{re.sub(r'[^a-z0-9]+', '-', title.lower())}"
    drawn = console.export_svg(title=title, theme=_THEME, code_format=_FORMAT, unique_id=name)
    return "\n".join(line.rstrip() for line in drawn.splitlines() if line.strip()) + "\n"


def stack(pictures: Sequence[str]) -> str:
    """Several pictures below one another."""
    y, widest, parts = 0.0, 0.0, []
    for picture in pictures:
        size = _SIZE.search(picture)
        assert size
        parts.append(picture.replace("<svg ", f'<svg y="{y:g}" ', 1))
        y += float(size["height"]) + _GAP
        widest = max(widest, float(size["width"]))
    head = f'viewBox="0 0 {widest:g} {y - _GAP:g}" width="{widest:g}" height="{y - _GAP:g}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {head}>\n{"".join(parts)}</svg>\n'


def trimmed(screen: str, since: str = "", upto: str = "") -> str:
    """The lines from the one with `since` up to the one with `upto`, that excluded, without runs of empty ones."""
    lines = screen.splitlines()
    first = next((n for n, line in enumerate(lines) if since in plain(line)), 0)
    last = next((n for n, line in enumerate(lines) if upto and n > first and upto in plain(line)), len(lines))
    kept: list[str] = []
    for line in lines[first:last]:
        if plain(line).strip() or (kept and plain(kept[-1]).strip()):
            kept.append(line)
    return "\n".join(kept).rstrip()
