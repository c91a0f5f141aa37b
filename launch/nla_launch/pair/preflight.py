"""Everything about a checkpoint that can be known before an engine starts."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final, assert_never

import numpy as np

from nla_gateway.errors import CheckpointError
from nla_gateway.pair.prompt import ReconstructorPrompt, VerbalizerPrompt
from nla_gateway.pair.sidecar import Sidecar, check_pair, read_sidecar
from nla_gateway.roles import Role
from nla_launch.errors import LaunchError
from nla_launch.pair.model_config import ModelConfig, read_config

PROMPTS: Final[dict[Role, type[VerbalizerPrompt] | type[ReconstructorPrompt]]] = {
    Role.AV: VerbalizerPrompt,
    Role.AR: ReconstructorPrompt,
}


def check_checkpoints(
    folders: Mapping[Role, Path | None], *, elsewhere: Collection[Role] = (), trust_remote_code: bool = False
) -> None:
    """Check the folders that are to be served, and that those of a pair belong together.

    Args:
        folders: by role, of what is served.
        elsewhere: roles whose engine runs elsewhere: their weights need not be here.
        trust_remote_code: run the checkpoints' own Python code where they have any.

    Raises:
        LaunchError: what cannot be served, naming cause and mend.
    """
    try:
        given = {role: folder for role, folder in folders.items() if folder is not None}
        sidecars = {role: _check(folder, role, trust_remote_code=trust_remote_code) for role, folder in given.items()}
        for role in given.keys() - set(elsewhere):
            _check_weights(given[role], role, sidecars[role], trust_remote_code=trust_remote_code)
        check_pair(sidecars)
        # Tokenizers last: they take seconds to load, and the other faults should show at once.
        for role, folder in given.items():
            PROMPTS[role].load(folder, sidecars[role], trust_remote_code=trust_remote_code)
    except CheckpointError as error:
        raise LaunchError(str(error)) from None


def _check(folder: Path, role: Role, *, trust_remote_code: bool) -> Sidecar:
    sidecar, config = read_sidecar(folder), read_config(folder, trust_remote_code=trust_remote_code)
    if sidecar.role != role:
        raise LaunchError(
            f"{folder} is a checkpoint of role {sidecar.role}, given as {role}: are --av and --ar swapped?"
        )
    if config.d_model != sidecar.d_model:
        raise LaunchError(
            f"{folder}: config.json has hidden_size {config.d_model}, the sidecar d_model {sidecar.d_model}"
        )
    return sidecar


def _check_weights(folder: Path, role: Role, sidecar: Sidecar, *, trust_remote_code: bool) -> None:
    if not any(path.name != "value_head.safetensors" for path in folder.glob("*.safetensors")):
        raise LaunchError(f"{folder} has no *.safetensors weights: fetch the whole checkpoint")
    match role:
        case Role.AV:
            pass
        case Role.AR:
            _check_reconstructor(folder, sidecar, read_config(folder, trust_remote_code=trust_remote_code))
        case _:
            assert_never(role)


def _check_reconstructor(folder: Path, sidecar: Sidecar, config: ModelConfig) -> None:
    if sidecar.layer is not None and config.blocks != sidecar.layer + 1:
        raise LaunchError(
            f"{folder}: a reconstructor of layer {sidecar.layer} has {sidecar.layer + 1} blocks,"
            f" but config.json says num_hidden_layers {config.blocks}"
        )
    head = _value_head(folder)
    if head.shape != (sidecar.d_model, sidecar.d_model):
        raise LaunchError(f"{folder}: the value head is {list(head.shape)}, it must be [d_model, d_model]")
    bad = int(np.count_nonzero(~np.isfinite(head)))
    if bad:
        raise LaunchError(f"{folder}: the value head has {bad} NaN or infinite values: export or fetch it again")


def _value_head(folder: Path) -> np.ndarray:
    import ml_dtypes  # noqa: F401 - with it numpy, and so safetensors, know bfloat16
    from safetensors import SafetensorError, safe_open

    path = folder / "value_head.safetensors"
    if not path.is_file():
        raise LaunchError(f"{folder} has no value_head.safetensors, which a reconstructor needs")
    try:
        with safe_open(path, framework="numpy") as tensors:
            if list(tensors.keys()) != ["weight"]:
                raise LaunchError(f"{path} has the keys {list(tensors.keys())}; it must have `weight` alone")
            head: np.ndarray = tensors.get_tensor("weight").astype(np.float32)
    except SafetensorError as error:
        raise LaunchError(f"{path} does not load: {error}") from None
    return head
