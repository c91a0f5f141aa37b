"""What depends on a role names all of them: mypy sees to every `match`, this to every mapping."""

import pkgutil
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

import nla_gateway
import nla_launch
from nla_gateway.roles import Role


def mappings(package: ModuleType) -> Iterator[tuple[str, dict[Any, Any]]]:
    """All those by role that stand at the top of a package's modules, by the module's name and their own."""
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        for name, value in vars(import_module(module.name)).items():
            if isinstance(value, dict) and any(isinstance(key, Role) for key in value):
                yield f"{module.name}.{name}", value


def test_every_mapping_by_role_is_whole() -> None:
    found = {**dict(mappings(nla_gateway)), **dict(mappings(nla_launch))}
    assert len(found) >= 5
    assert {name for name, mapping in found.items() if mapping.keys() != set(Role)} == set()
