"""The command `nla`, also as `python -m nla_data`; says what to install where only the clients are."""

import os
import sys


def main() -> int:
    """Run the command and return its exit code."""
    try:
        from nla_data import cli
        from nla_data.running import blocking

        code = cli.main()
    except ModuleNotFoundError as error:
        if error.name in sys.stdlib_module_names:
            sys.stderr.write(f"nla: files of vectors need Linux or macOS: this Python has no {error.name}\n")
            return 2
        sys.stderr.write(f"nla: {error.name} is not installed: pip install 'nla-serve[data]' brings what nla needs\n")
        return 2
    if blocking.is_left():  # the libraries would wait for it at exit
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
