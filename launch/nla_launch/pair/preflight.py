"""Everything about a checkpoint that can be known before an engine starts."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import assert_never

import numpy as np

from nla_gateway.description import Description, check_pair
from nla_gateway.errors import CheckpointError
from nla_gateway.pair.prompt import ReconstructorPrompt, VerbalizerPrompt, load_tokenizer
from nla_gateway.roles import Role
from nla_launch.errors import LaunchError
from nla_launch.pair.bases import check_base, part_of, served_config, whole_config
from nla_launch.pair.checkpoints import TOKENIZERS, VALUE_HEAD, Checkpoint
from nla_launch.pair.describing import Places, describe_pair
from nla_launch.pair.model_config import ModelConfig, read_stored
from nla_launch.pair.reading import NOT_KNOWN, PairLayer, describe_source, pair_layer
from nla_launch.pair.rules import NO_RULES, Rules
from nla_launch.pair.shards import missing_files
from nla_launch.pair.sidecar import find_sidecar
from nla_launch.pair.value_heads import FILES, has_final_norm, read_head


def describe_checkpoints(
    checkpoints: Mapping[Role, Checkpoint],
    rules: Rules = NO_RULES,
    *,
    beside: PairLayer = NOT_KNOWN,
    fetched: bool = True,
    trust_remote_code: bool = False,
) -> dict[Role, Description]:
    """Describe the checkpoints that are to be served, those of which the folder is there.

    Args:
        checkpoints: by role.
        rules: what a preset states of them.
        beside: what is known of a source's pair, where that is not served.
        fetched: whether all is there that can be; else one of which nothing is stated yet is left out.
        trust_remote_code: run the checkpoints' own Python code where their config.json asks for it.

    Raises:
        LaunchError: something is not stated, contradicts itself, or is not served.
    """
    try:
        given: dict[Role, tuple[Places, ModelConfig]] = {}
        source: ModelConfig | None = None
        for role, one in checkpoints.items():
            config = whole_config(role, one, trust_remote_code=trust_remote_code)
            if role is Role.SOURCE:
                source = config
            elif config is not None and (fetched or not rules.say_nothing or find_sidecar(one.places)):
                given[role] = (one.places, config)
        described = describe_pair(given, rules)
        known = pair_layer(rules, described, beside)
        if source is not None and (fetched or known.layer is not None):
            described[Role.SOURCE] = describe_source(checkpoints[Role.SOURCE].model_path, source, known)
        return described
    except CheckpointError as error:
        raise LaunchError(str(error)) from None


def check_checkpoints(
    checkpoints: Mapping[Role, Checkpoint],
    descriptions: Mapping[Role, Description],
    *,
    elsewhere: Collection[Role] = (),
    trust_remote_code: bool = False,
) -> None:
    """Check what is to be served against its description, and that those of a pair belong together.

    Args:
        checkpoints: by role.
        descriptions: of those whose folder is there.
        elsewhere: roles whose engine runs elsewhere: their weights need not be here.
        trust_remote_code: run the checkpoints' own Python code where they have any.

    Raises:
        LaunchError: what cannot be served, naming cause and mend.
    """
    trust = trust_remote_code
    try:
        for role, description in descriptions.items():
            config = whole_config(role, checkpoints[role], trust_remote_code=trust)
            if config is not None:
                _check_size(checkpoints[role], description, config)
                if role not in elsewhere:
                    _check_weights(checkpoints[role], description, config)
        check_pair(descriptions)
        # Tokenizers last: they take seconds to load, and the other faults should show at once.
        for role, description in descriptions.items():
            _check_tokens(checkpoints[role], description, trust_remote_code=trust)
    except CheckpointError as error:
        raise LaunchError(str(error)) from None


def _check_tokens(checkpoint: Checkpoint, description: Description, *, trust_remote_code: bool) -> None:
    folder, tokens_of = checkpoint.model_path, checkpoint.tokenizer_folder
    match description.role:
        case Role.AV:
            VerbalizerPrompt.load(folder, description, tokens_of=tokens_of, trust_remote_code=trust_remote_code)
        case Role.AR:
            ReconstructorPrompt.load(folder, description, tokens_of=tokens_of, trust_remote_code=trust_remote_code)
        case Role.SOURCE:
            if not any((tokens_of / name).is_file() for name in TOKENIZERS):  # transformers would make one of nothing
                raise LaunchError(f"{tokens_of} has no tokenizer: fetch the whole checkpoint")
            load_tokenizer(tokens_of, trust_remote_code=trust_remote_code)
        case _:
            assert_never(description.role)


def _check_size(checkpoint: Checkpoint, description: Description, config: ModelConfig) -> None:
    if config.d_model != description.d_model:
        raise LaunchError(
            f"{checkpoint.model_path}: config.json has hidden_size {config.d_model}, the sidecar d_model"
            f" {description.d_model}"
        )


def _check_weights(checkpoint: Checkpoint, description: Description, config: ModelConfig) -> None:
    folder, served = checkpoint.model_path, served_config(checkpoint, config, description)
    if not any(path.name not in FILES for path in folder.glob("*.safetensors")):
        raise LaunchError(f"{folder} has no *.safetensors weights: fetch the whole checkpoint")
    part = part_of(checkpoint, description)
    missing = missing_files(folder, part)
    if missing:
        raise LaunchError(f"{folder / missing[0]} is missing, or no file of safetensors: fetch it again")
    check_base(checkpoint, served, part)
    match description.role:
        case Role.AV:
            _check_verbalizer(folder, description, served)
        case Role.AR:
            _check_reconstructor(folder, description, served)
        case Role.SOURCE:
            if read_stored(folder, served.blocks) is None:
                raise LaunchError(f"{folder}: its weights lack the embedding table or one of the blocks 0 to"
                                  f" {served.blocks - 1}: fetch the whole checkpoint")  # fmt: skip
        case _:
            assert_never(description.role)


def _check_verbalizer(folder: Path, description: Description, config: ModelConfig) -> None:
    block = description.of_verbalizer().injection.block
    if block is not None and block >= config.blocks:
        raise LaunchError(f"{folder}: vectors cannot be added after block {block}: it has {config.blocks}, from 0")
    if (folder / VALUE_HEAD).is_file():
        raise LaunchError(f"{folder} has a value head, which a verbalizer has not: are --av and --ar swapped?")


def _check_reconstructor(folder: Path, description: Description, config: ModelConfig) -> None:
    rules = description.of_reconstructor()
    if config.blocks != rules.blocks:
        raise LaunchError(
            f"{folder}: a reconstructor of layer {description.layer} has {rules.blocks} blocks,"
            f" but config.json says num_hidden_layers {config.blocks}"
        )
    if rules.final_norm and has_final_norm(folder) is False:
        raise LaunchError(f"{folder}: its final norm is to stay before the head, but its weights have none")
    if rules.value_head is not None:
        _check_head(read_head(rules.value_head), rules.value_head.file, description.d_model)


def _check_head(tensors: list[np.ndarray], file: Path, d_model: int) -> None:
    matrix, biases = tensors[0], tensors[1:]
    if matrix.shape != (d_model, d_model):
        raise LaunchError(f"{file}: the value head is {list(matrix.shape)}, it must be [d_model, d_model]")
    for bias in biases:
        if bias.shape != (d_model,):
            raise LaunchError(f"{file}: the value head's bias is {list(bias.shape)}, it must be [d_model]")
    bad = sum(int(np.count_nonzero(~np.isfinite(tensor))) for tensor in tensors)
    if bad:
        raise LaunchError(f"{file}: the value head has {bad} NaN or infinite values: export or fetch it again")
