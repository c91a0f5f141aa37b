"""Everything about a checkpoint that can be known before an engine starts."""

from collections.abc import Collection, Mapping
from typing import Final, assert_never

import numpy as np

from nla_gateway.errors import CheckpointError
from nla_gateway.pair.prompt import ReconstructorPrompt, VerbalizerPrompt
from nla_gateway.pair.sidecar import Sidecar, check_pair, read_sidecar
from nla_gateway.roles import Role
from nla_launch.errors import LaunchError
from nla_launch.pair.bases import check_base, served_config
from nla_launch.pair.checkpoints import VALUE_HEAD, Checkpoint, ValueHead
from nla_launch.pair.model_config import ModelConfig

PROMPTS: Final[dict[Role, type[VerbalizerPrompt] | type[ReconstructorPrompt]]] = {
    Role.AV: VerbalizerPrompt,
    Role.AR: ReconstructorPrompt,
}


def check_checkpoints(
    checkpoints: Mapping[Role, Checkpoint], *, elsewhere: Collection[Role] = (), trust_remote_code: bool = False
) -> None:
    """Check the checkpoints that are to be served, and that those of a pair belong together.

    Args:
        checkpoints: by role, what is served.
        elsewhere: roles whose engine runs elsewhere: their weights need not be here.
        trust_remote_code: run the checkpoints' own Python code where they have any.

    Raises:
        LaunchError: what cannot be served, naming cause and mend.
    """
    try:
        trust = trust_remote_code
        configs = {role: served_config(role, one, trust_remote_code=trust) for role, one in checkpoints.items()}
        given = {role: (checkpoints[role], config) for role, config in configs.items() if config is not None}
        sidecars = {role: _check(role, *one) for role, one in given.items()}
        for role in given.keys() - set(elsewhere):
            _check_weights(role, *given[role], sidecars[role])
        check_pair(sidecars)
        # Tokenizers last: they take seconds to load, and the other faults should show at once.
        for role, (one, _) in given.items():
            PROMPTS[role].load(one.model_path, sidecars[role], tokens_of=one.tokenizer_folder, trust_remote_code=trust)
    except CheckpointError as error:
        raise LaunchError(str(error)) from None


def _check(role: Role, checkpoint: Checkpoint, config: ModelConfig) -> Sidecar:
    folder = checkpoint.sidecar_folder
    sidecar = read_sidecar(folder)
    if sidecar.role != role:
        raise LaunchError(
            f"{folder} is a checkpoint of role {sidecar.role}, given as {role}: are --av and --ar swapped?"
        )
    if config.d_model != sidecar.d_model:
        other = "" if folder == checkpoint.folder else f" of {checkpoint.folder}"
        raise LaunchError(
            f"{folder}: config.json{other} has hidden_size {config.d_model}, the sidecar d_model {sidecar.d_model}"
        )
    return sidecar


def _check_weights(role: Role, checkpoint: Checkpoint, config: ModelConfig, sidecar: Sidecar) -> None:
    folder = checkpoint.model_path
    if not any(path.name != VALUE_HEAD for path in folder.glob("*.safetensors")):
        raise LaunchError(f"{folder} has no *.safetensors weights: fetch the whole checkpoint")
    check_base(role, checkpoint, config)
    match role:
        case Role.AV:
            pass
        case Role.AR:
            _check_reconstructor(checkpoint, sidecar, config)
        case _:
            assert_never(role)


def _check_reconstructor(checkpoint: Checkpoint, sidecar: Sidecar, config: ModelConfig) -> None:
    folder = checkpoint.model_path
    if sidecar.layer is not None and config.blocks != sidecar.layer + 1:
        raise LaunchError(
            f"{folder}: a reconstructor of layer {sidecar.layer} has {sidecar.layer + 1} blocks,"
            f" but config.json says num_hidden_layers {config.blocks}"
        )
    found = checkpoint.value_head
    head = _value_head(found)
    where = found.file.parent
    if head.shape != (sidecar.d_model, sidecar.d_model):
        raise LaunchError(f"{where}: the value head is {list(head.shape)}, it must be [d_model, d_model]")
    bad = int(np.count_nonzero(~np.isfinite(head)))
    if bad:
        raise LaunchError(f"{where}: the value head has {bad} NaN or infinite values: export or fetch it again")


def _value_head(head: ValueHead) -> np.ndarray:
    import ml_dtypes  # noqa: F401 - with it numpy, and so safetensors, know bfloat16
    from safetensors import SafetensorError, safe_open

    path = head.file
    if not path.is_file():
        raise LaunchError(f"{path.parent} has no {VALUE_HEAD}, which a reconstructor needs")
    try:
        with safe_open(path, framework="numpy") as tensors:
            # In a file of its own it must be alone: more would be a rule that is not followed.
            names = [name for name in tensors.keys() if path.name == VALUE_HEAD or name.startswith("value_head.")]  # noqa: SIM118 - safetensors' own
            if names != [head.weight]:
                raise LaunchError(f"{path} has the keys {names}; it must have `{head.weight}` alone")
            weight: np.ndarray = tensors.get_tensor(head.weight).astype(np.float32)
    except SafetensorError as error:
        raise LaunchError(f"{path} does not load: {error}") from None
    return weight
