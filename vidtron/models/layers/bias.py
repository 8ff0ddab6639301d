"""The bias of a linear layer that mcore left to its caller."""

from torch import Tensor


def add_bias(product: Tensor, bias: Tensor | None) -> Tensor:
    """product + bias, in place, for nothing else keeps the product of a linear layer; without a bias the product.

    What an autograd function returns as a view of its input refuses to be changed and gets a new tensor.
    """
    if bias is None:
        return product
    return product + bias if product._is_view() else product.add_(bias)
