"""PyTorch's side, through diffusers: UNet2DModel, DDIMScheduler, a classifier of the U-Net's own way down.

The blocks are those of ADM, as ours, so that the operations are the same in number (`flops`); the weights are not.
"""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DModel
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed.sizes import EMA_DECAY, LABEL_DROPOUT, LEARNING_RATE, SCALE, Size


def make_unet(size: Size) -> UNet2DModel:
    """The same widths, blocks, heads and groups; the last class is the null label."""
    attends = [2**level in size.attention for level in range(len(size.channel_mult))]
    plain = ("Resnet{}sampleBlock2D" if size.resblock_updown else "{}Block2D").format
    return UNet2DModel(
        sample_size=size.side,
        in_channels=size.channels,
        out_channels=size.channels,
        block_out_channels=tuple(mult * size.width for mult in size.channel_mult),
        layers_per_block=size.num_res_blocks,
        down_block_types=tuple("AttnDownBlock2D" if each else plain("Down") for each in attends),
        up_block_types=tuple("AttnUpBlock2D" if each else plain("Up") for each in reversed(attends)),
        downsample_type="resnet" if size.resblock_updown else "conv",
        upsample_type="resnet" if size.resblock_updown else "conv",
        attention_head_dim=size.head_channels,
        norm_num_groups=size.num_groups,
        resnet_time_scale_shift="scale_shift",
        num_class_embeds=size.num_classes + 1,
    )


class Encoder(torch.nn.Module):
    """The way down and the middle of a U-Net, an attention pool, logits."""

    def __init__(self, size: Size):
        super().__init__()
        unet = make_unet(size)
        self.time_proj, self.time_embedding, self.conv_in = unet.time_proj, unet.time_embedding, unet.conv_in
        self.down_blocks, self.mid_block = unet.down_blocks, unet.mid_block
        width = size.channel_mult[-1] * size.width
        tokens = (size.side >> (len(size.channel_mult) - 1)) ** 2 + 1
        self.norm = torch.nn.GroupNorm(size.num_groups, width)
        self.positions = torch.nn.Parameter(torch.randn(tokens, width) * width**-0.5)
        self.heads = width // size.head_channels
        self.qkv, self.head = torch.nn.Linear(width, 3 * width), torch.nn.Linear(width, size.num_classes)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """x (N, C, H, W), t (N,) -> logits (N, classes)."""
        emb = self.time_embedding(self.time_proj(t).to(x.dtype))
        h = self.conv_in(x)
        for block in self.down_blocks:
            h, _ = block(h, emb)
        h = functional.silu(self.norm(self.mid_block(h, emb)))
        tokens = h.flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1) + self.positions
        qkv = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(*qkv)
        return self.head(attended[:, :, 0].flatten(1))


def scheduler_of(steps: int) -> DDIMScheduler:
    """DDPM's linear schedule, the steps spread as ADM's ddim spacing, no clipping."""
    scheduler = DDIMScheduler(1000, 1e-4, 0.02, "linear", clip_sample=False, set_alpha_to_one=True)
    scheduler.set_timesteps(steps)
    return scheduler


def draw(size: Size, kind: str, unet: Callable, classifier: Callable, x: Any, labels: Any) -> torch.Tensor:
    """x_T (N, C, H, W) -> x_0. unet: (x, t, labels) -> eps, classifier: (x, t) -> logits."""
    scheduler, null = scheduler_of(size.steps), torch.full_like(labels, size.num_classes)
    for t in scheduler.timesteps:
        times = t.expand(len(x)).to(x.device)
        if kind == "classifier":
            eps = unet(x, times, null)
            with torch.enable_grad():
                leaf = x.detach().requires_grad_()
                of_label = functional.log_softmax(classifier(leaf, times), 1).gather(1, labels[:, None]).sum()
                gradient = torch.autograd.grad(of_label, leaf)[0]
            eps = eps - SCALE * (1 - scheduler.alphas_cumprod[t]).sqrt() * gradient
        else:  # one call on a batch of both, as diffusers' pipelines do it
            both = unet(torch.cat([x, x]), times.repeat(2), torch.cat([null, labels]))
            u, c = both.chunk(2)
            eps = u + SCALE * (c - u)
        x = scheduler.step(eps, t, x).prev_sample
    return x


def layout(who: str) -> torch.memory_format:
    """How pictures and kernels lie in memory; for compiled networks as is best for them."""
    return torch.contiguous_format if who == "torch" else torch.channels_last


