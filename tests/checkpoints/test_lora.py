"""LoRA as docs/fine-tuning.md shows it: peft on an exported folder, merged, and back."""

import pytest
import torch

from ssmlab.models import LanguageModel

from .conftest import tokens

transformers = pytest.importorskip("transformers")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_lora_on_an_exported_model_comes_back_merged(ours, tmp_path):
    peft = pytest.importorskip("peft")
    folder = ours().save_pretrained(tmp_path / "base", "transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    targets = ["in_proj", "x_proj"]  # peft takes no other matrices of a Mamba block
    model = peft.get_peft_model(
        model, peft.LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM")
    )
    ids = tokens(4, 12)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(5):
        loss = model(ids, labels=ids).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    merged = model.merge_and_unload().eval()
    merged.save_pretrained(tmp_path / "tuned")
    again = LanguageModel.from_pretrained(tmp_path / "tuned")
    assert (again(ids) - merged(ids).logits).abs().max() < 1e-4
    assert (again(ids) - LanguageModel.from_pretrained(folder)(ids)).abs().max() > 1e-3
