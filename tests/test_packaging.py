"""What `pip install nla-serve` gives: the client alone, from a real wheel in a fresh environment."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.gateway import D, fake_gateway

ROOT = Path(__file__).parents[1]
CLIENT_FILES = ROOT / "client" / "nla_client"
UV = str(Path(sys.executable).with_name("uv"))
CLIENT = """
import sys, nla_client, nla_launch.toy
from pathlib import Path
heavy = [name for name in ("torch", "sglang", "transformers", "fastapi") if name in sys.modules]
folder = Path(nla_launch.toy.__file__).parent
files = [folder / "verbalizer" / "model.safetensors", folder.parent / "configs" / "toy.yaml"]
files.append(folder.parents[1] / "nla_data" / "report" / "template.html")
print(heavy, all(path.is_file() for path in files))
"""


ELSEWHERE = """
import importlib, os, pkgutil, signal, sys
posix = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "posix", "uvloop"}
for name in posix - {"posix"}:
    sys.modules[name] = None
for module, names in ((os, "fork register_at_fork getuid geteuid getpgid killpg setsid sched_getaffinity"),
                      (signal, "SIGKILL SIGHUP SIGUSR1 SIGUSR2 SIGALRM SIGCHLD SIGQUIT setitimer pthread_sigmask")):
    for name in names.split():
        delattr(module, name)
import nla_client, nla_data.__main__, nla_data.cli, nla_data.show
for module in pkgutil.walk_packages(nla_client.__path__, "nla_client."):
    importlib.import_module(module.name)
nla_client.NLAClient("http://127.0.0.1:9").close()
sys.argv = ["nla", *sys.argv[1:]]
sys.exit(nla_data.__main__.main())
"""
POSIX = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "posix", "uvloop", "posixpath"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module", autouse=True)
def patient() -> Iterator[None]:
    """The index may take its time."""
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("UV_HTTP_TIMEOUT", "120")
        yield


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    wheel = folder / "wheel"
    for command in (
        [UV, "build", "--quiet", "--wheel", "--out-dir", str(wheel), str(ROOT)],
        [UV, "venv", "--quiet", "--python", sys.executable, str(folder / "venv")],
    ):
        subprocess.run(command, check=True, timeout=300)
    built = next(wheel.glob("*.whl"))
    python = str(folder / "venv" / "bin" / "python")
    subprocess.run([UV, "pip", "install", "--quiet", "--python", python, str(built)], check=True, timeout=300)
    return folder / "venv" / "bin"


@pytest.fixture(scope="module")
def lowest(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The oldest versions that we say will do, for the files."""
    folder = tmp_path_factory.mktemp("lowest")
    wheel = next((environment.parents[1] / "wheel").glob("*.whl"))
    python = str(folder / "bin" / "python")
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, str(folder)], check=True, timeout=300)
    install = [UV, "pip", "install", "--quiet", "--python", python, "--resolution", "lowest-direct"]
    subprocess.run([*install, f"{wheel}[data]"], check=True, timeout=300)
    return folder / "bin"


def test_the_oldest_versions_do(lowest: Path, tmp_path: Path) -> None:
    vectors = pa.FixedSizeListArray.from_arrays(
        pa.array(np.ones(8 * D, np.float32)), D, mask=pa.array([False] * 7 + [True])
    )
    columns = {"activation_vector": vectors, "layer": [20] * 8, "token": pa.array(["a", None] * 4, pa.string_view())}
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    told, rebuilt = tmp_path / "told.parquet", tmp_path / "rebuilt.parquet"
    with fake_gateway() as gateway:
        for arguments, code in (
            (["verbalize", tmp_path / "in.parquet", told, "--score", "--keep-vectors", "--where", "layer = 20"], 3),
            (["reconstruct", told, rebuilt], 3),
            (["score", rebuilt, "--column", "reconstruction", "--drop", "mse", "--drop", "cosine", "--drop", "fve"], 3),
            (["report", told, "--group", "token"], 0),
        ):
            url = [] if arguments[0] == "report" else ["--url", gateway.url, "--progress", "quiet"]
            command = [lowest / "nla", *arguments, *url]
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
            assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert pq.read_table(rebuilt)["reconstruction"].null_count == 1
    assert pq.read_table(told)["activation_vector"].null_count == 1


