"""Training steps of netloom and its peers, run alternately: python3 compare.py PEERS NET…
PEERS holds the virtual environments `torch` and `jax` and the folder `models` that `train.py export` wrote; see README.md.
A figure of netloom's counts only if its loss on PyTorch's weights and batch is PyTorch's: at first within 1e-4, after 100 steps within 1e-3.
"""
import json, pathlib, re, statistics, struct, subprocess, sys, zipfile

ROUNDS, SECONDS = 3, 2
here = pathlib.Path(__file__).parent
peers, nets = pathlib.Path(sys.argv[1]), sys.argv[2:] or ["tiny", "mlp", "lenet", "autoencoder"]
netloom = here.parent.parent / "target/release/netloom"


def scalar(archive, name):
    """A float32 scalar from an .npz file, without numpy."""
    with zipfile.ZipFile(archive) as z, z.open(name + ".npy") as f:
        return struct.unpack("<f", f.read()[-4:])[0]


def ours(net, threads, mode):
    model = peers / "models" / (net + ".train")
    command = [netloom, "bench", net, "--train", "--json", "--threads", threads, "--seconds", SECONDS, "--replay", 100,
               "--weights", f"{model}.safetensors", "--input", f"{model}.npz", *mode]
    report = json.loads(subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True).stdout)
    for key, wanted, bound in (("loss_first", "loss_first", 1e-4), ("loss_replayed", "loss_100", 1e-3)):
        expected = scalar(f"{model}.npz", wanted)
        error = abs(report[key] - expected) / max(abs(expected), 1e-9)
        assert error <= bound, f"{net}: {key} is {report[key]}, PyTorch has {expected}"
    return report["median_ms"]


def peer(python, engine, net, threads):
    command = [peers / python / "bin/python", here / "train.py", engine, net, threads, SECONDS]
    printed = subprocess.run([str(part) for part in command], capture_output=True, text=True).stdout
    found = re.search(r"median_ms=([\d.]+)", printed)
    return float(found[1]) if found else None


ENGINES = {
    "netloom": lambda net, threads: ours(net, threads, []),
    "netloom, x86-64-v3": lambda net, threads: ours(net, threads, ["--cpu", "x86-64-v3"]),
    "netloom eager": lambda net, threads: ours(net, threads, ["--eager"]),
    "PyTorch eager": lambda net, threads: peer("torch", "torch", net, threads),
    "torch.compile": lambda net, threads: peer("torch", "compile", net, threads),
    "JAX": lambda net, threads: peer("jax", "jax", net, threads),
}

print("| net | threads | " + " | ".join(ENGINES) + " | best peer / netloom |")
print("|---" * (len(ENGINES) + 3) + "|")
for net in nets:
    for threads in (1, 2):
        times = {engine: [] for engine in ENGINES}
        for _ in range(ROUNDS):
            for engine, run in ENGINES.items():
                took = run(net, threads)
                if took is not None:
                    times[engine].append(took)
        middle = {engine: statistics.median(values) if values else None for engine, values in times.items()}
        best = min(value for engine, value in middle.items() if value and not engine.startswith("netloom"))
        cells = [f"{value:.4g} ms" if value else "–" for value in middle.values()]
        print(f"| {net} | {threads} | " + " | ".join(cells) + f" | {best / middle['netloom']:.2f} |", flush=True)
