"""A PyTorch training loop on the CPU, the peer that `longscan bench` is compared with.

usage: torch_cpu.py --case CASE [--mode eager|compile] [--dtype f32|autocast|bf16] [--threads N]

The process stays alive and works on request, so that compilation is paid once. It prints one line of
JSON when it is ready and one for each line of standard input:
  run N   N training steps: seconds, tokens_per_s, loss, peak_rss_bytes
  decode ROWS CONTEXT N   median of N steps of one token a row after CONTEXT tokens, without gradients:
          seconds, tokens_per_s. Keys and values go into a buffer made once; the state of gated DeltaNet
          goes through Qwen3-Next's recurrent function
  quit
With --steps N it runs N steps after two warm-up steps, prints the line and ends.

The model, the same as ours in configs/bench: embedding, L blocks of (RMSNorm, mixer, RMSNorm, SwiGLU
of 4x width), RMSNorm, untied head; heads of 64, no rotary positions, no biases. Mixers: softmax attention
through scaled_dot_product_attention; gated DeltaNet as in Hugging Face's Qwen3-Next, whose chunked
function in plain torch is imported and used as it is, with keys and values of 64 a head (expand_v 1),
short convolutions of width 4 with SiLU on q, k and v, and the output normalised, then gated.
A step: forward, cross-entropy, backward, clip to norm 1, AdamW (PyTorch's fused one).
  f32       everything in float32
  autocast  float32 weights, torch.autocast to bfloat16
  bf16      weights and everything else in bfloat16
"""
import argparse
import json
import math
import os
import sys
import time

T0 = time.monotonic()
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import torch
import torch.nn as nn
import torch.nn.functional as F

HEAD = 64
BATCH = 16

# name: mixer, width, layers, tokens a sequence, vocabulary
CASES = {
    "attention_w128_v8192": ("attention", 128, 2, 256, 8192),
    "attention_w256_bytes": ("attention", 256, 4, 256, 256),
    "gated_deltanet_w128_v8192": ("gated_deltanet", 128, 2, 256, 8192),
    "gated_deltanet_w256_bytes": ("gated_deltanet", 256, 4, 256, 256),
    "attention_w64_bytes": ("attention", 64, 2, 64, 256),
    "attention_w64_v8192": ("attention", 64, 2, 64, 8192),
    "gated_deltanet_w64_bytes": ("gated_deltanet", 64, 2, 64, 256),
}


