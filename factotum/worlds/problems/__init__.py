"""Training problems for learned optimizers: many small ones, in random copies that are evaluated together.

>>> import torch
>>> generator = torch.Generator().manual_seed(0)
>>> instances = find("quadratic-50-noise-1").draw(8, generator)
>>> parameters = instances.initial(generator)
>>> instances.loss(parameters).shape, instances.gradient(parameters, generator)[0].shape
(torch.Size([8]), torch.Size([8, 50, 1]))
"""

from factotum.worlds.problems.corpus import all_problems as all_problems
from factotum.worlds.problems.corpus import corpus as corpus
from factotum.worlds.problems.corpus import find as find
from factotum.worlds.problems.corpus import minibatch_quadratics as minibatch_quadratics
from factotum.worlds.problems.corpus import noisy_parities as noisy_parities
from factotum.worlds.problems.corpus import plain_quadratics as plain_quadratics
from factotum.worlds.problems.corpus import slow_convergence as slow_convergence
from factotum.worlds.problems.corpus import small_networks as small_networks
from factotum.worlds.problems.corpus import softmax_regression as softmax_regression
from factotum.worlds.problems.module import ModuleProblem as ModuleProblem
from factotum.worlds.problems.problem import Instances as Instances
from factotum.worlds.problems.problem import Problem as Problem
