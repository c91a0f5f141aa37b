"""The command `nla-serve`, also as `python -m nla_launch`. Knows what to say where only the client is installed."""

import sys


def main() -> int:
    """Run the command and return its exit code."""
    try:
        from nla_launch import cli
    except ModuleNotFoundError as error:
        message = f"{error.name} is not installed: pip install 'nla-serve[server]' brings what a server needs"
        sys.stderr.write(f"nla-serve: {message}\n")
        return 2
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
