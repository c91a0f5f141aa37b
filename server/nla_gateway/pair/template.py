"""Prompt templates, which their trainers fill by `str.format`. Knows no tokenizer."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Final, Self, assert_never

from nla_gateway.description import Description
from nla_gateway.errors import CheckpointError
from nla_gateway.roles import Role

MARKER_FIELD: Final = "injection_char"
EXPLANATION_FIELD: Final = "explanation"
DEPTH_FIELD: Final = "depth_pct"
AT_THE_MARKER: Final = f"{{{MARKER_FIELD}}}"


@dataclass(frozen=True)
class Template:
    """A template with one field to fill; other braces are doubled."""

    text: str
    field: str
    constants: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Further fields, each with what it always is."""

    @classmethod
    def read(cls, text: str, role: Role, field: str, folder: Path, constants: Mapping[str, str] | None = None) -> Self:
        """Check that the template has its one field, once, and no other but constants.

        Raises:
            CheckpointError: it has not.
        """
        known = constants or {}
        try:
            parsed = [(name, spec or "", way) for _, name, spec, way in Formatter().parse(text) if name is not None]
        except ValueError as error:
            raise CheckpointError(f"{folder}: the {role} template is not one of str.format: {error}") from None
        fields = [name for parts in parsed if (name := _as_written(*parts)) not in known]
        unknown = next((name for name in fields if name != field), None)
        if unknown is not None:
            raise CheckpointError(
                f"{folder}: the {role} template has {{{unknown}}}, which nla-serve cannot fill{_mend(unknown, role)}"
            )
        if len(fields) != 1:
            message = f"the {role} template has {{{field}}} {len(fields)} times; it must be once"
            raise CheckpointError(f"{folder}: {message}")
        return cls(text, field, known)

    def filled(self, value: str) -> str:
        """Fill its field."""
        return self.text.format(**self.constants, **{self.field: value})


def read_template(description: Description, folder: Path) -> Template:
    """Read a checkpoint's template.

    A marker in a reconstructor's must be its end, for the vector is read at the last token.

    Raises:
        CheckpointError: it has not the one field of its role, or others.
    """
    role, text, marker = description.role, description.template, description.marker
    match role:
        case Role.AV:
            return Template.read(text, role, MARKER_FIELD, folder)
        case Role.AR:
            constants = {} if marker is None else {MARKER_FIELD: marker.char}
            template = Template.read(text, role, EXPLANATION_FIELD, folder, constants)
            if AT_THE_MARKER in text and not text.endswith(AT_THE_MARKER):
                message = "a vector is read at the last token, but the marker is not the template's end"
                raise CheckpointError(f"{folder}: {message}")
            return template
        case Role.SOURCE:
            raise CheckpointError(f"{folder}: a {role.label} has no template")
        case _:
            assert_never(role)


def _as_written(name: str, spec: str, conversion: str | None) -> str:
    return name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")


def _mend(unknown: str, role: Role) -> str:
    if unknown != DEPTH_FIELD:
        return ""
    return (
        ": it was trained for several layers, and nla-serve serves one: write one depth into a template of your own,"
        f" `{role.label}: {{template: ...}}` in a preset"
    )
