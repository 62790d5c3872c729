"""`python -m demo`: serves the miniature WebUI, or makes one pair of pictures with --once."""

import sys

from demo import once, server


def main(argv: list[str]) -> int:
    if "--once" in argv:
        return once.run(argv)
    running = server.start(argv)
    print(f"Running on local URL:  {running.url}", flush=True)
    try:
        running.wait()
    except KeyboardInterrupt:
        print("Stopping.", flush=True)
    finally:
        running.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
