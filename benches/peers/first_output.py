"""How long it takes from a model's file to its first results: netloom from ONNX and from an artefact, beside ONNX Runtime.

    PEERS/ort/bin/python benches/peers/first_output.py PEERS/models NET [THREADS [ROUNDS]]

Every round starts each program once, in turn. netloom's times are those of whole processes, from their start to their exit, the artefact's C program
among them; an empty process says what of that is the system's. ONNX Runtime's is that of making a session and running it once, within a Python that
has loaded the library already; its whole process stands beside it.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time

RUNTIME = """
import sys, time
import numpy, onnxruntime
model, arrays, threads = sys.argv[1:]
arrays = dict(numpy.load(arrays))
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(threads)
start = time.perf_counter()
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
session.run(None, arrays)
print(time.perf_counter() - start)
"""


def process(arguments, folder):
    """Runs a program; gives the seconds it took and what it printed."""
    start = time.perf_counter()
    done = subprocess.run(arguments, cwd=folder, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start, done.stdout


def main(models, net, threads="1", rounds="15"):
    netloom = os.path.abspath("target/release/netloom")
    model = os.path.abspath(f"{models}/{net}.onnx")
    import numpy

    with tempfile.TemporaryDirectory() as folder:
        numpy.savez(f"{folder}/x.npz", input=numpy.load(f"{models}/{net}.npz")["input"])
        compile = [netloom, "compile", model, "--shape", "batch=1", "--emit", "sharedlib", "-o", "artefact"]
        subprocess.run(compile, cwd=folder, check=True, stderr=subprocess.DEVNULL)
        build = ["cc", "-O2", "-o", "example", "example.c", "-L.", f"-l{net}", "-Wl,-rpath,."]
        subprocess.run(build, cwd=f"{folder}/artefact", check=True)
        run = ["--input", "x.npz", "--output", "/dev/null", "--threads", threads]
        with open(f"{folder}/empty.c", "w") as source:
            source.write("int main(void) { return 0; }")
        subprocess.run(["cc", "-O2", "-o", "empty", "empty.c"], cwd=folder, check=True)
        programs = {
            "an empty process": lambda: process(["./empty"], folder)[0],
            "netloom run MODEL.onnx": lambda: process([netloom, "run", model, *run], folder)[0],
            "netloom run ARTEFACT": lambda: process([netloom, "run", "artefact", *run], folder)[0],
            "the artefact's example.c, one thread": lambda: process(["./example"], f"{folder}/artefact")[0],
        }
        times = {name: [] for name in [*programs, "ONNX Runtime, session and first run", "ONNX Runtime, process"]}
        for number in range(int(rounds) + 1):
            found = {name: program() for name, program in programs.items()}
            whole, printed = process([sys.executable, "-c", RUNTIME, model, "x.npz", threads], folder)
            found["ONNX Runtime, session and first run"] = float(printed)
            found["ONNX Runtime, process"] = whole
            # The first round brings the files into memory.
            for name, seconds in found.items() if number else []:
                times[name].append(seconds * 1e3)
    for name, values in times.items():
        print(f"{name}: median {statistics.median(values):.1f} ms, least {min(values):.1f}")


main(*sys.argv[1:])
