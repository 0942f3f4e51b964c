"""PyTorch's side of benchmarks/denoise.py: run by another interpreter, it imports torch and diffusers and nothing of ours.

Reads one JSON request a line from standard input and answers each with one line; arrays and weights go through files in FOLDER.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNetMotionModel
from diffusers.models.attention_processor import AttnProcessor2_0
from safetensors.torch import save_file


class Side:
    """The networks, and what is timed of them: "step" one pass of the UNet, "clip" sampling and decoding."""

    def __init__(self, folder: Path, gpu: bool):
        self.folder = folder
        self.device, self.dtype = ("cuda", torch.bfloat16) if gpu else ("cpu", torch.float32)
        self.unet, self.vae, self.calls = None, None, {}

    def build(self, channels: list[int], heads: int, vae: bool) -> dict:
        """Makes networks of these widths with seeded weights, and writes these in float32."""
        torch.manual_seed(0)
        self.unet = self._ready(UNetMotionModel(
            block_out_channels=tuple(channels), num_attention_heads=heads, motion_num_attention_heads=heads,
            cross_attention_dim=768,
        ), "unet")  # fmt: skip
        self.unet.set_attn_processor(AttnProcessor2_0())
        if vae:
            self.vae = self._ready(AutoencoderKL(
                block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
                down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            ), "vae")  # fmt: skip
        count = sum(p.numel() for p in self.unet.parameters())
        return {"version": torch.__version__, "threads": torch.get_num_threads(), "parameters": count}

    @torch.no_grad()
    def _ready(self, model, name: str):
        """Every layer keeps the variance of what it reads, so that no output dies or explodes."""
        for path, value in model.named_parameters():
            if value.ndim >= 2:
                value.normal_(std=value[0].numel() ** -0.5)
            else:
                value.normal_(mean=float(path.endswith("weight")), std=0.1)
        save_file({path: value.contiguous() for path, value in model.state_dict().items()}, self.folder / f"{name}.safetensors")
        model.eval().requires_grad_(False)
        return model.to(self.device, self.dtype, memory_format=torch.channels_last)

    def load(self, task: str, compiled: bool) -> dict:
        """Takes the inputs in FOLDER, runs each way once and writes what came out; a way that fails says why."""
        inputs = {key: torch.from_numpy(value) for key, value in np.load(self.folder / "inputs.npz").items()}
        ways, self.calls = {}, {}
        torch.compiler.reset()
        for way in ("eager", "compiled") if compiled else ("eager",):
            unet, decode = self.unet, self.vae and self.vae.decode
            if way == "compiled":
                unet, decode = torch.compile(unet), decode and torch.compile(decode)
            call = self._step(unet, inputs) if task == "step" else self._clip(unet, decode, inputs)
            began = time.perf_counter()
            try:
                out = call()
            except Exception as error:  # Whatever a compiler may raise: the other way is still there.
                ways[way] = {"failed": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
                continue
            ways[way] = {"first_s": time.perf_counter() - began}
            np.save(self.folder / f"{way}.npy", out.float().cpu().numpy())
            self.calls[way] = call
        return ways

    def _step(self, unet, inputs):
        latents = inputs["latents"].to(self.device, self.dtype)
        context = inputs["context"].to(self.device, self.dtype).repeat_interleave(latents.shape[2], 0)
        t = inputs["t"].to(self.device)

        @torch.no_grad()
        def call():
            return unet(latents, t, context, return_dict=False)[0]

        return call

    def _clip(self, unet, decode, inputs):
        """DDIM with eta 0 from noise, predictions being of the noise, then the VAE's decoder on every frame."""
        noise = inputs["latents"].to(self.device, self.dtype)
        context = inputs["context"].to(self.device, self.dtype).repeat_interleave(noise.shape[2], 0)
        steps = [tuple(float(x) for x in row) for row in inputs["steps"]]

        @torch.no_grad()
        def call():
            x = noise
            for t, here, there in steps:
                found = unet(x, torch.tensor(int(t), device=self.device), context, return_dict=False)[0]
                clean = (x - (1 - here) ** 0.5 * found) / here**0.5
                x = there**0.5 * clean + (1 - there) ** 0.5 * found
            frames = x.permute(0, 2, 1, 3, 4).flatten(0, 1).contiguous(memory_format=torch.channels_last)
            return decode(frames / 0.18215, return_dict=False)[0]

        return call

    def time(self, way: str, calls: int) -> dict:
        """Milliseconds of each of so many calls."""
        found = []
        for _ in range(calls):
            began = time.perf_counter()
            self.calls[way]()
            if self.device == "cuda":
                torch.cuda.synchronize()
            found.append(1e3 * (time.perf_counter() - began))
        return {"ms": found}


def main() -> None:
    folder, threads, gpu = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "gpu"
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = True
    # Compilers print; the answers have standard output for themselves.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    side = Side(folder, gpu)
    for line in sys.stdin:
        request = json.loads(line)
        answer = getattr(side, request.pop("do"))(**request)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
