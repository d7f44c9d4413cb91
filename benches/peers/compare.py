"""netloom and its peers, run alternately: python3 compare.py PEERS train|infer|infer16 NET…
PEERS holds the virtual environments `torch`, `jax` and `ort` and the folder `models`; see README.md. `train` times training steps, `infer` predictions of one
picture and `infer16` of sixteen (without ncnn, which takes one), on 1 and 2 threads. A figure of netloom's counts only if its results on the same weights and data are PyTorch's: of a training step the loss at
first within 1e-4 and after 100 steps within 1e-3 (resnet18: after 10 steps, 1e-2), of a prediction the scores within 1e-3 of the greatest.
"""
import json, math, pathlib, re, statistics, struct, subprocess, sys, tempfile, zipfile

ROUNDS, SECONDS = 3, 2
here = pathlib.Path(__file__).parent
peers, kind, nets = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
netloom = here.parent.parent / "target/release/netloom"
batch = 16 if kind == "infer16" else 1
folder = tempfile.TemporaryDirectory()


def scalar(archive, name):
    """A float32 scalar from an .npz file, without numpy."""
    with zipfile.ZipFile(archive) as z, z.open(name + ".npy") as f:
        return struct.unpack("<f", f.read()[-4:])[0]


def bench(net, threads, more):
    command = [netloom, "bench", net, "--json", "--threads", threads, "--seconds", SECONDS, *more]
    return json.loads(subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True).stdout)


def trained(mode):
    def run(net, threads):
        model = peers / "models" / (net + ".train")
        steps, bound = (10, 1e-2) if net == "resnet18" else (100, 1e-3)
        report = bench(net, threads, ["--train", "--replay", steps, "--weights", f"{model}.safetensors", "--input", f"{model}.npz", *mode])
        for key, wanted, allowed in (("loss_first", "loss_first", 1e-4), ("loss_replayed", f"loss_{steps}", bound)):
            expected = scalar(f"{model}.npz", wanted)
            error = abs(report[key] - expected) / max(abs(expected), 1e-9)
            assert error <= allowed, f"{net}: {key} is {report[key]}, PyTorch has {expected}"
        return report["median_ms"]
    return run


def pictures(net):
    """The exported picture and scores, repeated for a batch."""
    exported = peers / "models" / f"{net}.npz"
    if batch == 1:
        return exported
    repeated = pathlib.Path(folder.name) / f"{net}.npz"
    if not repeated.exists():
        repeat = f"import numpy as np; z = np.load({str(exported)!r}); np.savez({str(repeated)!r}, **{{k: np.repeat(z[k], {batch}, 0) for k in z}})"
        subprocess.run([peers / "ort/bin/python", "-c", repeat], check=True)
    return repeated


def predicted(mode):
    def run(net, threads):
        weights, examples = peers / "models" / f"{net}.safetensors", pictures(net)
        report = bench(net, threads, ["--batch", batch, "--weights", weights, "--input", examples, "--expect", examples, *mode])
        assert report["max_rel_err"] <= 1e-3, f"{net}: off by {report['max_rel_err']} of the greatest score"
        return report["median_ms"]
    return run


def peer(python, script, engine, *models):
    def run(net, threads):
        command = [peers / python / "bin/python", here / script, engine, *models, net, threads, SECONDS, *([batch] if batch > 1 else [])]
        printed = subprocess.run([str(part) for part in command], capture_output=True, text=True).stdout
        found = re.search(r"median_ms=([\d.]+)", printed)
        return float(found[1]) if found else None
    return run


models = peers / "models"
ENGINES = {
    "train": {
        "netloom": trained([]),
        "netloom, x86-64-v3": trained(["--cpu", "x86-64-v3"]),
        "netloom eager": trained(["--eager"]),
        "PyTorch eager": peer("torch", "train.py", "torch"),
        "torch.compile": peer("torch", "train.py", "compile"),
        "JAX": peer("jax", "train.py", "jax"),
    },
    "infer": {
        "netloom": predicted([]),
        "netloom, x86-64-v3": predicted(["--cpu", "x86-64-v3"]),
        "ONNX Runtime": peer("ort", "infer.py", "ort", models),
        "OpenVINO": peer("ort", "infer.py", "openvino", models),
        "ncnn": peer("ort", "infer.py", "ncnn", models),
        "torch.compile": peer("torch", "infer.py", "compile", models),
    },
}[kind.removesuffix("16")]
if batch > 1:
    del ENGINES["ncnn"]
# A matrix unit computes convolutions only.
cpus = pathlib.Path("/proc/cpuinfo")
if kind.startswith("infer") and cpus.exists() and "amx_bf16" in cpus.read_text():
    ENGINES = {"netloom": ENGINES.pop("netloom"), "netloom, AMX": predicted(["--cpu", "x86-64-v4-amx"]), **ENGINES}

print("| net | threads | " + " | ".join(ENGINES) + " | best peer / netloom |")
print("|---" * (len(ENGINES) + 3) + "|")
ratios, middles = [], []
for net in nets:
    for threads in (1, 2):
        times = {engine: [] for engine in ENGINES}
        for _ in range(ROUNDS):
            for engine, run in ENGINES.items():
                took = run(net, threads)
                if took is not None:
                    times[engine].append(took)
        middle = {engine: statistics.median(values) if values else None for engine, values in times.items()}
        middles.append(middle)
        best = min(value for engine, value in middle.items() if value and not engine.startswith("netloom"))
        ratios.append(best / middle["netloom"])
        cells = [f"{value:.4g} ms" if value else "–" for value in middle.values()]
        print(f"| {net} | {threads} | " + " | ".join(cells) + f" | {ratios[-1]:.2f} |", flush=True)
print(f"\nGeometric mean of the ratios: {math.exp(statistics.fmean(map(math.log, ratios))):.2f}")
for own in (engine for engine in ENGINES if engine.startswith("netloom")):
    for other in (engine for engine in ENGINES if not engine.startswith("netloom")):
        both = [math.log(middle[other] / middle[own]) for middle in middles if middle[own] and middle[other]]
        if both:
            print(f"{other} / {own}: {math.exp(statistics.fmean(both)):.2f}")