def test_the_client_needs_no_torch_and_the_wheel_is_whole(environment: Path) -> None:
    done = subprocess.run([environment / "python", "-c", CLIENT], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] True"
    installed = {path.name for path in (environment.parent / "lib").glob("python*/site-packages/*")}
    assert not installed & {"torch", "sglang", "transformers", "fastapi"}


def test_nla_says_what_is_missing(environment: Path) -> None:
    nla = str(environment / "nla")
    for command, message in (
        ([nla, "verbalize", "in.parquet", "out"], "pip install 'nla-serve[data]'"),
        ([nla, "info", "--url", "http://127.0.0.1:9"], "GET /v1/info at 127.0.0.1:9"),
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert message in done.stderr


def test_the_command_says_what_is_missing(environment: Path) -> None:
    done = subprocess.run([environment / "nla-serve", "--version"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("nla-serve: ")
    assert "pip install 'nla-serve[server]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_client_is_for_any_system_and_every_python_from_three_eleven_on() -> None:
    assert PROJECT["requires-python"] == ">=3.11"
    versions = {it.rpartition(" ")[2] for it in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", it)}
    assert versions == {f"3.{minor}" for minor in range(11, 16)}
    systems = [it for it in PROJECT["classifiers"] if it.startswith("Operating System")]
    assert systems == ["Operating System :: OS Independent"]
    extras = PROJECT["optional-dependencies"]
    assert all(it.endswith("; sys_platform == 'linux'") for it in extras["server"])
    assert not [it for it in PROJECT["dependencies"] if "sys_platform" in it or "python_version" in it]


@pytest.mark.parametrize(
    "path", sorted(CLIENT_FILES.rglob("*.py")), ids=lambda path: str(path.relative_to(CLIENT_FILES))
)
def test_the_client_imports_nothing_that_only_some_systems_have(path: Path) -> None:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    assert not found & POSIX


def test_it_works_without_what_other_systems_lack(environment: Path) -> None:
    for arguments, message in (
        (["info", "--url", "http://127.0.0.1:9"], "nla: GET /v1/info at 127.0.0.1:9"),
        (["verbalize", "in.parquet", "out"], "nla: "),
    ):
        command = [environment / "python", "-c", ELSEWHERE, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert done.stderr.startswith(message)


@pytest.mark.parametrize(
    ("version", "system"),
    [("3.11", "windows"), ("3.15", "x86_64-manylinux_2_40"), ("3.15", "macos"), ("3.15", "windows")],
)
def test_wheels_of_all_that_it_needs_are_there(tmp_path: Path, version: str, system: str) -> None:
    """The index knows wheels for all of it, so that nothing has to be compiled."""
    asked = [
        "--python-version",
        version,
        "--python-platform",
        system,
        "--only-binary",
        ":all:",
        "--no-python-downloads",
    ]
    command = [UV, "pip", "compile", "--quiet", *asked, str(ROOT / "pyproject.toml")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "numpy==" in done.stdout
    assert not re.search(r"^(torch|sglang)\b", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("system", ["windows", "macos"])
def test_the_server_is_for_linux_alone(tmp_path: Path, system: str) -> None:
    asked = ["--python-version", "3.13", "--python-platform", system, "--extra", "server", "--no-python-downloads"]
    command = [UV, "pip", "compile", "--quiet", *asked, str(ROOT / "pyproject.toml")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert not re.search(r"^(torch|sglang|uvloop)\b", done.stdout, re.MULTILINE)
