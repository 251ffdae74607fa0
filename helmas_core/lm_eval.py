"""lm-evaluation-harness's own command, in which `--model helmas` is known:

    python -m helmas_core.lm_eval --model helmas --model_args bridge=RUN,arm=bridge --tasks arc_challenge

The harness looks for models of other packages nowhere, so a plain `lm_eval` does not find this one.
"""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec

from helmas_core.errors import ConfigError, HelmasError


def require_harness(where: str) -> None:
    """ConfigError unless the extra is installed."""
    if find_spec("lm_eval") is None:
        fix = 'install the extra: pip install "helmas[lm-eval]"'
        raise ConfigError("lm-evaluation-harness is not installed", where=where, fix=fix)


def main() -> int:
    """Run the harness's command line; returns the exit code."""
    try:
        require_harness("helmas_core.lm_eval")
        importlib.import_module("helmas_core.evaluation.harness")
        importlib.import_module("lm_eval.__main__").cli_evaluate()
    except HelmasError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
