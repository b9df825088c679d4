"""What importing the operators loads."""

import subprocess
import sys


def test_neither_torchs_compiler_nor_numba_is_loaded() -> None:
    """Either takes half a second or more; they are loaded where they are first needed."""
    names = "torch._dynamo", "numba"
    program = f"import sys, ssmlab.ops, ssmlab.models; print(*(n in sys.modules for n in {names}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False", "False"]