def place(size: Size) -> str:
    """The device's name."""
    return {"cpu": "cpu", "gpu": "cuda"}[size.device]


def finished(result: Any) -> Any:
    """The result, when the device has it."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return result


def prepared(network: torch.nn.Module, size: Size, who: str) -> Any:
    """On its device, in that layout, compiled if that is asked for."""
    network = network.to(place(size)).to(memory_format=layout(who))
    return torch.compile(network) if who == "torch compiled" else network


def output(network: Any, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """What a U-Net says."""
    return network(x, t, labels).sample


def sampling(
    size: Size, kind: str, who: str, make: Callable[[Size], Any] = make_unet, call: Callable[..., Any] = output
) -> Callable[[], Any]:
    """A function that draws `size.images` pictures, with the parameters too in the type that is computed in.

    make: of the network; call: (network, x, t, labels) -> eps.
    """
    torch.manual_seed(0)
    dtype = getattr(torch, size.dtype)
    makes = (make, Encoder) if kind == "classifier" else (make,)
    made = (each(size).eval().requires_grad_(False) for each in makes)
    halved = (each.bfloat16() if size.dtype == "bfloat16" else each for each in made)
    unet, *classifier = (prepared(network, size, who) for network in halved)
    x_T = torch.randn(size.images, size.channels, size.side, size.side, device=place(size))
    x_T = x_T.to(memory_format=layout(who))
    labels = torch.arange(size.images, device=place(size)) % size.num_classes

    @torch.no_grad()
    def run() -> torch.Tensor:
        eps = lambda x, t, y: call(unet, x.to(dtype), t, y).float()  # noqa: E731
        return draw(size, kind, eps, lambda x, t: classifier[0](x.to(dtype), t).float(), x_T, labels).cpu()

    return run


def train(
    size: Size, who: str, make: Callable[[Size], Any] = make_unet, call: Callable[..., Any] = output
) -> Callable[[], Any]:
    """A function that makes `size.train_steps` steps of training the network: AdamW and an average of the weights.

    make, call: as of `sampling`.
    """
    torch.manual_seed(0)
    unet, where = make(size).train().to(place(size)).to(memory_format=layout(who)), place(size)
    network = torch.compile(unet) if who == "torch compiled" else unet
    average = [parameter.detach().clone() for parameter in unet.parameters()]
    optimizer = torch.optim.AdamW(unet.parameters(), LEARNING_RATE, weight_decay=0.0)
    bars = scheduler_of(1).alphas_cumprod.to(where)
    batch = torch.rand(size.batch, size.channels, size.side, size.side).to(memory_format=layout(who)) * 2 - 1
    classes = torch.randint(size.num_classes, (size.batch,))

    def step() -> torch.Tensor:
        pictures, labels = batch.to(where), classes.to(where)  # a loader's batch comes from the host
        t, eps = torch.randint(1000, (size.batch,), device=where), torch.randn_like(pictures)
        bar = bars[t][:, None, None, None]
        told = torch.where(torch.rand(size.batch, device=where) < LABEL_DROPOUT, size.num_classes, labels)
        x_t = bar.sqrt() * pictures + (1 - bar).sqrt() * eps
        with torch.autocast(where, torch.bfloat16, enabled=size.dtype == "bfloat16"):
            found = call(network, x_t, t, told)
        loss = functional.mse_loss(found.float(), eps)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, list(unet.parameters()), 1 - EMA_DECAY)
        return loss.detach()

    return lambda: [step() for _ in range(size.train_steps)][-1].item()


def flops(size: Size) -> dict[str, int]:
    """Of one picture: the U-Net's forward pass, and the classifier's with its gradient in the picture."""
    unet, classifier = (make(size).requires_grad_(False) for make in (make_unet, Encoder))
    x, t = torch.zeros(1, size.channels, size.side, size.side), torch.zeros(1, dtype=torch.long)
    found = {}
    # The counter knows attention in its plain form.
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as counter:
            unet(x, t, t)
        found["unet"] = counter.get_total_flops()
        with FlopCounterMode(display=False) as counter:
            classifier(x.requires_grad_(), t).sum().backward()  # grad() and the counter do not go together
        found["classifier"] = counter.get_total_flops()
    return found


def build(size: Size, job: str, who: str) -> Callable[[], Any]:
    """What is timed."""
    return train(size, who) if job == "train" else sampling(size, job, who)
