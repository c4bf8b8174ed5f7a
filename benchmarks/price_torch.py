"""One exact step in PyTorch, by packages and by hand: the PyTorch half of price.py, in an environment of its own.

Every way gets the best form that we know of: no matrix of gradients is concatenated, NNGeometry gets its batch whole
and not example by example. Each makes the direction u = (C + εI)⁻¹g and the update θ ← θ − ηu in place, here with
η = 0, so that every call has the same work to do. (`asdfghjkl` is ASDL as packaged; its module is called `asdl`.)
"""

import importlib
import os
from importlib.metadata import version

import torch
from torch.nn import functional
from turns import DAMPING, Way

PACKAGES = ("torch", "nngeometry", "backpack-for-pytorch", "asdfghjkl", "torchjd")


def versions():
    """Of what is measured here."""
    return {name: version(name) for name in PACKAGES}


def ways(case):
    """Every way in PyTorch, to be made when it is wanted."""
    torch.set_num_threads(os.cpu_count())
    x, y, n = torch.tensor(case.x), torch.tensor(case.y), len(case.y)

    def network():
        layers = []
        for W, b in case.layers:
            layer = torch.nn.Linear(*W.shape)
            with torch.no_grad():
                layer.weight.copy_(torch.tensor(W.T))
                layer.bias.copy_(torch.tensor(b))
            layers += [layer, torch.nn.Tanh()]
        return torch.nn.Sequential(*layers[:-1])

    def losses(net, x, y):
        return functional.cross_entropy(net(x), y, reduction="none")

    def weights(K):
        """α = (K + εI)⁻¹1/n of nK, which is overwritten."""
        K.div_(n).diagonal().add_(DAMPING)
        return torch.cholesky_solve(torch.full((n, 1), 1 / n), torch.linalg.cholesky(K))[:, 0]

    def moved(parameters, direction):
        with torch.no_grad():
            for parameter, u in zip(parameters, direction, strict=True):
                parameter.add_(u, alpha=-0.0)
        return direction

    def direction(result):
        return [u.detach().T.numpy() for u in result]  # W is (inputs, outputs) in a case

    def by_weights(net, alpha):
        """Gᵀα, by backpropagation of the weighted loss."""
        net.zero_grad(set_to_none=True)
        losses(net, x, y).backward(alpha)
        return moved(net.parameters(), [each.grad for each in net.parameters()])

    def dual(parameters, G):
        """From the gradients of every example, a leaf at a time."""
        with torch.no_grad():
            rows = [leaf.flatten(1) for leaf in G]
            alpha = weights(sum(leaf @ leaf.T for leaf in rows))
            u = [(alpha @ leaf).view_as(of) for leaf, of in zip(rows, parameters, strict=True)]
        return moved(parameters, u)

    def gradient():
        net = network()

        def call():
            net.zero_grad(set_to_none=True)
            functional.cross_entropy(net(x), y).backward()

        return Way(call)

    def by_hand():
        """Forwards, backwards and K written out: what can be had for this one architecture."""
        parameters = list(network().parameters())

        @torch.no_grad()
        def call():
            inputs = [x]
            for W, b in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
                inputs.append(torch.addmm(b, inputs[-1], W.T).tanh_())
            D = torch.softmax(torch.addmm(parameters[-1], inputs[-1], parameters[-2].T), 1)
            D[torch.arange(n), y] -= 1
            errors = [D]
            for W, h in zip(parameters[-2:0:-2], inputs[:0:-1], strict=True):
                errors.insert(0, torch.ops.aten.tanh_backward(errors[0] @ W, h))
            K = sum((A @ A.T).add_(1).mul_(D @ D.T) for A, D in zip(inputs, errors, strict=True))
            alpha, found = weights(K)[:, None], []
            for A, D in zip(inputs, errors, strict=True):
                found += [(D * alpha).T @ A, (D * alpha).sum(dim=0)]
            return moved(parameters, found)

        return Way(call, direction)

    def asdl():
        package, net = importlib.import_module("asdl"), network()
        config = package.SmwEmpNaturalGradientConfig(data_size=n, damping=DAMPING)
        maker = package.SmwEmpNaturalGradientMaker(net, config)

        def call():
            net.zero_grad(set_to_none=True)
            maker.setup_loss_call(functional.cross_entropy, maker.setup_model_call(net, x), y)
            maker.forward_and_backward()
            return moved(net.parameters(), [each.grad for each in net.parameters()])

        return Way(call, direction)

    def nngeometry():
        package, net = importlib.import_module("nngeometry"), network()

        class Whole(torch.utils.data.TensorDataset):
            def __getitems__(self, places):
                return self[places]

        loader = torch.utils.data.DataLoader(Whole(x, y), batch_size=n, collate_fn=lambda batch: batch)

        def call():
            K = package.GramMatrix(net, loader, function=lambda x, y: losses(net, x, y)).to_torch().detach()
            return by_weights(net, weights(K.reshape(n, n)))

        return Way(call, direction)

    def torchjd():
        net = network()
        engine = importlib.import_module("torchjd.autogram").Engine(net, batch_dim=0)

        def call():
            net.zero_grad(set_to_none=True)
            each = losses(net, x, y)
            each.backward(weights(engine.compute_gramian(each)))
            return moved(net.parameters(), [of.grad for of in net.parameters()])

        return Way(call, direction)

    def backpack():
        package, extensions = map(importlib.import_module, ("backpack", "backpack.extensions"))
        net, loss = package.extend(network()), package.extend(torch.nn.CrossEntropyLoss(reduction="sum"))

        def call():
            net.zero_grad(set_to_none=True)
            with package.backpack(extensions.BatchGrad()):
                loss(net(x), y).backward()
            found = dual(list(net.parameters()), [each.grad_batch for each in net.parameters()])
            for each in net.parameters():
                del each.grad_batch
            return found

        return Way(call, direction)

    def func():
        net = network()
        names, parameters = zip(*net.named_parameters(), strict=True)
        parameters = [each.detach() for each in parameters]

        def loss(parameters, x, y):
            logits = torch.func.functional_call(net, dict(zip(names, parameters, strict=True)), (x[None],))
            return functional.cross_entropy(logits, y[None])

        gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
        return Way(lambda: dual(parameters, gradients(parameters, x, y)), direction)

    return {
        "gradient": gradient,
        "by hand, for this network": by_hand,
        "ASDL": asdl,
        "NNGeometry": nngeometry,
        "TorchJD": torchjd,
        "BackPACK": backpack,
        "vmap(grad)": func,
    }
