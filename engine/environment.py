"""What a command sets before it imports torch, which takes seconds.  Import this first."""

import os
import signal
import sys
from pathlib import Path

# Older torch has no gamma sampler for Apple's GPU: that op runs on the CPU.  Threads that spin starve each other.
os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Until `ready` Ctrl-C ends a command without a traceback.
if Path(sys.argv[0]).name in ("train.py", "eval.py", "sample.py"):
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))


def ready() -> None:
    """From here on Ctrl-C raises KeyboardInterrupt."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
