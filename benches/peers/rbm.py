"""An epoch of contrastive divergence by scikit-learn: BernoulliRBM, 784-500, batches of 100, on the 8,000 digits of examples/data/mnist.
python rbm.py [threads] [epochs] [--likelihood]     prints the seconds of an epoch, in f32 and in f64, the mean of `fit`
scikit-learn computes in the type of the data (f64 for those of its own examples). It keeps its chains (persistent contrastive divergence), does not
shuffle, and reports nothing while it fits; --likelihood adds its pseudo-likelihood (a call of score_samples), untimed.
"""
import gzip, os, pathlib, sys, time
numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
threads, epochs = [numbers[at] if len(numbers) > at else other for at, other in ((0, 1), (1, 10))]
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(threads)
import numpy as np
from sklearn.neural_network import BernoulliRBM

path = pathlib.Path(__file__).parents[2] / "examples/data/mnist/train-images-idx3-ubyte.gz"
pixels = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=16)
for dtype in (np.float32, np.float64):
    x = (pixels.reshape(-1, 784) / 255).astype(dtype)
    machine = BernoulliRBM(500, learning_rate=0.1, batch_size=100, n_iter=epochs, random_state=0)
    start = time.perf_counter()
    machine.fit(x)
    seconds = (time.perf_counter() - start) / epochs
    likelihood = f", pseudo-likelihood {machine.score_samples(x).mean():.1f}" if "--likelihood" in sys.argv else ""
    print(f"{machine.components_.dtype}: {seconds:.3f} s an epoch{likelihood}", flush=True)
