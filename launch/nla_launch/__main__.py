"""`python -m nla_launch` is `nla-serve`."""

import sys

from nla_launch.cli import main

sys.exit(main())
