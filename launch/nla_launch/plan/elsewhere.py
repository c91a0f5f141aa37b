"""Engines of other machines: those that our gateways use, and ours where the gateways of others may use it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from nla_gateway.roles import Role
from nla_launch.errors import LaunchError

if TYPE_CHECKING:  # slow, and not needed for flags
    from nla_gateway.description import Description
    from nla_gateway.settings import EngineSettings
    from nla_launch.pair.checkpoints import Checkpoint
    from nla_launch.plan.placement import Request
    from nla_launch.plan.plan import Device

KEY_VARIABLE: Final = "NLA_ENGINE_KEY"
URL: Final = re.compile(r"https?://(\[[^\]/]+\]|[^/:\s]+)(:\d+)?/?")
ADDRESS: Final = re.compile(r"(\[[^\]]+\]|[^:\s]+):(\d{1,5})")
KEY: Final = re.compile(r"[A-Za-z0-9][!-~]*")


@dataclass(frozen=True)
class Elsewhere:
    """What there is of other machines."""

    urls: Mapping[Role, tuple[str, ...]] = field(default_factory=dict)
    """Of the engines of a role, all alike; none of a role whose engine is ours to run."""
    key: str | None = None
    """What engines ask other machines for."""
    listen: tuple[str, int] | None = None
    """Where our own engine listens for the gateways of other machines."""

    def settings(
        self, role: Role, label: str, checkpoint: "Checkpoint", description: "Description | None", request: "Request"
    ) -> "EngineSettings":
        """Form what gateways need to know of a role's engines: started as we would start them, with the same flags."""
        from nla_gateway.settings import EngineSettings
        from nla_launch.pair.bases import whole_config
        from nla_launch.pair.fingerprint import fingerprint_of
        from nla_launch.plan.fitting import CONCURRENCY
        from nla_launch.plan.plan import context_length, max_in_flight, running_requests, shared_in_flight

        device: Device = "cpu" if request.device == "cpu" else "cuda"
        concurrency = request.concurrency or CONCURRENCY[device] * request.dp
        trust = request.trust_remote_code
        return EngineSettings(
            urls=self.urls[role],
            api_key=self.key or "",
            checkpoint=checkpoint.model_path,
            description=description,
            tokenizer=checkpoint.tokenizer_folder,
            model=checkpoint.name,
            label=label,
            revision=checkpoint.revision,
            fingerprint=None if description is None else fingerprint_of(checkpoint, description),
            dtype=request.dtype_on(device),
            trust_remote_code=trust,
            replicas=request.dp,
            context_length=context_length(
                role, whole_config(role, checkpoint, trust_remote_code=trust), request.source_context
            ),
            running_requests=running_requests(concurrency, request.dp),
            max_in_flight=max_in_flight(role, concurrency),
            shared_in_flight=shared_in_flight(role, device, concurrency),
        )


NOWHERE: Final = Elsewhere()


def read_elsewhere(
    urls: Mapping[Role, Sequence[str]], *, key: str | None, listen: str | None, only: str | None
) -> Elsewhere:
    """Check what the flags say of other machines.

    Raises:
        LaunchError: flags that do not fit together, or make no sense.
    """
    there = {role: tuple(url.rstrip("/") for url in given) for role, given in urls.items() if given}
    for role, given in urls.items():
        flag = f"--{role}-url"
        for url in given:
            if not _is_url(url):
                raise LaunchError(f"{flag} {url}: must look like http://host:port, as the engine's --engine-listen")
        if len(set(given)) < len(given):
            raise LaunchError(f"{flag} names one engine twice")
    if (there or listen) and not key:
        raise LaunchError(f"give the key that engines ask other machines for: --engine-key, or {KEY_VARIABLE}")
    if key and not KEY.fullmatch(key):
        raise LaunchError("--engine-key: must be visible ASCII without spaces, and begin with a letter or digit")
    address = None if listen is None else _address(listen)
    if address is not None and (only is None or there):
        alone = " or ".join(f"--only {role}" for role in Role)
        raise LaunchError(f"--engine-listen is for one engine of this machine: give {alone}")
    return Elsewhere(there, key, address)


def _is_url(text: str) -> bool:
    try:
        return URL.fullmatch(text) is not None and (urlsplit(text).port or 80) > 0
    except ValueError:  # a port or an address that cannot be
        return False


def _address(text: str) -> tuple[str, int]:
    match = ADDRESS.fullmatch(text)
    if match is None or not 0 < int(match[2]) < 65536:
        raise LaunchError(f"--engine-listen {text}: must be HOST:PORT, an address of this machine")
    return match[1].strip("[]"), int(match[2])
