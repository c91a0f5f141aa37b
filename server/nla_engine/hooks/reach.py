"""Where a hooked function goes: in the place of itself in SGLang's modules, and in torch's that it is of.

SGLang looks for it among everything that all modules hold, once a hook: a third of an engine's start.
"""

import sys
from types import ModuleType
from typing import Final

HOLDERS: Final = ("sglang.", "torch.distributed.")
"""How modules begin that hold what is hooked; a test looks through all of them."""


def put_everywhere(original: object, hooked: object, source: object) -> int:
    """Put a hooked function into modules that imported the original by its name; returns into how many places.

    Args:
        original: what is hooked.
        hooked: what takes its place.
        source: where it was defined, and is hooked already; what is of a class, nobody imports by its name.
    """
    if isinstance(source, type):
        return 0
    holders = [module for name, module in list(sys.modules.items()) if name.startswith(HOLDERS)]
    places = [
        (module, name)
        for module in holders
        if isinstance(module, ModuleType) and module is not source
        for name, value in list(vars(module).items())
        if value is original
    ]
    for module, name in places:
        setattr(module, name, hooked)
    return len(places)
