import subprocess
import sys

import nla_client


def test_public_names() -> None:
    assert nla_client.__all__ == sorted(nla_client.__all__)
    public = {name for name in vars(nla_client) if not name.startswith("_")}
    modules = {name for name in public if type(getattr(nla_client, name)).__name__ == "module"}
    assert public - modules == set(nla_client.__all__)


def test_directions_come_with_it() -> None:
    code = "import nla_client; nla_client.directions.unit"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_error_is_exported() -> None:
    tree = [nla_client.NLAError]
    for cls in tree:
        tree.extend(sub for sub in cls.__subclasses__() if sub.__module__.startswith("nla_client"))
    assert {cls.__name__ for cls in tree} <= set(nla_client.__all__)


def test_importing_and_using_it_loads_no_torch_and_no_server() -> None:
    code = """
import sys
import nla_client
from nla_client.vectors import as_vectors
as_vectors([[1.0, 2.0]], "bfloat16").encode(0, 1)
heavy = {"torch", "sglang", "transformers", "fastapi", "nla_gateway", "nla_engine", "nla_launch"}
sys.exit(", ".join(heavy & set(sys.modules)) or 0)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
