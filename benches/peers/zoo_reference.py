"""Write tests/data/zoo.npz: what torchvision's networks, small ones with the zoo's layers, give for made-up weights and pictures.

Run with a Python that has torch and torchvision:  python benches/peers/zoo_reference.py

Weights and pictures are a function of their name and place alone (`made_up`), which tests/zoo.rs computes too, so that only results
are stored: the scores of prediction, and for `resnet` the loss of each of three training steps and the statistics after them.
"""
import pathlib, numpy as np, torch, torch.nn as nn, torchvision.models as m
from torchvision.models.densenet import DenseNet
from torchvision.models.googlenet import GoogLeNet, Inception, InceptionAux
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.models.vgg import VGG, make_layers

CLASSES = 10


def made_up(name, shape):
    """Numbers in [-1, 1), the same on every machine; see the function of that name in tests/zoo.rs."""
    at = np.arange(int(np.prod(shape)), dtype=np.uint64)
    for byte in name.encode():
        at = (at + byte) * np.uint64(0x9E3779B97F4A7C15)
        at ^= at >> np.uint64(29)
    at *= np.uint64(0xBF58476D1CE4E5B9)
    return ((at >> np.uint64(40)).astype(np.float64) / 2**23 - 1).astype(np.float32).reshape(shape)


def weights(net):
    """He's spread for weights; scales and variances around 1; biases and means small."""
    state = net.state_dict()
    for name, old in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        u = made_up(name, tuple(old.shape))
        if old.dim() > 1:
            u = u * np.float32(np.sqrt(6 / np.prod(old.shape[1:])))
        elif name.endswith("bias") or name.endswith("mean"):
            u = u * np.float32(0.1)
        else:
            u = np.float32(1) + u * np.float32(0.5)
        state[name] = torch.from_numpy(u)
    net.load_state_dict(state)
    return net


def classifier(features, units):
    return nn.Sequential(nn.Linear(features, units), nn.ReLU(), nn.Dropout(), nn.Linear(units, units), nn.ReLU(), nn.Dropout(), nn.Linear(units, CLASSES))


def late_classifier(features, units):
    return nn.Sequential(nn.Dropout(), nn.Linear(features, units), nn.ReLU(), nn.Dropout(), nn.Linear(units, units), nn.ReLU(), nn.Linear(units, CLASSES))


def alexnet():
    net = m.alexnet(weights=None)
    net.classifier = late_classifier(9216, 32)
    return net


class AlexNet2012(nn.Module):
    def __init__(self):
        super().__init__()
        norm = lambda: nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)
        self.features = nn.Sequential(
            nn.Conv2d(3, 96, 11, 4), nn.ReLU(), norm(), nn.MaxPool2d(3, 2),
            nn.Conv2d(96, 256, 5, padding=2, groups=2), nn.ReLU(), norm(), nn.MaxPool2d(3, 2),
            nn.Conv2d(256, 384, 3, padding=1), nn.ReLU(), nn.Conv2d(384, 384, 3, padding=1, groups=2), nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1, groups=2), nn.ReLU(), nn.MaxPool2d(3, 2))
        self.classifier = late_classifier(256 * 2 * 2, 32)

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


def vgg():
    net = VGG(make_layers([8, "M", 16, 16, "M"]), num_classes=CLASSES, init_weights=False)
    net.classifier = classifier(16 * 49, 32)
    return net


class Plain(nn.Module):
    """torchvision's BasicConv2d with a bias and without normalisation."""

    def __init__(self, inputs, outputs, **options):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, **options)

    def forward(self, x):
        return torch.relu(self.conv(x))


class Inception2014(Inception):
    """torchvision's module with 5×5 in the third branch, as published."""

    def __init__(self, inputs, *channels):
        super().__init__(inputs, *channels, conv_block=Plain)
        self.branch3[1] = Plain(channels[3], channels[4], kernel_size=5, padding=2)


def googlenet_2014():
    net = GoogLeNet(num_classes=CLASSES, aux_logits=False, init_weights=False, blocks=[Plain, Inception2014, InceptionAux])
    norm = lambda: nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)
    net.maxpool1 = nn.Sequential(net.maxpool1, norm())
    net.maxpool2 = nn.Sequential(norm(), net.maxpool2)
    net.maxpool4 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
    return net


def small_resnet():
    net = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=CLASSES)
    net.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    net.maxpool = nn.Identity()
    return net


CASES = {
    "alexnet": (alexnet, 96),
    "alexnet_2012": (AlexNet2012, 99),
    "vgg": (vgg, 40),
    "resnet_basic": (lambda: ResNet(BasicBlock, [1, 2, 1, 1], num_classes=CLASSES), 50),
    "resnet_bottleneck": (lambda: ResNet(Bottleneck, [1, 2, 1, 1], num_classes=CLASSES), 50),
    "squeezenet": (lambda: m.squeezenet1_1(weights=None, num_classes=CLASSES), 64),
    "squeezenet_1_0": (lambda: m.squeezenet1_0(weights=None, num_classes=CLASSES), 64),
    "googlenet": (lambda: m.googlenet(weights=None, num_classes=CLASSES, aux_logits=False, init_weights=False), 64),
    "googlenet_2014": (googlenet_2014, 64),
    "mobilenet_v2": (lambda: m.mobilenet_v2(weights=None, num_classes=CLASSES), 50),
    "densenet": (lambda: DenseNet(growth_rate=8, block_config=(2, 3), num_init_features=16, num_classes=CLASSES), 50),
}

if __name__ == "__main__":
    torch.manual_seed(0)
    results = {}
    for name, (make, side) in CASES.items():
        net = weights(make()).eval()
        with torch.no_grad():
            results[name] = net(torch.from_numpy(made_up("x", (2, 3, side, side)))).numpy()
        print(name, results[name].shape, np.abs(results[name]).max())
    net = weights(small_resnet()).train()
    step = torch.optim.SGD(net.parameters(), 0.001, momentum=0.9)
    x, y = torch.from_numpy(made_up("x", (4, 3, 16, 16))), torch.tensor([3, 1, 4, 1])
    losses = []
    for _ in range(3):
        step.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        step.step()
        losses.append(loss.item())
    results["train.losses"] = np.array(losses, np.float32)
    for name in ["bn1.running_mean", "bn1.running_var", "layer4.0.bn2.running_mean", "layer4.0.bn2.running_var", "fc.bias"]:
        results["train." + name] = net.state_dict()[name].detach().numpy()
    print("losses", losses)
    np.savez(pathlib.Path(__file__).parents[2] / "tests/data/zoo.npz", **results)
