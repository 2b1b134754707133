"""Projectors against the dense matrix that they stand for."""

import pytest
import torch
from torch import nn

from influcoder_lightning.capture.layers import LoraLinear
from influcoder_lightning.projection import build_projector


@pytest.fixture
def layers():
    shapes = [(8, 30), (50, 8), (8, 21)]
    found, offset = [], 0
    for i, (out, inner) in enumerate(shapes):
        found.append(
            LoraLinear(f"layer{i}", nn.Linear(inner, out, bias=False), (out, inner), offset)
        )
        offset += out * inner
    return found


def project(name, layers, dim, gradients, seed=0):
    projector = build_projector(name, layers, dim, seed)
    sketch = torch.zeros(len(gradients), projector.dim)
    for layer in layers:
        columns = slice(layer.offset, layer.offset + layer.numel)
        projector.add(sketch, layer, gradients[:, columns].unflatten(1, layer.shape))
    return sketch


@pytest.mark.parametrize("name", ["countsketch", "rademacher", "factored", "identity"])
def test_a_projector_is_linear_and_does_not_depend_on_the_batch(name, layers):
    """The matrix read off by projecting the identity reproduces every batch."""
    total = sum(layer.numel for layer in layers)
    matrix = project(name, layers, 192, torch.eye(total))
    gradients = torch.randn(5, total)
    torch.testing.assert_close(project(name, layers, 192, gradients), gradients @ matrix)
    torch.testing.assert_close(project(name, layers, 192, gradients[:1]), gradients[:1] @ matrix)
    assert name == "identity" or not torch.equal(
        matrix, project(name, layers, 192, torch.eye(total), seed=1)
    )


@pytest.mark.parametrize("name", ["countsketch", "rademacher", "factored"])
def test_inner_products_are_kept_on_average(name, layers):
    total = sum(layer.numel for layer in layers)
    a, b = torch.randn(2, 1, total, generator=torch.Generator().manual_seed(0))
    b = a + 0.5 * b
    estimates = []
    for seed in range(200):
        x, y = (project(name, layers, 192, v, seed) for v in (a, b))
        estimates.append(float((x * y).sum()))
    mean = sum(estimates) / len(estimates)
    error = torch.tensor(estimates).std() / len(estimates) ** 0.5
    assert abs(mean - float((a * b).sum())) < 4 * error


def test_the_rademacher_matrix_has_entries_of_one_size(layers):
    total = sum(layer.numel for layer in layers)
    matrix = project("rademacher", layers, 100, torch.eye(total))
    torch.testing.assert_close(matrix.abs(), torch.full_like(matrix, 0.1))


def test_the_factored_projection_is_left_times_gradient_times_right(layers):
    projector = build_projector("factored", layers, 3 * 16, 0)
    assert (projector.rank, projector.dim) == (4, 48)
    total = sum(layer.numel for layer in layers)
    matrix = project("factored", layers, 48, torch.eye(total))
    block = matrix[: layers[0].numel, :16].T  # [k*k, out*in] is a Kronecker product
    rearranged = block.reshape(4, 4, 8, 30).permute(0, 2, 1, 3).reshape(32, 120)
    assert torch.linalg.matrix_rank(rearranged) == 1
    assert not matrix[: layers[0].numel, 16:].any()


@pytest.mark.parametrize("dim", [3, 64, 192, 5000])
def test_the_countsketch_has_one_sign_in_each_row_and_even_buckets(layers, dim):
    """Few blocks or many (another path): one bucket, one sign, no collision within a block."""
    total = sum(layer.numel for layer in layers)
    matrix = project("countsketch", layers, dim, torch.eye(total))
    assert torch.equal(matrix.abs().sum(1), torch.ones(total))
    buckets = matrix.abs().argmax(1)
    for layer in layers:
        places = torch.arange(layer.offset, layer.offset + layer.numel).view(layer.shape)
        longer_side_fastest = places.T if layer.shape[0] > layer.shape[1] else places
        for block in buckets[longer_side_fastest.flatten()].split(dim):
            assert len(set(block.tolist())) == len(block)


def test_coordinates_of_different_blocks_meet_as_often_as_chance():
    layer = LoraLinear("layer", nn.Linear(40, 3, bias=False), (3, 40), 0)
    meetings = 0
    for seed in range(3000):
        matrix = project("countsketch", [layer], 30, torch.eye(120)[[5, 77]], seed)
        meetings += int(matrix[0].abs().argmax() == matrix[1].abs().argmax())
    assert abs(meetings - 100) < 4 * 10
