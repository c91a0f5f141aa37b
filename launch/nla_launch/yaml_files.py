"""YAML files that users write, read as models; what is wrong with one is said in one line."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from nla_launch.errors import LaunchError

M = TypeVar("M", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """SafeLoader keeps the last of two values of one name, without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names = [name.value for name, _ in node.value]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{name!r} stands there twice")
        return super().construct_mapping(node, deep)


def read_yaml(file: Path, what: str, model: type[M]) -> M:
    """Read a file.

    Args:
        file: where it is.
        what: what the user calls it, for messages.
        model: what it must hold.

    Raises:
        LaunchError: it cannot be read, is not YAML, or holds something else.
    """
    try:
        return model.model_validate(_Loader(file.read_text(encoding="utf-8")).get_single_data())
    except OSError as error:
        raise LaunchError(f"{what} {file} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "the file"
        raise LaunchError(f"{what} {file}: {where}: {problem['msg'].removeprefix('Value error, ')}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise LaunchError(f"{what} {file} is not YAML: {' '.join(str(error).split())}") from None
