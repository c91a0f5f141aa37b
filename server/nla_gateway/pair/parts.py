"""What is served, role by role: each part is the engines of one role with what their checkpoint wants."""

from typing import assert_never

from nla_gateway.engines.pool import EnginePool
from nla_gateway.limits import GatewayLimits
from nla_gateway.pair.reconstructor import Reconstructor
from nla_gateway.pair.source import Source
from nla_gateway.pair.verbalizer import Verbalizer
from nla_gateway.roles import Role
from nla_gateway.settings import PairSettings

Part = Verbalizer | Reconstructor | Source


def make_part(role: Role, engines: EnginePool, settings: PairSettings, limits: GatewayLimits) -> Part:
    """Form one part.

    Raises:
        CheckpointError: its checkpoint cannot be served.
    """
    match role:
        case Role.AV:
            return Verbalizer(engines, settings.engines[role])
        case Role.AR:
            return Reconstructor(
                engines,
                settings.engines[role],
                max_text_tokens=limits.max_text_tokens,
                baseline=settings.predict_mean_mse,
            )
        case Role.SOURCE:
            pair = settings.engines.get(Role.AV)
            scale = None if pair is None else pair.described().injection_scale
            return Source(engines, settings.engines[role], expected_norm=scale)
        case _:
            assert_never(role)
