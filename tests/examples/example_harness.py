"""A tiny harness of the action contract: one run of a source text, an archive or an executable, without containers."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[2] / "examples"

RUN_PYTHON = (
    "import json, sys; ns = {'__name__': 'exec__'}; exec(open(sys.argv[1]).read(), ns); out = ns['main'](json.load(sys.stdin))"
)
RUN_ZIP = (
    "import importlib.util, json, sys; sys.path.insert(0, sys.argv[1])\n"
    "spec = importlib.util.spec_from_file_location('exec__', sys.argv[1] + '/__main__.py')\n"
    "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)\n"
    "out = module.main(json.load(sys.stdin))"
)
RUN_NODE = (
    "const out = require(process.argv[1]).main(JSON.parse(require('fs').readFileSync(0))); console.log(JSON.stringify(out))"
)
PRINT = "\nprint(json.dumps(out, allow_nan=False))"


def last_line(command: list[str], arguments: Any, *, text: str | None = None) -> dict[str, Any]:
    """Run a command with JSON on stdin and, as a black box has it, as last argument; parse the last line of its stdout."""
    sent = json.dumps(arguments) if text is None else text
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    done = subprocess.run([*command, sent], input=sent, capture_output=True, text=True, timeout=30, env=environment, check=False)
    assert done.stdout.strip(), f"nothing on stdout; stderr: {done.stderr}"
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert isinstance(result, dict)
    return result
