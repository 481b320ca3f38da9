"""A Keras network as PyTorch runs it, for GPUs that TensorFlow has no libraries for."""

from typing import Any

import numpy as np


class Twin:
    """A Keras network as PyTorch runs it: in 16 bits, channels last, normalisation in one pass.

    Keras' own layers on PyTorch take normalisation apart and need 40 ms a network and step before
    the GPU has anything to do. It knows the layers of `unet_slim` and `lite`, and refuses others.
    """

    def __init__(self, network: Any, device: str):
        from torch import nn

        self.network = network
        self.pairs, self.steps = [], []
        for operation in network.operations:
            node = operation._inbound_nodes[0]
            sources = [id(tensor) for tensor in node.input_tensors]
            run = self._made(operation)
            self.steps.append((sources, run, id(node.output_tensors[0])))
        self.modules = nn.ModuleList([module for _, module in self.pairs]).to(device)
        self.read()

    def _made(self, layer: Any) -> Any:
        import torch
        from torch import nn
        from torch.nn import functional

        match type(layer).__name__:
            case "InputLayer":
                return lambda x: x
            case "Rescaling":
                return lambda x: x * layer.scale + layer.offset
            case "Conv2D":
                (side, _), (stride, _) = layer.kernel_size, layer.strides
                *_, bands, filters = layer.kernel.shape
                conv = nn.Conv2d(
                    bands, filters, side, stride, (side - stride) // 2, bias=layer.use_bias
                )
                self.pairs.append((layer, conv))
                relu = layer.activation.__name__ == "relu"  # of a sigmoid the logit is wanted
                return (lambda x: functional.relu_(conv(x))) if relu else conv
            case "BatchNormalization":
                norm = nn.BatchNorm2d(
                    layer.gamma.shape[0], eps=layer.epsilon, momentum=1 - layer.momentum
                )
                self.pairs.append((layer, norm))
                return norm
            case "Activation":
                relu = layer.activation.__name__ == "relu"
                return functional.relu_ if relu else lambda x: x
            case "MaxPooling2D":
                return lambda x: functional.max_pool2d(x, layer.pool_size)
            case "UpSampling2D":
                return lambda x: functional.interpolate(x, scale_factor=2, mode="nearest")
            case "Concatenate":
                return lambda *parts: torch.cat(parts, 1)
            case "_DepthToSpace":
                return lambda x: functional.pixel_shuffle(x, 2)
        raise NotImplementedError(f"{layer.name}: {type(layer).__name__}")

    def __call__(self, pixels: Any, training: bool) -> Any:
        """Logits (n, 1, y, x) float32 of pixels (n, 3, y, x), 0–255."""
        self.modules.train(training)
        values: dict[int, Any] = {}
        for sources, run, made in self.steps:
            values[made] = run(*(values[s] for s in sources)) if sources else pixels
        return values[made].float()

    def read(self) -> None:
        """Take the weights of the Keras network."""
        import torch

        for layer, module in self.pairs:
            values = [torch.as_tensor(np.asarray(w.numpy())) for w in layer.weights]
            with torch.no_grad():
                for (target, axes), value in zip(_tensors(module), values, strict=True):
                    target.copy_(value.permute(axes) if axes else value)
        self.modules.to(memory_format=torch.channels_last)

    def put_back(self) -> None:
        """Give the weights to the Keras network."""
        for layer, module in self.pairs:
            values = []
            for tensor, axes in _tensors(module):
                value = tensor.detach().float().cpu().numpy()
                values.append(value.transpose(np.argsort(axes)) if axes else value)
            layer.set_weights(values)

    def state(self) -> list[Any]:
        """All weights, trainable or not."""
        return [tensor for _, module in self.pairs for tensor, _ in _tensors(module)]


def _tensors(module: Any) -> list[tuple[Any, tuple[int, ...]]]:
    """Of a module, in the order of Keras, each with the axes of Keras that make up its own."""
    from torch import nn

    if isinstance(module, nn.BatchNorm2d):
        every = [module.weight, module.bias, module.running_mean, module.running_var]
        return [(tensor, ()) for tensor in every]
    kernel = (module.weight, (3, 2, 0, 1))
    return [kernel] if module.bias is None else [kernel, (module.bias, ())]
