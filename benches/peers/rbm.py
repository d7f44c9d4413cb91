"""An epoch of contrastive divergence by scikit-learn: BernoulliRBM, 784-500, batches of 100, on the 8,000 digits of examples/data/mnist.
python rbm.py [threads] [epochs] [--likelihood]     prints the seconds of each epoch, least and median
scikit-learn keeps its chains (persistent contrastive divergence) and reports nothing while it fits; --likelihood adds its pseudo-likelihood
(a call of score_samples), untimed.
"""
import gzip, os, pathlib, statistics, sys, time
numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
threads, epochs = [numbers[at] if len(numbers) > at else other for at, other in ((0, 1), (1, 10))]
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(threads)
import numpy as np
from sklearn.neural_network import BernoulliRBM

path = pathlib.Path(__file__).parents[2] / "examples/data/mnist/train-images-idx3-ubyte.gz"
pixels = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=16)
x = (pixels.reshape(-1, 784) / np.float32(255)).astype(np.float32)
machine = BernoulliRBM(500, learning_rate=0.1, batch_size=100, random_state=0)
rng = np.random.default_rng(0)
times = []
for epoch in range(epochs):
    shuffled = x[rng.permutation(len(x))]
    start = time.perf_counter()
    if epoch == 0:
        machine.n_iter = 1
        machine.fit(shuffled)
    else:
        for at in range(0, len(x), 100):
            machine.partial_fit(shuffled[at:at + 100])
    times.append(time.perf_counter() - start)
    likelihood = f", pseudo-likelihood {machine.score_samples(x).mean():.1f}" if "--likelihood" in sys.argv else ""
    print(f"epoch {epoch + 1}: {times[-1]:.3f} s{likelihood}", flush=True)
print(f"least {min(times):.3f} s, median {statistics.median(times):.3f} s")
