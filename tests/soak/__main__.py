"""python -m tests.soak: the long run, and its figures."""

from __future__ import annotations

import argparse
import sys

from mcfs.cli.lab import Lab, missing_capabilities
from tests.soak.soak import PREFIX, Options, run


def main() -> int:
    default = Options()
    parser = argparse.ArgumentParser(
        prog="script/soak", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=default.seconds, help="of reading")
    parser.add_argument("--clients", type=int, default=default.clients)
    parser.add_argument("--loss", type=float, default=default.loss, help="percent, at each client")
    parser.add_argument("--change-every", type=float, default=default.change_every, help="seconds between versions")
    parser.add_argument("--restarts", type=int, default=default.restarts, help="of the server")
    parser.add_argument("--pause", type=float, default=default.pause, help="seconds that a reader rests between files")
    options = Options(**vars(parser.parse_args()))
    if missing := missing_capabilities():
        print(f"soak: needs {', '.join(missing)}", file=sys.stderr)
        return 1
    Lab.cleanup_stale(PREFIX)
    result = run(options)
    print("\n".join(result.lines()))
    return 1 if result.problems else 0


if __name__ == "__main__":
    sys.exit(main())
