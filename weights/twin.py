"""A Keras network as PyTorch runs it, for GPUs that TensorFlow has no libraries for."""

from typing import Any

import numpy as np


class Twin:
    """A Keras network as PyTorch runs it: in 16 bits, channels last, normalisation in one pass.

    Keras' own layers on PyTorch take normalisation apart and need 40 ms a network and step before
    the GPU has anything to do.
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
            case "Flip":
                return lambda x: x.flip(1)
            case "Rescaling":
                return lambda x: x * layer.scale + layer.offset
            case "Normalization":
                mean = torch.tensor(layer.input_mean, dtype=torch.float32).reshape(1, -1, 1, 1)
                return lambda x: x - mean.to(x.device)
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
                return lambda x: functional.max_pool2d(x, 2)
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
                for target, value in zip(self._tensors(module), values, strict=True):
                    target.copy_(value.permute(3, 2, 0, 1) if value.ndim == 4 else value)
        self.modules.to(memory_format=torch.channels_last)

    def put_back(self) -> None:
        """Give the weights to the Keras network."""
        for layer, module in self.pairs:
            values = [t.detach().float().cpu() for t in self._tensors(module)]
            layer.set_weights(
                [(v.permute(2, 3, 1, 0) if v.ndim == 4 else v).numpy() for v in values]
            )

    @staticmethod
    def _tensors(module: Any) -> list[Any]:
        """Of a module, in the order of Keras."""
        if hasattr(module, "running_mean"):
            return [module.weight, module.bias, module.running_mean, module.running_var]
        return [module.weight] if module.bias is None else [module.weight, module.bias]

    def state(self) -> list[Any]:
        """All weights, trainable or not."""
        return [tensor for _, module in self.pairs for tensor in self._tensors(module)]

    def groups(self) -> tuple[list[Any], list[Any]]:
        """Trainable weights of a VGG encoder, and the others."""
        encoder, others = [], []
        for layer, module in self.pairs:
            (encoder if layer.name.startswith("block") else others).extend(module.parameters())
        return encoder, others
