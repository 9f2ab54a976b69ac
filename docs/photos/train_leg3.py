"""Third leg of the photograph prior: 128-px crops cut on the GPU, from the average of the second leg.

One process: traces and compiles the training step, trains until a wall-clock deadline (cosine decay in time), writes
the average of the parameters every two minutes, compiles the evaluation in a thread beside the training, evaluates
CBSD68 for the old and the new weights. The network is the U-Net of fmdp.networks.unet (no attention anywhere) as a
function of its flat dictionary of parameters; check.py compares the two.

Folders below --root: a/photos, b/photos (used once b/ready exists), v1 (weights), CBSD68; out/ is written.
stop_at (unix time, a file) moves the end of the training.
"""

import argparse, functools, json, math, operator, os, pathlib, threading, time, traceback
from concurrent.futures import ThreadPoolExecutor

T0 = time.time()
parser = argparse.ArgumentParser()
parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path("leg3"))
parser.add_argument("--size", type=int, default=128)
parser.add_argument("--batch", type=int, default=64)
parser.add_argument("--photos", type=int, default=2005)
parser.add_argument("--seconds", type=float, default=690, help="from the start of the process to the end of training")
parser.add_argument("--rate", type=float, default=6e-4)
parser.add_argument("--half-life", type=float, default=15_000, help="of the average, in crops")
parser.add_argument("--warmup", type=int, default=300)
parser.add_argument("--snapshot", type=float, default=110)
parser.add_argument("--log-every", type=int, default=200)
parser.add_argument("--evaluation-at", type=float, default=0.3, help="share of the training after which it is compiled")
parser.add_argument("--crop-pictures", type=int, nargs=2, default=None)
parser.add_argument("--pictures", type=int, default=68)
parser.add_argument("--tile", type=int, nargs=2, default=(128, 16))
args = parser.parse_args()
ROOT, OUT, SIZE, BATCH = args.root, args.root / "out", args.size, args.batch
OUT.mkdir(exist_ok=True, parents=True)


def log(*what):
    print(f"[{time.time() - T0:7.1f}]", *what, flush=True)


import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from PIL import Image
from safetensors.flax import load_file, save_file

log("jax", jax.__version__, jax.devices(), vars(args))
METRICS = open(OUT / "metrics.jsonl", "a")


def record(**what):
    METRICS.write(json.dumps({"time": round(time.time() - T0, 2)} | what) + "\n")
    METRICS.flush()


# ---------------------------------------------------------------- network

MODEL = json.loads((ROOT / "v1/model.json").read_text())["network"]
CHANNELS, MULTIPLIERS, BLOCKS, TIME_SCALE = (MODEL[k] for k in ("channels", "multipliers", "blocks", "time_scale"))
TAPS = [tap / sum(MODEL["resampling"]) for tap in MODEL["resampling"]]
assert MODEL["adaptive"] and not MODEL["attention"] and not MODEL["middle_attention"] and not MODEL["dropout"]


