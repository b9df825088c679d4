"""What every mixer must do: shapes, causality, decoding, going on, packing, gradients, learning."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import _pytree as pytree

from ssmlab.training.config import TrainingConfig
from ssmlab.training.optim import build_optimizer, set_learning_rate
from ssmlab.training.schedule import learning_rate
from tests.mixers.zoo import MAKERS, WIDTH, close, make, sequence

NAMES = list(MAKERS)


@pytest.mark.parametrize("name", NAMES)
def test_no_output_sees_a_later_input(name):
    mixer, x = make(name), sequence()
    changed = x.clone()
    changed[:, 12] += 1
    before, after = mixer(x), mixer(changed)
    assert before.shape == x.shape
    close(before[:, :12], after[:, :12], 1e-12)
    assert (before[:, 12] != after[:, 12]).any()


@pytest.mark.parametrize("name", NAMES)
def test_steps_equal_the_whole_sequence(name):
    mixer, x = make(name), sequence()
    whole, last = mixer(x, return_state=True)
    close(whole, mixer(x))
    state, outputs = mixer.init_state(2, None, torch.float64), []
    for t in range(x.shape[1]):
        y, state = mixer.step(x[:, t], state)
        outputs.append(y)
    close(torch.stack(outputs, 1), whole)
    for one, other in zip(pytree.tree_leaves(state), pytree.tree_leaves(last), strict=True):
        close(one, other)
    with torch.no_grad():  # what is kept from step to step while no gradient is wanted
        state = mixer.init_state(2, None, torch.float64)
        for t in range(3):
            y, state = mixer.step(x[:, t], state)
            close(y, whole[:, t])


@pytest.mark.parametrize("name", NAMES)
def test_decoding_follows_a_change_of_the_parameters(name):
    mixer, x = make(name), sequence()
    with torch.no_grad():
        mixer.step(x[:, 0], mixer.init_state(2))
        for parameter in mixer.parameters():
            parameter.mul_(0.9)
        y, _ = mixer.step(x[:, 0], mixer.init_state(2))
        close(y, mixer(x[:, :1])[:, 0])


@pytest.mark.parametrize("cut", [1, 7, 19])
@pytest.mark.parametrize("name", NAMES)
def test_going_on_from_a_state_equals_one_run(name, cut):
    mixer, x = make(name), sequence()
    first, state = mixer(x[:, :cut], return_state=True)
    rest, last = mixer(x[:, cut:], state=state, return_state=True)
    whole, end = mixer(x, return_state=True)
    close(torch.cat([first, rest], 1), whole)
    for one, other in zip(pytree.tree_leaves(last), pytree.tree_leaves(end), strict=True):
        close(one, other)


@pytest.mark.parametrize("name", NAMES)
def test_packed_sequences_equal_separate_ones(name):
    mixer, x = make(name), sequence(batch=1)
    offsets = torch.tensor([0, 3, 4, 20], dtype=torch.int32)
    apart = torch.cat([mixer(x[:, a:b]) for a, b in ((0, 3), (3, 4), (4, 20))], 1)
    close(mixer(x, cu_seqlens=offsets), apart)
    with pytest.raises(ValueError, match="cu_seqlens"):
        mixer(sequence(batch=2), cu_seqlens=offsets)


@pytest.mark.parametrize("name", NAMES)
def test_packed_states_go_on_where_they_have_one_shape(name):
    mixer, x = make(name), sequence(batch=1)
    offsets = torch.tensor([0, 10, 20], dtype=torch.int32)
    y, state = mixer(x, return_state=True, cu_seqlens=offsets)
    rows = torch.cat([x[:, :10], x[:, 10:]])
    expected, expected_state = mixer(rows, return_state=True)
    close(torch.cat([y[:, :10], y[:, 10:]]), expected)
    for one, other in zip(
        pytree.tree_leaves(state), pytree.tree_leaves(expected_state), strict=True
    ):
        close(one, other)
    more = mixer(x, state=state, cu_seqlens=offsets)
    again = mixer(rows, state=expected_state)
    close(torch.cat([more[:, :10], more[:, 10:]]), again)


@pytest.mark.parametrize("name", ["long-conv", "attention", "hyena"])
def test_packed_caches_of_unequal_lengths_are_refused_with_the_reason(name):
    offsets = torch.tensor([0, 3, 20], dtype=torch.int32)
    with pytest.raises(ValueError, match="cache of past inputs, as long as each sequence"):
        make(name)(sequence(batch=1), return_state=True, cu_seqlens=offsets)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_input_and_parameters(name):
    mixer, x = make(name), sequence(1, 5)
    parameters = dict(mixer.named_parameters())

    def run(x, *values):
        return torch.func.functional_call(mixer, dict(zip(parameters, values, strict=True)), (x,))

    inputs = (
        x.requires_grad_(),
        *(p.detach().clone().requires_grad_() for p in parameters.values()),
    )
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
    grads = torch.autograd.grad(run(*inputs).square().sum(), inputs)
    assert all(g.isfinite().all() for g in grads)
    assert all(g.any() for g in grads), [
        n for n, g in zip(["x", *parameters], grads, strict=True) if not g.any()
    ]


@pytest.mark.parametrize("name", NAMES)
def test_bf16_parameters_and_autocast(name):
    x = sequence().float()
    torch.manual_seed(0)
    exact = MAKERS[name]()
    reference = exact(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = exact(x)
    assert (mixed.float() - reference).abs().max() < 0.05 * reference.abs().max() + 0.02
    low = exact.bfloat16()
    y = low(x.bfloat16())
    assert y.dtype == torch.bfloat16
    torch.manual_seed(0)
    rounded = MAKERS[name]()
    rounded.load_state_dict({k: v.float() for k, v in low.state_dict().items()})
    reference = rounded(x.bfloat16().float())
    assert (y.float() - reference).abs().max() < 0.05 * reference.abs().max() + 0.02
    out, _ = low.step(x[:, 0].bfloat16(), low.init_state(2))
    assert out.dtype == torch.bfloat16


@pytest.mark.parametrize("name", NAMES)
def test_two_layers_learn_a_small_batch_by_heart(name):
    """Loss below 0.1 nats on 4 fixed sequences of 16 random letters out of 8."""
    torch.manual_seed(0)
    letters = torch.randint(8, (4, 17))

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.mixer = nn.LayerNorm(WIDTH), MAKERS[name]()
            self.mlp = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 64), nn.GELU())
            self.out = nn.Linear(64, WIDTH)

        def forward(self, x):
            x = x + self.mixer(self.norm(x))
            return x + self.out(self.mlp(x))

    model = nn.Sequential(nn.Embedding(8, WIDTH), Layer(), Layer(), nn.Linear(WIDTH, 8))
    # Where the same letters came before by chance, what follows cannot be told; a sequence starts
    # with its own number so that there is something to tell it by.
    letters[:, 0] = torch.arange(4)
    # As models are trained: what makes a kernel learns at a rate of its own.
    config = TrainingConfig(steps=300, lr=0.02, lr_min=0.0, weight_decay=0.0)
    optimizer = build_optimizer(model, config)
    loss = torch.tensor(torch.inf)
    for step in range(config.steps):
        set_learning_rate(optimizer, learning_rate(config, step))
        logits = model(letters[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), letters[:, 1:].flatten())
        if loss.item() < 0.1:
            break
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert loss.item() < 0.1


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_made_on_a_device_that_the_tensors_are_not_on(name):
    """Without a GPU: the meta device refuses to mix with the CPU as CUDA does."""
    mixer, x = make(name).to("meta"), sequence().to("meta")
    y, state = mixer(x, return_state=True)
    assert mixer(x).shape == y.shape == x.shape
    out, state = mixer.step(x[:, 0], state)
    assert out.shape == x[:, 0].shape
    assert {leaf.device.type for leaf in pytree.tree_leaves(state)} == {"meta"}
    assert {leaf.device.type for leaf in pytree.tree_leaves(mixer.init_state(2))} == {"meta"}


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_gives_what_the_cpu_gives(name):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    mixer, x = make(name), sequence()
    expected, expected_state = mixer(x, return_state=True)
    on_gpu = mixer.cuda()
    y, state = on_gpu(x.cuda(), return_state=True)
    close(y.cpu(), expected, 1e-8)
    close(on_gpu(x.cuda()).cpu(), expected, 1e-8)
    for one, other in zip(
        pytree.tree_leaves(state), pytree.tree_leaves(expected_state), strict=True
    ):
        close(one.cpu(), other, 1e-8)
    out, _ = on_gpu.step(x[:, 0].cuda(), on_gpu.init_state(2))
    close(out.cpu(), expected[:, 0], 1e-8)
