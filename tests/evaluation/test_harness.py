"""The class that the lm-evaluation-harness calls, in a process of its own: importing it is heavy."""

import importlib.util
import json
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed"
    ),
]

CODE = """
import json, sys, torch
import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from ssmlab.evaluation.harness import HarnessModel
from ssmlab.evaluation import load_task, evaluate_task
from ssmlab.checkpoints import load_tokenizer
folder, task = sys.argv[1:]
assert get_model("ssmlab") is HarnessModel
lm = HarnessModel(folder)
def ask(kind, *args):
    return Instance(request_type=kind, doc={}, arguments=args, idx=0)
pairs = [("ab c", " d"), ("ab c", " efg"), ("", "x")]
rows = lm.loglikelihood([ask("loglikelihood", *pair) for pair in pairs])
rolling = lm.loglikelihood_rolling([ask("loglikelihood_rolling", "some text")])
until = lm.generate_until([ask("generate_until", "ab", {"until": ["\\n"], "max_gen_toks": 5})])
# A task of the harness's own kind over a local file, through its whole machinery.
config = {
    "task": "local", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": task}},
    "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "{{query}}",
    "doc_to_choice": "{{choices}}", "doc_to_target": "gold", "metric_list": [{"metric": "acc"}],
}
from lm_eval.tasks import TaskManager
from lm_eval.api.task import ConfigurableTask
found = lm_eval.evaluate(lm, {"local": ConfigurableTask(config=config)}, bootstrap_iters=0)
ours = evaluate_task(lm.model, lm.tokenizer, load_task(task))
per_item = [
    [float(r[0][0] if isinstance(r[0], (list, tuple)) else r[0]) for r in s["filtered_resps"]]
    for s in found["samples"]["local"]
]
print(json.dumps({
    "rows": rows, "rolling": rolling, "until": until,
    "acc": found["results"]["local"]["acc,none"], "ours": ours.figures["acc"].value,
    "items": per_item, "our_items": [row["logprobs"] for row in ours.items],
}))
"""


def test_the_harness_runs_a_local_task_with_our_numbers(tmp_path):
    import torch

    from ssmlab.data.tokenize import ByteTokenizer
    from ssmlab.evaluation import Request, score
    from ssmlab.models import LanguageModel, LanguageModelConfig

    torch.manual_seed(0)
    model = LanguageModel(LanguageModelConfig(vocab_size=256, d_model=16, n_layers=2)).eval()
    model.save_pretrained(tmp_path / "m", tokenizer=ByteTokenizer())
    rows = [
        {"query": f"text {i}", "choices": ["one", "two", "three"], "gold": i % 3} for i in range(7)
    ]
    task = tmp_path / "t.jsonl"
    task.write_text("\n".join(json.dumps(row) for row in rows))
    run = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path / "m"), str(task)],
        capture_output=True,
        text=True,
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": ":".join(sys.path),
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
        },
    )
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads(run.stdout.strip().splitlines()[-1])
    expected = [
        score(model, [Request(tuple(a.encode()) or (255,), tuple(b.encode()))])[0]
        for a, b in [("ab c", " d"), ("ab c", " efg"), ("", "x")]
    ]
    for (logprob, greedy), one in zip(found["rows"], expected, strict=True):
        assert logprob == pytest.approx(one.logprob, abs=1e-3)
        assert greedy == one.is_greedy
    (whole,) = score(model, [Request((255,), tuple(b"some text"))])
    assert found["rolling"][0] == pytest.approx(whole.logprob, abs=1e-3)
    assert len(found["until"]) == 1
    assert found["acc"] == pytest.approx(found["ours"])
    for theirs, ours in zip(found["items"], found["our_items"], strict=True):
        assert theirs == pytest.approx(ours, abs=1e-3)
