"""Loading holds little besides the model itself."""

import subprocess
import sys

import pytest

CODE = """
import sys, resource
from ssmlab.checkpoints import from_pretrained
import ssmlab.models.language_model
from pathlib import Path
size = sum(f.stat().st_size for f in Path(sys.argv[1]).glob("*.*") if f.suffix != ".json")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
model = from_pretrained(sys.argv[1])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
held = sum(p.numel() * p.element_size() for p in model.parameters())
print((peak - before - held) / size, size)
"""


@pytest.mark.parametrize("format", ["transformers", "mamba_ssm"])
def test_no_second_copy_beyond_the_file(format, ours, tmp_path):
    # 40 MB: large beside what importing and building take.
    model = ours(d_model=256, n_layers=20)
    folder = model.save_pretrained(tmp_path / "m", format)
    run = subprocess.run(
        [sys.executable, "-c", CODE, str(folder)], capture_output=True, text=True, check=True
    )
    extra, size = (float(word) for word in run.stdout.split())
    assert size > 30e6
    assert extra <= 1.2
