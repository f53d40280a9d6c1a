"""Beside what a user would write instead, on the JAX, PyTorch and scikit-learn of today, in our environment.

The tangent kernel of a finite network by its definition, with `vmap` and `jacrev`; the same by the functions of the
tutorial of PyTorch; the posterior by scikit-learn, with our kernel in it; the largest stable rate from all eigenvalues.
"""

import numpy as np

TITLE = "beside what one would write instead"
WIDTHS, N_OUTPUTS, W_STD, B_STD, NOISE = (784, 256, 256), 10, 2**0.5, 0.1, 0.1
CASES = [
    {
        "label": "empirical NTK, 784-256-256-10, n = 16, all outputs, float32",
        "do": "empirical",
        "against": "jacrev",
        "named": "`vmap(jacrev(f))`",
    },
    {
        "label": "the same of a PyTorch model",
        "do": "torch",
        "against": "torch_func",
        "named": "`torch.func`, as its tutorial",
    },
    {
        "label": "posterior at 200 points, n = 2000, kernel included, float64",
        "do": "posterior",
        "against": "scikit_learn",
        "named": "scikit-learn with our kernel",
        "float64": True,
        "agree_to": 1e-6,
    },
    {
        "label": "largest stable learning rate, n = 2000, float64",
        "do": "rate",
        "against": "all_eigenvalues",
        "named": "`numpy.linalg.eigvalsh`",
        "float64": True,
        "agree_to": 1e-9,
    },
]
CASES = [{"repeats": 7, "budget_s": 8, "limit_s": 150, "agree_to": 1e-4, **case} for case in CASES]


def weights() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.normal(size=s).astype(np.float32) / s[0] ** 0.5 for s in zip(WIDTHS, (*WIDTHS[1:], N_OUTPUTS))]


def images() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(16, WIDTHS[0])).astype(np.float32)


def points() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    x, x_test = random.normal(size=(2000, 20)), random.normal(size=(200, 20))
    return x, x_test, np.sin(x[:, 0])


def network():
    import ntkbook as nb

    layers = [nb.Dense(64, 1.5, B_STD), nb.Erf()] * 2
    return nb.serial(*layers, nb.Dense(1, 1.5, B_STD))


def model():
    import torch

    layers = []
    for w in weights():
        linear = torch.nn.Linear(*w.shape, bias=False)
        linear.weight.data = torch.tensor(w.T.copy())
        layers += [linear, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1]).eval()


def f(params, x):
    import jax

    for w in params[:-1]:
        x = jax.nn.relu(x @ w)
    return x @ params[-1]


def ours(case: dict):
    import jax.numpy as jnp

    import ntkbook as nb

    if case["do"] == "empirical":
        params, x = [jnp.asarray(w) for w in weights()], jnp.asarray(images())
        return lambda step: nb.empirical_ntk(f, params, x, outputs="full")
    if case["do"] == "torch":
        function, params = nb.from_torch(model())
        return lambda step: nb.empirical_ntk(function, params, images(), outputs="full")
    x, x_test, y = map(jnp.asarray, points())
    if case["do"] == "rate":
        k = nb.ntk(network(), x)
        return lambda step: nb.max_learning_rate(k)

    def run(step):
        law = nb.posterior(network(), x, y, NOISE).predict(x_test)
        return law.mean, law.covariance

    return run


def jacrev(case: dict):
    import jax
    import jax.numpy as jnp

    params, x = [jnp.asarray(w) for w in weights()], jnp.asarray(images())

    @jax.jit
    def kernel(params, x):
        J = jax.vmap(jax.jacrev(f), (None, 0))(params, x)
        return sum(jnp.einsum("iaxy,jbxy->ijab", leaf, leaf) for leaf in J)

    return lambda step: kernel(params, x)


def torch_func(case: dict):
    import torch
    from torch.func import functional_call, jacrev, vmap

    made, x = model(), torch.tensor(images())
    params = {name: leaf.detach() for name, leaf in made.named_parameters()}
    single = lambda params, x: functional_call(made, params, (x[None],))[0]

    def run(step):
        J = [leaf.flatten(2) for leaf in vmap(jacrev(single), (None, 0))(params, x).values()]
        return sum(torch.einsum("naf,mbf->nmab", leaf, leaf) for leaf in J).numpy()

    return run


def scikit_learn(case: dict):
    from sklearn.gaussian_process import GaussianProcessRegressor

    from ntkbook.interop.sklearn import NTKKernel

    x, x_test, y = points()
    guest = GaussianProcessRegressor(NTKKernel(network()), alpha=NOISE, optimizer=None)
    return lambda step: guest.fit(x, y).predict(x_test, return_cov=True)


def all_eigenvalues(case: dict):
    import jax.numpy as jnp

    import ntkbook as nb

    k = np.asarray(nb.ntk(network(), jnp.asarray(points()[0])))
    return lambda step: np.asarray(2 / np.linalg.eigvalsh(k)[-1])


if __name__ == "__main__":
    import pairing

    pairing.main()
