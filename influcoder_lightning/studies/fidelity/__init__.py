"""How well do cheap scores order samples as exact gradients do? One study, every method in it."""
