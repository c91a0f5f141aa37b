"""`nla-convert`: a value head out of a pickle of PyTorch's into a file of safetensors, which is what nla-serve reads.

A pickle may run anything when it is read; torch reads this one so that it cannot (`weights_only`).
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, Final

from nla_launch.errors import LaunchError

if TYPE_CHECKING:  # slow, and not needed for --help
    from torch import Tensor

OUTPUT: Final = "value_head.safetensors"


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 2 not a value head, or wrong usage."""
    parser = argparse.ArgumentParser(prog="nla-convert", description="Convert a value head to safetensors.")
    parser.add_argument("file", type=Path, help="a pickle of PyTorch's, such as value_head.pt")
    parser.add_argument("output", type=Path, nargs="?", help=f"the file to write (default {OUTPUT} beside it)")
    parser.add_argument("--weight", metavar="KEY", help="the matrix, where there are several")
    parser.add_argument("--bias", metavar="KEY", help="the bias, where there are several")
    arguments = parser.parse_args(argv)
    output = arguments.output or arguments.file.with_name(OUTPUT)
    try:
        head = choose(read(arguments.file), arguments.file, arguments.weight, arguments.bias)
        write(head, output)
    except LaunchError as error:
        sys.stderr.write(f"nla-convert: {error}\n")
        return error.exit_code
    except ModuleNotFoundError as error:
        sys.stderr.write(f"nla-convert: {error.name} is not installed: pip install 'nla-serve[server]' brings it\n")
        return 2
    sys.stdout.write(f"{output}: {', '.join(f'{key} {list(tensor.shape)}' for key, tensor in head.items())}\n")
    return 0


def read(file: Path) -> dict[str, "Tensor"]:
    """Read all tensors of a pickle, by their keys, nested ones joined by dots.

    Raises:
        LaunchError: it cannot be read, or not without running what it says.
    """
    import torch

    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise LaunchError(f"{file} cannot be read: {error.strerror}") from None
    except UnpicklingError:
        raise LaunchError(f"{file} holds more than tensors, and is not run: ask its author for safetensors") from None
    except Exception as error:  # torch raises errors of many kinds for what is no file of its
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise LaunchError(f"{file} is no pickle of PyTorch's: {reason}") from None
    return dict(_tensors(content, ""))


def choose(tensors: dict[str, "Tensor"], file: Path, weight: str | None, bias: str | None) -> dict[str, "Tensor"]:
    """Find the matrix [d, d] and the bias [d], if there is one, and name them `weight` and `bias`.

    Raises:
        LaunchError: there is none, or several and none is named, or one has values that are no numbers.
    """
    import torch

    matrices = [key for key, one in tensors.items() if one.ndim == 2 and one.shape[0] == one.shape[1]]
    matrix = tensors[_named(weight, "--weight", matrices, tensors, file)]
    vectors = [key for key, one in tensors.items() if one.ndim == 1 and len(one) == len(matrix)]
    head = {"weight": matrix}
    if vectors or bias is not None:
        head["bias"] = tensors[_named(bias, "--bias", vectors, tensors, file)]
    left_out = tensors.keys() - {*matrices, *vectors}
    if left_out:
        raise LaunchError(f"{file} holds more than a linear map: {', '.join(sorted(left_out))}")
    for key, tensor in head.items():
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            raise LaunchError(f"{file}: {key} has {bad} NaN or infinite values")
    return head


def write(head: dict[str, "Tensor"], output: Path) -> None:
    """Write a head.

    Raises:
        LaunchError: there is such a file already, or it cannot be written.
    """
    from safetensors.torch import save_file

    if output.exists():
        raise LaunchError(f"{output} is there already: name another file, or take it away")
    try:
        save_file({key: tensor.contiguous() for key, tensor in head.items()}, output)
    except Exception as error:  # safetensors' own, for a folder that is not there or full
        raise LaunchError(f"{output} cannot be written: {' '.join(str(error).split())}") from None


def _tensors(content: Any, prefix: str) -> Iterator[tuple[str, "Tensor"]]:
    import torch

    if isinstance(content, torch.Tensor):
        yield prefix or "weight", content
    elif isinstance(content, dict):
        for key, value in content.items():
            yield from _tensors(value, f"{prefix}.{key}" if prefix else str(key))


def _named(key: str | None, flag: str, candidates: list[str], tensors: dict[str, "Tensor"], file: Path) -> str:
    if key is not None and key in candidates:
        return key
    if key is None and len(candidates) == 1:
        return candidates[0]
    there = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items()) or "no tensors"
    if len(candidates) > 1:
        raise LaunchError(f"{file} has several that could be meant: name one of {', '.join(candidates)} by {flag}")
    raise LaunchError(f"{file} has no such tensor as a value head's {flag.strip('-')}: it has {there}")


if __name__ == "__main__":
    sys.exit(main())
