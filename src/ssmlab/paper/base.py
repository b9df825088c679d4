"""The base that the ablations of section 4.6 share, and the scales they run at.

Source: arXiv 2312.00752, sections 3 and 4.6, appendix E.2 and Table 12: models of "≈ 350M" at
Chinchilla token counts. The counts printed in Tables 9 and 10 pin it: 48 Mamba blocks of width 1024
(two for each of the 24 layers of Table 12), expansion 2, convolution of width 4 with bias, tied
embeddings over GPT-2's 50257 tokens without padding, Δ of rank 64 and N = 16.

What the paper leaves open, and what we took:

- length of the warm-up: a tenth of the steps;
- seeds: several, with intervals (the paper prints one figure a row);
- context length in section 4.6: 2048, as in the left half of Figure 4, whose 350M model reads 8.71;
- which text the perplexity is of: documents held out of the given text;
- start values of Δ: log-uniform, as in the released code (the text prints uniform);
- start values of a constant B or C: as large as selective ones start (S6Config.constant_init).

"auto" as Δ rank is width / 16, rounded up: 64 at the paper's width, and the same share at any other.
"""

from typing import Any

from ssmlab.studies.study import Scale

SOURCE = "arXiv 2312.00752, section 4.6"

BASE: dict[str, Any] = {
    "model.pattern": "M",
    "model.tie_embeddings": True,
    "model.pad_vocab_size_multiple": 1,
    "model.mamba.expand": 2,
    "model.mamba.d_conv": 4,
    "model.mamba.ssm.d_state": 16,
    "model.mamba.ssm.dt_rank": "auto",
    "model.mamba.ssm.a_init": "s4d-real",
    # The paper's "improved recipe": cosine to 1e-5, and its peak is in each scale below.
    "training.lr_min": 1e-5,
    "training.warmup_fraction": 0.1,
    "training.betas": [0.9, 0.95],
    "training.weight_decay": 0.1,
    "training.grad_clip": 1.0,
}

# All that the quick scale is, for two CPU cores.
QUICK: dict[str, Any] = {
    "model.d_model": 64,
    "model.n_layers": 2,
    "data.tokenizer": "bytes",
    "training.batch_size": 16,
    "training.seq_len": 128,
    "training.steps": 1600,
    "training.lr": 2e-2,
    "training.eval_tokens": 262144,
    "training.eval_every": 400,
    "training.log_every": 10,
}

# All that the small scale is, for one data-centre GPU: 33 million tokens, 2.5 a parameter. The
# rate is the best of four for the base row alone (docs/log.md).
SMALL: dict[str, Any] = {
    "model.d_model": 384,
    "model.n_layers": 12,
    "model.mamba.recompute": "none",  # memory is not short here
    "data.tokenizer": "bpe:4096",
    "training.batch_size": 64,
    "training.seq_len": 512,
    "training.steps": 1000,
    "training.lr": 6e-3,
    "training.eval_tokens": 1048576,
    "training.eval_every": 250,
    "training.log_every": 20,
    "training.precision": "bf16",
    "training.checkpoint_every_seconds": 60,
}

# Half of the small scale's width and depth, 2.3M parameters, and the paper's 20 tokens for each of
# them, where small has 2.5. The rate, too, is the best of four for the base row alone.
MINI: dict[str, Any] = {
    **SMALL,
    "model.d_model": 192,
    "model.n_layers": 6,
    "training.lr": 1.2e-2,
    "training.steps": 1400,
    "training.eval_every": 350,
}

# Table 12, line 350M: 13500 steps of half a million tokens; the peak is 5 times GPT-3's 3e-4.
PAPER: dict[str, Any] = {
    "model.vocab_size": 50257,
    "model.d_model": 1024,
    "model.n_layers": 48,
    "training.batch_size": 256,
    "training.grad_accumulation": 16,
    "training.seq_len": 2048,
    "training.steps": 13500,
    "training.lr": 1.5e-3,
    "training.eval_tokens": 4194304,
    "training.eval_every": 1000,
    "training.log_every": 20,
    "training.precision": "bf16",
    "training.checkpoint_every_seconds": 600,
}

SCALES: tuple[Scale, ...] = (
    Scale(
        "quick",
        QUICK,
        seeds=2,
        note="2 blocks of width 64 on bytes, 3.3M tokens; a minute and a half a trial on a CPU core",
    ),
    Scale(
        "mini",
        MINI,
        seeds=3,
        note="6 blocks of width 192, BPE of 4096, 46M tokens, 20 a parameter; ten seconds a trial on "
        "one GPU",
    ),
    Scale(
        "small",
        SMALL,
        seeds=3,
        note="12 blocks of width 384, BPE of 4096, 33M tokens; half a minute a trial on one GPU",
    ),
    Scale(
        "paper",
        PAPER,
        seeds=3,
        note="the paper's own: 48 blocks of width 1024, 7B tokens of the Pile, GPT-2's vocabulary; "
        "needs --data and --set data.tokenizer=PATH",
        requires={
            "data.paths": "the text to train on (the paper used the Pile, 7B tokens of it); "
            "give it with --data",
            "data.tokenizer": "GPT-2's tokenizer (50257 tokens); give the path of its "
            "tokenizer.json with --set data.tokenizer=PATH",
        },
    ),
)
