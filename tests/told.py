"""`python -m tests.told FLAGS`: nla-serve whose engines are told otherwise of their checkpoints than those say.

How is in the variable TOLD, JSON: by role, what changes.
"""

import json
import os
import sys
from typing import Any

from nla_launch.__main__ import main
from nla_launch.plan import plan

CHANGES = json.loads(os.environ["TOLD"])
original = plan.told


def told(*arguments: Any) -> dict[str, Any]:
    checkpoint = original(*arguments)
    return checkpoint | CHANGES.get("av" if "injection" in checkpoint else "ar", {})


if __name__ == "__main__":
    plan.told = told
    sys.exit(main())
