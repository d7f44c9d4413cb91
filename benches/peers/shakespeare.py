"""The character model of examples/shakespeare.rs in PyTorch: the same text, stripes, net, optimiser and schedule.
python shakespeare.py [epochs] [threads] [seed]     prints bits per character on the held tenth after each epoch, and seconds
"""
import gzip, math, pathlib, sys, time
import torch, torch.nn as nn, torch.nn.functional as F

epochs, threads, seed = [int(sys.argv[at]) if len(sys.argv) > at else other for at, other in ((1, 3), (2, 1), (3, 0))]
torch.set_num_threads(threads); torch.manual_seed(seed)
BATCH, STEPS, UNITS = 32, 32, 128
path = pathlib.Path(__file__).parents[2] / "examples/data/text/shakespeare.txt.gz"
text = gzip.decompress(path.read_bytes()).decode()
alphabet = sorted(set(text))
number = {c: at for at, c in enumerate(alphabet)}
codes = torch.tensor([number[c] for c in text])
cut = len(codes) // 10 * 9

def stripes(part):
    """As many stripes as a batch has rows; batch follows batch along them, and the target of each character is the next."""
    length = (len(part) - 1) // BATCH // STEPS * STEPS
    rows = lambda shift: torch.stack([part[row * length + shift:][:length] for row in range(BATCH)])
    return [(x, y) for x, y in zip(rows(0).split(STEPS, 1), rows(1).split(STEPS, 1))]

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(len(alphabet), 32)
        self.lstm = nn.LSTM(32, UNITS, batch_first=True)
        self.out = nn.Linear(UNITS, len(alphabet))
    def forward(self, x, carried):
        h, carried = self.lstm(self.embedding(x), carried)
        return self.out(h), tuple(c.detach() for c in carried)

train, held = stripes(codes[:cut]), stripes(codes[cut:])
net = Net(); optimiser = torch.optim.Adam(net.parameters(), 4e-3)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, len(train) * epochs)
loss = lambda scores, y: F.cross_entropy(scores.flatten(0, 1), y.flatten())
for epoch in range(1, epochs + 1):
    start, carried = time.perf_counter(), None
    for x, y in train:
        scores, carried = net(x, carried)
        optimiser.zero_grad(); loss(scores, y).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step(); schedule.step()
    seconds, carried, total = time.perf_counter() - start, None, 0.0
    with torch.no_grad():
        for x, y in held:
            scores, carried = net(x, carried)
            total += loss(scores, y).item()
    print(f"epoch {epoch}: {total / len(held) / math.log(2):.4f} bits per character, {1e3 * seconds / len(train):.2f} ms a step", flush=True)
