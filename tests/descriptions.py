"""Descriptions of checkpoints for tests, made as the launcher makes them."""

from pathlib import Path

from nla_gateway.description import Description
from nla_gateway.roles import Role
from nla_launch.pair.describing import describe
from nla_launch.pair.model_config import read_config
from nla_launch.pair.rules import NO_RULES, Rules


def described(role: Role, folder: Path, rules: Rules = NO_RULES) -> Description:
    """Describe the checkpoint in a folder."""
    return describe(role, [(folder, None)], read_config(folder), rules)
