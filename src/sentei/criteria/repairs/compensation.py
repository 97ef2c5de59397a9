"""Change a layer's remaining synapses so that its outputs change least where others are removed.

All functions take weights as matrices, (groups, rows, columns), and the mean products of what any
two columns read, (groups, columns, columns): `network/layout.py` arranges the first, and
`probe/input_moments.py` measures the second. The outputs of a row are its product with what the
columns read, so each row is a least-squares problem of its own. Everything is float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sentei.errors import CriterionError

DAMPING = 0.01  # SparseGPT's; without it, weights of columns that hardly vary fit noise
_COLUMNS = 128  # columns that are swept before the ones behind them change
_ENTRIES = 2**25  # of the matrices that are inverted together


def damped(products: Tensor, damping: float) -> Tensor:
    """Add a part of the mean square of what columns read to each column's own.

    Raises:
        CriterionError: the result has no inverse.
    """
    mean = products.diagonal(dim1=1, dim2=2).mean(1)
    mean = torch.where(mean > 0, mean, 1.0)
    found = products + torch.diag_embed((damping * mean)[:, None].expand(products.shape[:2]))
    if torch.linalg.cholesky_ex(found).info.any():
        raise CriterionError(
            "the second moments of what the synapses read have no inverse: some columns are mixes "
            f"of others. Damp them more than by {damping}: Obs(damping=0.01)."
        )
    return found


def saliencies(weights: Tensor, products: Tensor, alive: Tensor) -> Tensor:
    """Half the mean squared change of a row's output if each alive synapse goes alone.

    The other alive synapses of the row make up for it by least squares: w² / (2 [H⁻¹]_qq), with H
    the products of the row's alive columns. One inverse serves all rows with the same ones.

    Args:
        weights: (groups, rows, columns).
        products: (groups, columns, columns), positive definite.
        alive: (groups, rows, columns) bool.

    Returns:
        (groups, rows, columns); 0 for the dead.
    """
    found = torch.zeros_like(weights)
    for own, product, there, out in zip(weights, products, alive, found, strict=True):
        kinds, of_row = there.unique(dim=0, return_inverse=True)
        chunk = max(1, _ENTRIES // product.numel())
        for start in range(0, len(kinds), chunk):
            some = kinds[start : start + chunk]
            inverse = torch.cholesky_inverse(torch.linalg.cholesky(_among(product, some)))
            rows = ((of_row >= start) & (of_row < start + chunk)).nonzero().flatten()
            own_diagonal = inverse.diagonal(dim1=1, dim2=2)[of_row[rows] - start]
            out[rows] = own[rows].square() / (2 * own_diagonal) * there[rows]
    return found


def refitted(weights: Tensor, products: Tensor, alive: Tensor) -> Tensor:
    """Return the weights of the alive synapses with which each row's outputs change least.

    One system of equations is solved for each row, which takes rows times columns cubed.
    """
    found = torch.zeros_like(weights)
    for own, product, there, out in zip(weights, products, alive, found, strict=True):
        chunk = max(1, _ENTRIES // product.numel())
        for rows in torch.arange(len(own), device=own.device).split(chunk):
            wanted = (own[rows] @ product) * there[rows]
            factor = torch.linalg.cholesky(_among(product, there[rows]))
            out[rows] = torch.cholesky_solve(wanted[..., None], factor)[..., 0]
    return found * alive


def refitted_on(
    weights: Tensor, cross: Tensor, products: Tensor, alive: Tensor, held: Tensor
) -> Tensor:
    """Return weights whose outputs on other inputs change least: a least-squares fit.

    Args:
        weights: (groups, rows, columns), which read the inputs before.
        cross: (groups, columns, columns) mean products of an input before and one after.
        products: (groups, columns, columns) mean products of two inputs after.
        alive: (groups, columns) bool: columns whose weights are fitted; all others get 0.
        held: (groups,) positive: how much the square of a weight's change costs.
    """
    found = torch.zeros_like(weights)
    for group, there in enumerate(alive):
        at = there.nonzero().flatten()
        wanted = (weights[group] @ cross[group])[:, at] + held[group] * weights[group][:, at]
        among = products[group][at][:, at] + held[group] * torch.eye(len(at)).to(products)
        factor = torch.linalg.cholesky(among)
        found[group][:, at] = torch.cholesky_solve(wanted.mT, factor).mT
    return found


def _among(product: Tensor, alive: Tensor) -> Tensor:
    """Return for each row the products of its alive columns, and the identity elsewhere."""
    both = alive[:, :, None] & alive[:, None, :]
    return torch.where(both, product, 0.0) + torch.diag_embed((~alive).to(product))


def swept(
    weights: Tensor, products: Tensor, alive: Tensor, sets: tuple[int, int] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Remove synapses column by column, and let the columns behind make up for each.

    When a synapse is removed, the weights behind it in its row change by optimal brain surgeon's
    update, -w_q / [H⁻¹]_qq times row q of H⁻¹, with H the products of column q and all behind it.
    The rows of all these inverses are those of one triangular matrix, so that one Cholesky
    factor serves all rows and columns.

    Args:
        weights: (groups, rows, columns).
        products: (groups, columns, columns), positive definite.
        alive: (groups, rows, columns) bool: what is not removed.
        sets: (n, m): keep at most n of every m columns. Which ones is decided when the sweep comes
            to them: those with the largest w² / [H⁻¹]_qq at that time.

    Returns:
        The weights, which synapses are alive, and half the squared change each would have cost when
        the sweep came to it.

    Source: Frantar and Alistarh (2023), SparseGPT (arXiv 2301.00774).
    """
    root = _inverse_root(products)
    scale = root.diagonal(dim1=1, dim2=2)[:, None]
    weights, alive, costs = weights.clone(), alive.clone(), torch.zeros_like(weights)
    kept, width = sets or (1, 1)
    block = width * max(1, _COLUMNS // width)
    for start in range(0, weights.shape[2], block):
        own = weights[..., start : start + block]
        stop = start + own.shape[2]
        errors = torch.zeros_like(own)
        for j in range(stop - start):
            at = start + j
            if at % width == 0:
                here = slice(at, at + width)
                costs[..., here] = (weights[..., here] / scale[..., here]).square() / 2
                if sets is not None:
                    alive[..., here] &= highest(costs[..., here], alive[..., here], kept)
            errors[..., j] = torch.where(alive[..., at], 0.0, own[..., j]) / scale[..., at]
            own[..., j:] -= errors[..., j, None] * root[:, None, at, at:stop]
        weights[..., stop:] -= errors @ root[:, start:stop, stop:]
    return weights * alive, alive, costs


def highest(judged: Tensor, alive: Tensor, count: int) -> Tensor:
    """Return which entries are among the `count` highest alive ones along the last dimension."""
    order = judged.masked_fill(~alive, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    among = torch.zeros_like(alive).scatter_(-1, order[..., :count], True)
    return among & alive


def _inverse_root(products: Tensor) -> Tensor:
    """Return the upper triangular U with U.T @ U the inverse of each matrix.

    Row q of U, divided by its own entry, is row q of the inverse of what is left of the matrix
    behind q, divided by its own entry. U is the inverse of the Cholesky factor of the matrix with
    its order reversed.
    """
    factor = torch.linalg.cholesky(products.flip(1, 2)).flip(1, 2)
    identity = torch.eye(factor.shape[1], dtype=factor.dtype, device=factor.device)
    return torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=True)
