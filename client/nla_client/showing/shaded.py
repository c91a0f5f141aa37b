"""A text as HTML for notebooks, in shades, with more on hover. No script, and nothing of the text is taken for HTML.

The shades are half transparent, so that they suit light and dark pages; JupyterLab says itself which it is.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from nla_client.showing.display import AS_IT_IS

_LIGHT: Final = "--nla-more:37,99,235;--nla-less:217,119,6;--nla-none:110,110,110"
_DARK: Final = "--nla-more:96,165,250;--nla-less:251,191,36;--nla-none:160,160,160"
_STYLE: Final = f"""<style>
.nla-text{{{_LIGHT};color:var(--jp-content-font-color1,inherit);line-height:1.7;max-width:60em}}
@media (prefers-color-scheme:dark){{.nla-text{{{_DARK}}}}}
[data-jp-theme-light="true"] .nla-text{{{_LIGHT}}}
[data-jp-theme-light="false"] .nla-text{{{_DARK}}}
.nla-text div{{white-space:pre-wrap;overflow-wrap:anywhere}}
.nla-text span{{border-radius:3px;cursor:help}}
.nla-text .nla-marked{{text-decoration:underline dotted}}
.nla-text small{{color:var(--jp-content-font-color2,inherit)}}
</style>"""
_FAINTEST, _STRONGEST = 0.08, 0.6
_NOTHING: Final = "·"
"""Stands for what has no characters of its own."""


@dataclass(frozen=True, slots=True)
class Patch:
    """A piece of the text.

    Attributes:
        start: Characters of the text before it.
        end: Characters of the text up to its end.
        strength: From -1 to 1; None is grey.
        told: What is shown on hover.
        marked: Underlined.
    """

    start: int
    end: int
    strength: float | None
    told: str
    marked: bool = False


def text(whole: str, patches: Sequence[Patch], legend: str) -> str:
    """Form the text with its patches; of those that share characters, the last gives the shade."""
    parts, done = list[str](), 0
    for group in _grouped(patches):
        start, end = max(done, group[0].start), max(done, group[-1].end)
        parts += [html.escape(whole[done:start]), _span(whole[start:end], group)]
        done = end
    parts.append(html.escape(whole[done:]))
    shaded = f"<div>{''.join(parts)}</div><small>{html.escape(legend)}</small>"
    return f'{_STYLE}<div class="nla-text {AS_IT_IS}">{shaded}</div>'


def _grouped(patches: Sequence[Patch]) -> list[list[Patch]]:
    """Patches in order, together where one has no characters that the one before has not."""
    groups = list[list[Patch]]()
    for patch in sorted(patches, key=lambda patch: (patch.start, patch.end)):
        if groups and patch.start < patch.end <= groups[-1][-1].end:
            groups[-1].append(patch)
        else:
            groups.append([patch])
    return groups


def _span(shown: str, group: Sequence[Patch]) -> str:
    told = html.escape("\n\n".join(patch.told for patch in group)).replace("\n", "&#10;")
    marked = ' class="nla-marked"' if any(patch.marked for patch in group) else ""
    shade = _shade(group[-1].strength)
    return f'<span{marked} style="background:{shade}" title="{told}">{html.escape(shown) or _NOTHING}</span>'


def _shade(strength: float | None) -> str:
    if strength is None:
        return "rgba(var(--nla-none),0.25)"
    alpha = _FAINTEST + (_STRONGEST - _FAINTEST) * min(1.0, abs(strength))
    return f"rgba(var(--nla-{'more' if strength >= 0 else 'less'}),{alpha:.2f})"