def positions(time, channels):
    exponents = jnp.arange(channels // 2) / (channels // 2 - 1)
    angles = time[..., None] * (1e-4**exponents).astype(time.dtype)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def halve(x, axis):
    size, pad = x.shape[axis], (len(TAPS) - 1) // 2
    x = jnp.pad(x, [(pad, pad) if a == axis else (0, 0) for a in range(x.ndim)])
    return functools.reduce(
        operator.add, (tap * lax.slice_in_dim(x, k, k + size - 1, 2, axis) for k, tap in enumerate(TAPS))
    )


def double(x, axis):
    size, pad, reach = x.shape[axis], (len(TAPS) - 1) // 2, len(TAPS) // 2
    padded = jnp.pad(x, [(reach, reach) if a == axis else (0, 0) for a in range(x.ndim)])

    def pixels(parity):
        starts = {k: reach + (parity + pad - k) // 2 for k in range(len(TAPS)) if (parity + pad - k) % 2 == 0}
        terms = (2 * TAPS[k] * lax.slice_in_dim(padded, i, i + size, axis=axis) for k, i in starts.items())
        return functools.reduce(operator.add, terms)

    shape = (*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])
    return jnp.stack([pixels(0), pixels(1)], axis + 1).reshape(shape)


def down(x):
    return halve(halve(x, 1), 2)


def up(x):
    return double(double(x, 1), 2)


def field(p, x, s, t, dtype):
    """v [B, H, W, 3] at x [B, H, W, 3], s, t [B], all float32; convolutions in `dtype`."""

    def conv(name, x, dtype):
        kernel, bias = p[name + "/kernel"].astype(dtype), p[name + "/bias"].astype(dtype)
        return lax.conv_general_dilated(x.astype(dtype), kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")) + bias

    def dense(name, x, dtype):
        return x.astype(dtype) @ p[name + "/kernel"].astype(dtype) + p[name + "/bias"].astype(dtype)

    def norm(name, x, scale=0.0, shift=0.0):
        channels = x.shape[-1]
        groups = math.gcd(channels, min(32, max(channels // 4, 1)))
        x = x.astype(jnp.float32)

        def moment(values):
            mean = values.mean((1, 2)).reshape(-1, groups, channels // groups).mean(-1)
            return jnp.repeat(mean, channels // groups, axis=-1)

        mean = moment(x)
        deviation = jnp.sqrt(jnp.maximum(moment(x * x) - mean**2, 0.0) + 1e-6)
        gain = p[name + "/scale"] / deviation
        offset = p[name + "/bias"] - mean * gain
        gain, offset = gain * (1 + scale), offset * (1 + scale) + shift
        return x * gain[:, None, None] + offset[:, None, None]

    times = positions(TIME_SCALE * (t - s), 2 * CHANNELS) + positions(TIME_SCALE * s, 2 * CHANNELS)
    for i in range(2):
        times = jax.nn.silu(dense(f"map_layer{i}", times, jnp.float32))

    def block(x, name, channels, resample=lambda x: x):
        h = jax.nn.silu(norm(f"{name}/norm0", x)).astype(dtype)
        h = conv(f"{name}/conv0", resample(h), dtype)
        scale, shift = jnp.split(dense(f"{name}/affine", times, jnp.float32), 2, axis=-1)
        h = jax.nn.silu(norm(f"{name}/norm1", h, scale, shift)).astype(dtype)
        h = conv(f"{name}/conv1", h, dtype)
        if f"{name}/skip/kernel" in p:
            x = dense(f"{name}/skip", resample(x), dtype)
        return (x + h) * math.sqrt(0.5)

    coarsest = len(MULTIPLIERS) - 1
    h = conv("enc_0_conv", x, dtype)
    skips = [h]
    for level, multiplier in enumerate(MULTIPLIERS):
        if level > 0:
            h = block(h, f"enc_{level}_down", h.shape[-1], down)
            skips.append(h)
        for i in range(BLOCKS):
            h = block(h, f"enc_{level}_block{i}", multiplier * CHANNELS)
            skips.append(h)
    h = block(h, f"dec_{coarsest}_in0", h.shape[-1])
    h = block(h, f"dec_{coarsest}_in1", h.shape[-1])
    for level, multiplier in reversed(list(enumerate(MULTIPLIERS))):
        if level < coarsest:
            h = block(h, f"dec_{level}_up", h.shape[-1], up)
        for i in range(BLOCKS + 1):
            h = block(jnp.concatenate([h, skips.pop()], axis=-1), f"dec_{level}_block{i}", multiplier * CHANNELS)
    h = jax.nn.silu(norm("dec_0_aux_norm", h))
    return conv("dec_0_aux_conv", h, jnp.float32)


# ---------------------------------------------------------------- photographs

TALL, WIDE, COPIES = 256, 320, 3
CAPACITY = args.photos * COPIES
pixels = np.zeros((CAPACITY, TALL, WIDE, 3), np.uint8)
sides = np.full((CAPACITY, 2), SIZE, np.int32)


def read(number_path):
    """A photograph, lying, and two reduced copies of it, into their places."""
    number, path = number_path
    rng = np.random.default_rng(number)
    image = Image.open(path).convert("RGB")
    if image.size[1] > image.size[0]:
        image = image.transpose(Image.Transpose.TRANSPOSE)
    least = SIZE / image.size[1]
    for copy, (low, high) in enumerate(((1, 1), (0.7, 0.95), (0.5, 0.7))):
        factor = max(rng.uniform(low, high), least) if copy else 1.0
        w, h = (max(round(side * factor), SIZE) for side in image.size)
        small = image if (w, h) == image.size else image.resize((w, h), Image.Resampling.LANCZOS)
        pixels[COPIES * number + copy, :h, :w] = np.asarray(small)
        sides[COPIES * number + copy] = h, w


class Photographs:
    """On the device: (pixels, sides, rows, how many of the rows count), replaced when the second part has come."""

    def __init__(self):
        self.paths, self.ready, self.fresh, self.error = [], threading.Event(), None, None
        threading.Thread(target=self.run, daemon=True).start()

    def add(self, folder):
        t = time.time()
        new = sorted(folder.iterdir())[: args.photos - len(self.paths)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(read, enumerate(new, len(self.paths))))
        self.paths += new
        # natural size half of the time, each reduced copy a quarter
        rows = np.array([COPIES * i + c for i in range(len(self.paths)) for c in (0, 0, 1, 2)], np.int32)
        count = len(rows)
        rows = np.pad(rows, (0, 4 * args.photos - count))
        self.fresh = jax.block_until_ready(
            tuple(jax.device_put(a) for a in (pixels, sides, rows, np.int32(count)))
        )
        log(f"photographs: {len(self.paths)} from {folder.parent.name}, {time.time() - t:.1f} s")
        self.ready.set()

    def run(self):
        try:
            self.add(ROOT / "a/photos")
            while not (ROOT / "b/ready").exists():
                time.sleep(0.5)
            self.add(ROOT / "b/photos")
        except Exception:
            self.error = traceback.format_exc()
            log(self.error)


photographs = Photographs()

# ---------------------------------------------------------------- training step

OFF = BATCH // 4
DIAGONAL = BATCH - OFF
SIGMAS = math.log(0.02), math.log(0.667)  # of restoring, on the [-1, 1] scale: s from .98 to .6


def lattice(key, n):
    """n pairs that fill the unit square evenly, each uniform (a Kronecker lattice with a random shift)."""
    steps = jnp.array([0.7548776662466927, 0.5698402909980532])
    uv = (jax.random.uniform(key, (2,)) + jnp.arange(n)[:, None] * steps) % 1.0
    return uv[:, 0], uv[:, 1]


def restoring(u):
    low, high = SIGMAS
    return 1 / (1 + jnp.exp(low + (high - low) * u))


def draw_times(key):
    """s, t [BATCH]: first the diagonal, uniform then restoring, then the pairs, uniform then restoring."""
    keys = jax.random.split(key, 4)
    n, m = DIAGONAL // 2, OFF // 2
    diagonal = jnp.concatenate([lattice(keys[0], DIAGONAL - n)[0], restoring(lattice(keys[1], n)[0])])
    a, b = lattice(keys[2], OFF - m)
    u, r = lattice(keys[3], m)
    s = restoring(u)
    t = s + jnp.minimum(1.15 * r, 1.0) * (1 - s)  # a share of them right at t = 1
    return (
        jnp.concatenate([diagonal, jnp.minimum(a, b), s]),
        jnp.concatenate([diagonal, jnp.maximum(a, b), t]),
    )


def draw_crops(key, pixels, sides, rows, count):
    keys = jax.random.split(key, 3)
    which = rows[jax.random.randint(keys[0], (BATCH,), 0, count)]
    room = sides[which] - SIZE + 1
    corner = jnp.floor(jax.random.uniform(keys[1], (BATCH, 2)) * room).astype(jnp.int32)
    corner = jnp.minimum(corner, room - 1)

    def cut(i, yx):
        return lax.dynamic_slice(pixels, (i, yx[0], yx[1], 0), (1, SIZE, SIZE, 3))[0]

    x = jax.vmap(cut)(which, corner)
    turn = jax.random.bernoulli(keys[2], 0.5, (3, BATCH))[..., None, None, None]
    x = jnp.where(turn[0], x[:, ::-1], x)
    x = jnp.where(turn[1], x[:, :, ::-1], x)
    x = jnp.where(turn[2], x.swapaxes(1, 2), x)
    return x.astype(jnp.float32) / 127.5 - 1


def expand(t):
    return t[:, None, None, None]


def loss_of(params, x1, x0, s, t):
    dtype = jnp.bfloat16
    x_s, u = (1 - expand(s)) * x0 + expand(s) * x1, x1 - x0
    fixed = lax.stop_gradient(params)
    xo, so, to = x_s[DIAGONAL:], s[DIAGONAL:], t[DIAGONAL:]
    own = field(fixed, xo, so, so, dtype)
    _, along = jax.jvp(lambda x, s: field(fixed, x, s, to, dtype), (xo, so), (own, jnp.ones_like(so)))
    target = lax.stop_gradient(jnp.concatenate([u[:DIAGONAL], u[DIAGONAL:] + expand(to - so) * along]))
    losses = jnp.square(field(params, x_s, s, t, dtype) - target).mean((1, 2, 3))
    parts = {
        "diagonal": losses[:DIAGONAL].mean(),
        "diagonal_restoring": losses[DIAGONAL - DIAGONAL // 2 : DIAGONAL].mean(),
        "off_diagonal": losses[DIAGONAL:].mean(),
        "off_restoring": losses[BATCH - OFF // 2 :].mean(),
    }
    return losses.mean(), parts


DECAY = 0.5 ** (BATCH / args.half_life)
B1, B2, CLIP = 0.9, 0.99, 1.0


def train_step(state, number, rate, pixels, sides, rows, count):
    keys = jax.random.split(jax.random.fold_in(jax.random.key(3), number), 3)
    s, t = draw_times(keys[0])
    x1 = draw_crops(keys[1], pixels, sides, rows, count)
    x0 = jax.random.normal(keys[2], x1.shape)
    (loss, parts), grads = jax.value_and_grad(loss_of, has_aux=True)(state["params"], x1, x0, s, t)
    size = jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in grads.values()))
    shrink = jnp.minimum(1.0, CLIP / (size + 1e-12))
    finite = jnp.isfinite(size) & jnp.isfinite(loss)
    n = state["n"] + finite
    new = {"params": {}, "mu": {}, "nu": {}, "ema": {}, "n": n}
    for name, g in grads.items():
        g = g * shrink
        mu = B1 * state["mu"][name] + (1 - B1) * g
        nu = B2 * state["nu"][name] + (1 - B2) * g * g
        step = (mu / (1 - B1**n)) / (jnp.sqrt(nu / (1 - B2**n)) + 1e-8)
        p = state["params"][name] - rate * step
        ema = DECAY * state["ema"][name] + (1 - DECAY) * p
        for key, value in (("params", p), ("mu", mu), ("nu", nu), ("ema", ema)):
            new[key][name] = jnp.where(finite, value, state[key][name])
    return new, parts | {"loss": loss, "gradient_norm": size, "finite": finite.astype(jnp.float32)}


# ---------------------------------------------------------------- evaluation

R = (0.0, 0.5, 1.0)
LEVELS = (15, 25, 50)


def noisy(clean, noise, sigma):
    image = clean.astype(jnp.float32) / 127.5 - 1
    return image, image + noise * (sigma / 127.5), 1 / (1 + sigma / 127.5)


def whole(p, clean, noise, sigma):
    """Mean squared errors at r of R of a whole picture [H, W, 3], reflected to multiples of 8."""
    h, w, _ = clean.shape
    image, y, s = noisy(clean, noise, sigma)
    y = jnp.pad(y, ((0, -h % 8), (0, -w % 8), (0, 0)), "reflect")
    x = jnp.broadcast_to(s * y, (len(R), *y.shape))
    s = jnp.full(len(R), s)
    d = x + expand(1 - s) * field(p, x, s, s + jnp.array(R) * (1 - s), jnp.float32)
    return jnp.square(jnp.clip(d[:, :h, :w], -1, 1) - image).mean((1, 2, 3))


def tiles(p, clean, noise, sigma):
    """The same at r = 0 from tiles that overlap by two margins, each pixel from one of them."""
    tile, margin = args.tile
    h, w, _ = clean.shape
    image, y, s = noisy(clean, noise, sigma)
    starts = [[*range(0, n - tile, tile - 2 * margin), n - tile] for n in (h, w)]
    places = [(i, j) for i in starts[0] for j in starts[1]]
    x = jnp.stack([s * y[i : i + tile, j : j + tile] for i, j in places])
    s = jnp.full(len(places), s)
    d = x + expand(1 - s) * field(p, x, s, s, jnp.float32)
    out = jnp.zeros_like(image)
    for (i, j), values in zip(places, d):
        a, b = (margin if k else 0 for k in (i, j))
        out = out.at[i + a : i + tile, j + b : j + tile].set(values[a:, b:])
    # a later tile takes over its first margin inwards, so each pixel is at least a margin from an inner edge
    return jnp.square(jnp.clip(out, -1, 1) - image).mean()[None]


class Evaluation:
    def __init__(self, p):
        self.programs, self.error, self.p = {}, None, p
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        try:
            self.prepare()
        except Exception:
            self.error = traceback.format_exc()
            log(self.error)

    def prepare(self):
        clean, noise = [], []
        for i, path in enumerate(sorted((ROOT / "CBSD68").iterdir())[: args.pictures]):
            image = np.asarray(Image.open(path).convert("RGB"))
            if image.shape[0] > image.shape[1]:
                image = image.transpose(1, 0, 2)
            if args.crop_pictures:
                image = image[: args.crop_pictures[0], : args.crop_pictures[1]]
            clean.append(image)
            noise.append(np.random.default_rng(i).normal(size=image.shape).astype(np.float32))
        self.clean, self.noise = jax.device_put(np.stack(clean)), jax.device_put(np.stack(noise))
        for program in (whole, tiles):
            t = time.time()
            shapes = jax.eval_shape(lambda p, c, n: (p, c[0], n[0], jnp.float32(0)), self.p, self.clean, self.noise)
            lowered = jax.jit(program).lower(*shapes)
            between = time.time()
            self.programs[program.__name__] = lowered.compile()
            log(f"evaluation {program.__name__}: trace+lower {between - t:.1f} s, compile {time.time() - between:.1f} s")

    def scores(self, name, p):
        """Mean PSNR by level of noise, and of the first pictures, one by one."""
        table, program, t = {}, self.programs[name], time.time()
        for level in LEVELS:
            sigma = jnp.float32(level)
            mse = np.stack(jax.device_get([program(p, c, n, sigma) for c, n in zip(self.clean, self.noise)]))
            psnr = 10 * np.log10(4 / mse)
            table[str(level)] = [round(float(v), 4) for v in psnr.mean(0)]
            table[f"{level} first"] = np.round(psnr[:4], 4).tolist()
        return {"pictures": len(psnr), "seconds": round(time.time() - t, 2), "psnr": table}


# ---------------------------------------------------------------- run


def rounded(p):
    return {name: x.astype(jnp.bfloat16) for name, x in p.items()}


def write(p, step):
    temporary = OUT / "weights.tmp"
    save_file({name: jnp.asarray(x) for name, x in jax.device_get(rounded(p)).items()}, temporary)
    os.replace(temporary, OUT / "weights.safetensors")
    log(f"wrote the average after {step} steps")


def deadline():
    try:
        return float((ROOT / "stop_at").read_text())
    except (OSError, ValueError):
        return T0 + args.seconds


old = {name: x.astype(jnp.float32) for name, x in load_file(ROOT / "v1/weights.safetensors").items()}
log(f"{sum(x.size for x in old.values())} parameters in {len(old)} arrays")


def zeros():
    return {name: jnp.zeros_like(x) for name, x in old.items()}


state = {
    "params": {name: jnp.array(x, copy=True) for name, x in old.items()},
    "ema": {name: jnp.array(x, copy=True) for name, x in old.items()},
    "mu": zeros(), "nu": zeros(), "n": jnp.int32(0),
}  # fmt: skip


def shape(*dims, dtype=jnp.int32):
    return jax.ShapeDtypeStruct(dims, dtype)


given = (
    jax.eval_shape(lambda x: x, state), shape(), shape(dtype=jnp.float32), shape(CAPACITY, TALL, WIDE, 3, dtype=jnp.uint8),
    shape(CAPACITY, 2), shape(4 * args.photos), shape(),
)  # fmt: skip
t = time.time()
traced = jax.jit(train_step, donate_argnums=0).trace(*given)
log(f"trace {time.time() - t:.1f} s")
t = time.time()
lowered = traced.lower()
log(f"lower {time.time() - t:.1f} s")
t = time.time()
options = {"xla_gpu_enable_triton_gemm": False} if jax.default_backend() == "gpu" else {}
try:
    step = lowered.compile(compiler_options=options)
except Exception as error:
    log("compile with options failed:", str(error)[:500])
    t = time.time()
    step = lowered.compile()
log(f"compile {time.time() - t:.1f} s (options {options})")
try:
    memory, cost = step.memory_analysis(), step.cost_analysis()
    log(f"temporaries {memory.temp_size_in_bytes / 1e9:.2f} GB; flops {cost.get('flops') if cost else None}")
except Exception as error:
    log("no analysis:", error)
record(compiled=True, seconds=round(time.time() - t, 1))


def count_lines():
    n = lowered.as_text().count("\n")
    log(f"StableHLO of the training step: {n} lines")


while not photographs.ready.wait(5):
    if photographs.error:
        raise SystemExit("no photographs")
pictures, photographs.fresh = photographs.fresh, None
begin, end = time.time(), deadline()
snapshot_at, evaluation, number, pending, history = begin + args.snapshot, None, 0, [], []
last_number, last_time, first = 0, begin, True


def collect(keep):
    """Fetch all but the newest steps' numbers; waits for them, so the host is never far ahead."""
    while len(pending) > keep:
        history.append({k: float(v) for k, v in jax.device_get(pending.pop(0)).items()})


def summary(number, rate):
    global last_number, last_time
    now, recent = time.time(), history[last_number:]
    if not recent:
        return
    middle = {k: float(np.median([h[k] for h in recent])) for k in recent[0]}
    norms = np.percentile([h["gradient_norm"] for h in recent], [5, 50, 95, 100])
    ms = 1000 * (now - last_time) / (len(history) - last_number)
    skipped = sum(1 - h["finite"] for h in history)
    log(
        f"step {number} {ms:.1f} ms/step {BATCH * 1000 / ms:.0f} crops/s rate {rate:.2e} diagonal {middle['diagonal']:.4f}"
        f" restoring {middle['diagonal_restoring']:.4f} off {middle['off_diagonal']:.4f} off restoring"
        f" {middle['off_restoring']:.4f} gradient 5/50/95/100 % {' '.join(f'{n:.3f}' for n in norms)} skipped {skipped:.0f}"
    )
    record(step=number, ms=round(ms, 2), rate=rate, gradient=[round(float(n), 4) for n in norms], skipped=skipped,
           **{k: round(v, 5) for k, v in middle.items() if k not in ("finite", "gradient_norm")})
    last_number, last_time = len(history), now


while True:
    now = time.time()
    share = (now - begin) / (end - begin)
    if share >= 1:
        break
    rate = args.rate * min(1, (number + 1) / args.warmup) * 0.5 * (1 + math.cos(math.pi * share))
    state, numbers = step(state, np.int32(number), np.float32(rate), *pictures)
    pending.append(numbers)
    number += 1
    if number in (1, 20):
        jax.block_until_ready(numbers)
        log(f"step {number} done, {time.time() - now:.2f} s, loss {float(numbers['loss']):.4f}, gradient {float(numbers['gradient_norm']):.3f}")
        if number == 1:
            begin += time.time() - now
            threading.Thread(target=count_lines, daemon=True).start()
        last_time, last_number = time.time(), number if number == 20 else 0
    collect(6)
    if number % args.log_every == 0 or number in (60,):
        summary(number, rate)
        end = deadline()
    if photographs.fresh is not None:
        pictures, photographs.fresh = photographs.fresh, None
        log(f"from step {number} on: {len(photographs.paths)} photographs")
    if now >= snapshot_at:
        write(state["ema"], number)
        snapshot_at = now + args.snapshot
    if evaluation is None and share > args.evaluation_at:
        evaluation = Evaluation(old)

collect(0)
summary(number, rate)
seconds = time.time() - begin
log(f"trained {number} steps, {number * BATCH} crops, {seconds:.1f} s, {number * BATCH / seconds:.0f} crops/s")
write(state["ema"], number)
quarter = history[-(len(history) // 4) :]
for part, chosen in (("last quarter", quarter), ("second half", history[len(history) // 2 :])):
    line = {k: [round(float(x), 4) for x in np.percentile([h[k] for h in chosen], [5, 50, 95, 100])] for k in chosen[0] if k != "finite"}
    log(part, "5/50/95/100 %:", json.dumps(line))
    record(part=part, percentiles=line)
record(steps=number, crops=number * BATCH, seconds=round(seconds, 1), skipped=sum(1 - h["finite"] for h in history))
(OUT / "trained").write_text(f"{number} {number * BATCH} {seconds}\n")

if evaluation is None or evaluation.error:
    evaluation = Evaluation(old)
new = {name: x.astype(jnp.float32) for name, x in load_file(OUT / "weights.safetensors").items()}
results = {}
for program in ("whole", "tiles"):
    while program not in evaluation.programs and evaluation.thread.is_alive():
        time.sleep(0.2)
    if program not in evaluation.programs:
        log(f"no program {program}")
        continue
    for who, p in (("new", new), ("photos_v1", old)):
        try:
            results[f"{program} {who}"] = evaluation.scores(program, p)
            log(program, who, json.dumps(results[f"{program} {who}"]))
        except Exception:
            log(traceback.format_exc())
        (OUT / "evaluation.json").write_text(json.dumps(results, indent=1))
log("done")
(OUT / "done").write_text("done\n")