def memory(field):
    """VmHWM (the peak) or VmRSS of this process, in bytes."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return 0


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.heads = width // HEAD
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, HEAD).permute(2, 0, 3, 1, 4)
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(o.transpose(1, 2).reshape(b, t, d))

    def new_cache(self, rows, tokens):
        return [torch.zeros(rows, self.heads, tokens, HEAD) for _ in range(2)]

    def step(self, x, at, cache):
        b, t, d = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, HEAD).permute(2, 0, 3, 1, 4)
        for buffer, new in zip(cache, (k, v)):
            buffer[:, :, at:at + t] = new
        k, v = (buffer[:, :, :at + t] for buffer in cache)
        o = F.scaled_dot_product_attention(q, k, v, is_causal=t > 1)
        return self.out(o.transpose(1, 2).reshape(b, t, d))


class GatedDeltaNet(nn.Module):
    CONV = 4

    def __init__(self, width):
        super().__init__()
        from transformers.models.qwen3_next.modeling_qwen3_next import (
            torch_chunk_gated_delta_rule, torch_recurrent_gated_delta_rule)

        self.rule, self.recurrent = torch_chunk_gated_delta_rule, torch_recurrent_gated_delta_rule
        self.width, self.heads = width, width // HEAD
        self.qkvz = nn.Linear(width, 4 * width, bias=False)
        self.ba = nn.Linear(width, 2 * self.heads, bias=False)
        self.conv = nn.Conv1d(3 * width, 3 * width, self.CONV, groups=3 * width, padding=self.CONV - 1,
                              bias=False)
        dt = torch.exp(torch.rand(self.heads) * (math.log(0.1) - math.log(0.001)) + math.log(0.001))
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))
        self.a_log = nn.Parameter(torch.log(torch.empty(self.heads).uniform_(0.01, 16)))
        self.norm = nn.Parameter(torch.ones(HEAD))
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x):
        return self.run(x, lambda qkv: self.conv(qkv)[..., :x.shape[1]], self.rule)[0]

    def new_cache(self, rows, tokens):
        return [torch.zeros(rows, 3 * self.width, self.CONV - 1), None]

    def step(self, x, at, cache):
        def conv(qkv):
            seen = torch.cat([cache[0], qkv], dim=-1)
            cache[0] = seen[..., -(self.CONV - 1):]
            return F.conv1d(seen, self.conv.weight, groups=3 * self.width)

        rule = self.recurrent if x.shape[1] == 1 else self.rule
        y, cache[1] = self.run(x, conv, rule, initial_state=cache[1], output_final_state=True)
        return y

    def run(self, x, conv, rule, **state):
        b, t, d = x.shape
        qkv, z = self.qkvz(x).split([3 * d, d], dim=-1)
        beta, a = self.ba(x).chunk(2, dim=-1)
        qkv = F.silu(conv(qkv.transpose(1, 2))).transpose(1, 2)
        q, k, v = (y.reshape(b, t, self.heads, HEAD) for y in qkv.split(d, dim=-1))
        g = -self.a_log.float().exp() * F.softplus(a.float() + self.dt_bias)
        state = {"initial_state": None, "output_final_state": False, **state}
        o, last = rule(q, k, v, g=g, beta=beta.sigmoid(), use_qk_l2norm_in_kernel=True, **state)
        o = F.rms_norm(o, (HEAD,), self.norm.to(o.dtype), 1e-5) * F.silu(z.view(b, t, self.heads, HEAD))
        return self.out(o.reshape(b, t, d)), last


class SwiGlu(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gate_up = nn.Linear(width, 8 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x):
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Block(nn.Module):
    def __init__(self, mixer, width):
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(width, eps=1e-5), nn.RMSNorm(width, eps=1e-5)
        self.mixer = {"attention": Attention, "gated_deltanet": GatedDeltaNet}[mixer](width)
        self.channel = SwiGlu(width)

    def forward(self, x):
        x = x + self.mixer(self.norm1(x))
        return x + self.channel(self.norm2(x))

    def step(self, x, at, cache):
        x = x + self.mixer.step(self.norm1(x), at, cache)
        return x + self.channel(self.norm2(x))


class Model(nn.Module):
    def __init__(self, mixer, width, layers, vocab):
        super().__init__()
        self.embedding = nn.Embedding(vocab, width)
        self.blocks = nn.ModuleList(Block(mixer, width) for _ in range(layers))
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.head = nn.Linear(width, vocab, bias=False)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding, nn.Conv1d)):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, x):
        x = self.embedding(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    def step(self, x, at, caches):
        """Most likely next token of each row [rows, 1] after the tokens x from position `at` on."""
        x = self.embedding(x)
        for block, cache in zip(self.blocks, caches):
            x = block.step(x, at, cache)
        return self.head(self.norm(x[:, -1:])).argmax(-1)


@torch.no_grad()
def decode(model, vocab, rows, context, steps):
    caches = [block.mixer.new_cache(rows, context + steps) for block in model.blocks]
    x = model.step(torch.randint(0, vocab, (rows, context)), 0, caches)
    seconds = []
    for i in range(steps):
        start = time.perf_counter()
        x = model.step(x, context + i, caches)
        seconds.append(time.perf_counter() - start)
    median = sorted(seconds)[steps // 2]
    return {"rows": rows, "context": context, "seconds": median, "tokens_per_s": rows / median}


class Trainer:
    def __init__(self, case, mode, dtype):
        mixer, width, layers, self.tokens, self.vocab = CASES[case]
        torch.manual_seed(0)
        self.model = Model(mixer, width, layers, self.vocab)
        if dtype == "bf16":
            self.model = self.model.bfloat16()
        self.autocast = dtype == "autocast"
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-3, weight_decay=0.1, fused=True)
        self.loss = torch.compile(self.compute_loss) if mode == "compile" else self.compute_loss

    def compute_loss(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.autocast):
            logits = self.model(x[:, :-1])
            return F.cross_entropy(logits.flatten(0, 1), x[:, 1:].flatten())

    def step(self):
        x = torch.randint(0, self.vocab, (BATCH, self.tokens + 1))
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(x)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        return loss

    def run(self, steps):
        start = time.perf_counter()
        for _ in range(steps):
            loss = self.step()
        seconds = time.perf_counter() - start
        return {"steps": steps, "seconds": seconds, "loss": loss.item(),
                "tokens_per_s": steps * BATCH * self.tokens / seconds,
                "peak_rss_bytes": memory("VmHWM")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--case", required=True, choices=CASES)
    parser.add_argument("--mode", default="eager", choices=["eager", "compile"])
    parser.add_argument("--dtype", default="f32", choices=["f32", "autocast", "bf16"])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--steps", type=int, default=0)
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    imported = memory("VmRSS")
    trainer = Trainer(options.case, options.mode, options.dtype)
    first_loss = trainer.step().item()
    first_step = time.monotonic() - T0
    trainer.run(2)
    say = lambda **line: print(json.dumps(line), flush=True)
    say(ready=True, case=options.case, mode=options.mode, dtype=options.dtype, threads=options.threads,
        torch=torch.__version__, params=sum(p.numel() for p in trainer.parameters),
        first_step_s=first_step, first_loss=first_loss, rss_after_import_bytes=imported)
    if options.steps:
        say(**trainer.run(options.steps))
        return
    for line in sys.stdin:
        words = line.split()
        if words[:1] == ["run"]:
            say(**trainer.run(int(words[1])))
        elif words[:1] == ["decode"]:
            say(**decode(trainer.model, trainer.vocab, *map(int, words[1:])))
        elif words[:1] == ["quit"]:
            return


main()
