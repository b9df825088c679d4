"""Steps replayed as a CUDA graph give the numbers of steps that are not."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssmlab.core.config import override
from ssmlab.data.text import TextData
from ssmlab.training import TrialConfig, run_trial
from ssmlab.training.graph import ORDINARY_CALLS, GraphedStep
from ssmlab.training.run import resolve
from ssmlab.training.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

MODELS: dict[str, dict[str, Any]] = {
    "S6": {},
    "S6 unfused": {"model.mamba.recompute": "none"},
    "S4D": {"model.mamba.mixer": "s4d"},
    "Hyena": {"model.mamba.mixer": "long-conv"},
    "SSD": {"model.mamba.mixer": "ssd", "model.mamba.ssd.d_head": 16},
    "attention": {"model.pattern": "A F"},
    "H3": {"model.pattern": "H P"},
}


def _config(config: TrialConfig, text: TextData, changes: dict[str, Any]) -> TrialConfig:
    return resolve(override(config, {"training.device": "cuda", **changes}), text.vocab_size)


@pytest.mark.parametrize("model", MODELS)
def test_the_losses_are_the_same_bits(make_config, text, model):
    config = _config(make_config(steps=20, grad_accumulation=2), text, MODELS[model])
    losses = {}
    for graphed in (False, True):
        chosen = override(config, {"training.cuda_graph": graphed})
        trainer = Trainer(chosen, text, torch.device("cuda"))
        losses[graphed] = torch.stack(
            [torch.stack(trainer.step(step)) for step in range(12)]
        ).tolist()
        assert trainer.graph is None if not graphed else trainer.graph.recorded
    assert losses[True] == losses[False]
    assert losses[True][0] != losses[True][-1]


def test_a_resumed_trial_records_anew(make_config, text, tmp_path: Path):
    config = _config(make_config(steps=16), text, {})
    whole = run_trial(config, tmp_path / "whole", data=text)
    first = Trainer(config, text, torch.device("cuda"))
    for step in range(8):
        first.step(step)
    second = Trainer(config, text, torch.device("cuda"))
    for step in range(5):  # recorded already when the checkpoint is read
        second.step(step)
    second.load({name: tensor.cpu() for name, tensor in first.tensors().items()})
    losses = [float(second.step(step)[0]) for step in range(8, 16)]
    assert second.graph is not None
    assert second.graph.recorded
    assert second.evaluate() == whole.val_loss
    assert losses[-1] > 0


def test_what_cannot_be_recorded_is_called():
    def reads(x: Tensor) -> tuple[Tensor]:
        return (x * x.sum().item(),)

    graph = GraphedStep(torch.device("cuda"))
    x = torch.ones(4)
    for _ in range(ORDINARY_CALLS + 3):
        assert graph(reads, x)[0].tolist() == [4.0] * 4
    assert not graph.recorded
    assert graph.failure
    assert (torch.ones(3, device="cuda") + 1).tolist() == [2.0] * 3  # the device still works
    drawn = torch.randn(3, device="cuda")  # and its random numbers
    assert drawn.isfinite().all()


def test_outputs_outlive_the_next_call():
    graph = GraphedStep(torch.device("cuda"))
    given = [graph(lambda x: (x + 1,), torch.full((2,), float(i)))[0] for i in range(8)]
    assert graph.recorded
    assert [float(t[0]) for t in given] == [float(i + 1) for i in range(8)]


def test_a_trial_says_when_it_cannot_be_recorded(make_config, text, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(
        GraphedStep, "_record", lambda self, function, inputs: setattr(self, "failure", "no")
    )
    events = []
    result = run_trial(
        _config(make_config(steps=6), text, {}),
        tmp_path / "trial",
        data=text,
        on_event=events.append,
    )
    assert result.status == "ok"
    said = [event.message for event in events if event.kind == "warning"]
    assert len(said) == 1
    assert "CUDA graph" in str(said[0])
