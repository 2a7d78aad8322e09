"""python -m dogwatch.testing.model: serve a script until SIGTERM or Ctrl-C."""

import argparse
import json
import signal
import sys
from pathlib import Path

from dogwatch.testing.model.parse import load_script
from dogwatch.testing.model.script import Script
from dogwatch.testing.model.scripted import ScriptedModel


def main() -> None:
    """Print the base URL as one line of JSON once it serves; a bad script or a taken port exits with 2."""
    parser = argparse.ArgumentParser(prog="python -m dogwatch.testing.model", description="A scripted Messages API.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument("--script", type=Path, help="JSON file; without one, POST it to /__script")
    parser.add_argument("--log", type=Path, help="append one line of JSON per request")
    options = parser.parse_args()
    # Blocked before the first thread exists, so that only sigwait ever receives them.
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    try:
        script = load_script(options.script) if options.script else Script()
        model = ScriptedModel(script, host=options.host, port=options.port, log=options.log)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    with model:
        sys.stdout.write(json.dumps({"ANTHROPIC_BASE_URL": model.url}) + "\n")
        sys.stdout.flush()
        signal.sigwait(ends)


if __name__ == "__main__":
    main()
