"""What a sequence of evaluated points is worth: summed loss, observed and expected improvement (minimisation).

Local letters: B functions, T evaluations in order. All losses are per function; the caller takes the mean.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor


def summed_loss(
    y_BT: Float[Tensor, "B T"], weights_T: Float[Tensor, " T"] | None = None
) -> Float[Tensor, " B"]:
    r"""$L_{sum} = \sum_t w_t f(x_t)$.

    On running minima in place of values (`y_BT.cummin(1).values`) it is the area under the curve of the best
    value; with all weight on the last step it is $L_{final}$.

    Args:
        y_BT: values of the evaluated points.
        weights_T: w, all 1 by default.

    Returns:
        The loss of each function.

    >>> summed_loss(torch.tensor([[3.0, 1.0, 2.0]])).tolist()
    [6.0]

    Chen et al., 2017 (arXiv 1611.03824), section 2.1.
    """
    return y_BT.sum(1) if weights_T is None else y_BT @ weights_T


def observed_improvement(
    y_BT: Float[Tensor, "B T"],
    *,
    detach_incumbent: bool,
    first: Literal["value", "drop"],
) -> Float[Tensor, " B"]:
    r"""$L_{OI} = \sum_{t \ge 2} \min(f(x_t) - \min_{i<t} f(x_i), 0)$.

    The sum telescopes to $m_T - m_1$, m the running minimum. So with gradients through the incumbent only the
    step that holds the final best gets one, and without them each improving step does: equal values, different
    gradients. The former is the gradient of the expected final best; the latter is that of no loss, since it
    does not see how an evaluation spoils what later ones can improve. Other steps get none in both.

    Args:
        y_BT: values of the evaluated points.
        detach_incumbent: no gradient flows into the running minimum.
        first: what the first evaluation counts, for which the paper's formula has no incumbent: its own value
            (the sum is then $m_T$), or nothing. In that case the first value never gets a gradient: through
            the incumbent it would be rewarded for being bad.

    Returns:
        The loss of each function, 0 or less where the first value is dropped.

    >>> y = torch.tensor([[3.0, 1.0, 2.0, 0.5]])
    >>> [observed_improvement(y, detach_incumbent=True, first=first).item() for first in ("drop", "value")]
    [-2.5, 0.5]

    Chen et al., 2017 (arXiv 1611.03824), section 2.1.

    Differs from the paper: it says neither what t = 1 counts nor whether the incumbent is differentiated.
    """
    first_B1 = y_BT[:, :1]
    if first == "drop":
        y_BT = torch.cat([first_B1.detach(), y_BT[:, 1:]], 1)
    best_BT = y_BT.cummin(1).values[:, :-1]
    change_BT = y_BT[:, 1:] - (best_BT.detach() if detach_incumbent else best_BT)
    total_B = change_BT.clamp(max=0.0).sum(1)
    return total_B + first_B1[:, 0] if first == "value" else total_B


def smooth_minimum(y_BT: Float[Tensor, "B T"], temperature: float) -> Float[Tensor, " B"]:
    r"""$-\tau \log \frac1T \sum_t e^{-f(x_t) / \tau}$: between the mean and the minimum, so that near misses learn too.

    (Smoothing each step's improvement instead would reward evaluations for being bad: near misses would push
    the incumbent up more than its own value pulls it down.)

    Args:
        y_BT: values of the evaluated points.
        temperature: $\tau > 0$; towards 0 it is the minimum, far above the spread of the values their mean.

    Returns:
        The loss of each function.

    >>> y = torch.tensor([[3.0, 1.0, 2.0, 0.5]])
    >>> [round(smooth_minimum(y, temperature).item(), 3) for temperature in (0.01, 100.0)]
    [0.514, 1.62]

    Ours; the paper has nothing like it.
    """
    count = math.log(y_BT.shape[1])
    return temperature * (count - torch.logsumexp(-y_BT / temperature, 1))


def expected_improvement(
    mean: Float[Tensor, "*N"], deviation: Float[Tensor, "*N"], best: Float[Tensor, "*N"]
) -> Float[Tensor, "*N"]:
    r"""$EI = E \max(b - f, 0) = (b - \mu) \Phi(z) + s \phi(z)$ for $f \sim N(\mu, s^2)$, $z = (b - \mu) / s$.

    Args:
        mean: $\mu$.
        deviation: s, above 0.
        best: b, the value to improve on.

    Returns:
        EI, 0 or more; far in the lower tail computed by erfcx, where the two terms cancel.

    >>> round(expected_improvement(torch.zeros(1), torch.ones(1), torch.zeros(1)).item(), 4)
    0.3989

    Jones, Schonlau and Welch, 1998, equation 15; the loss L_EI is its negative sum over steps.
    """
    z = (best - mean) / deviation
    density = torch.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    # each branch only sees arguments that suit it, so that neither's gradient is NaN where the other is taken
    near, far = z.clamp(min=-1.0), z.clamp(min=-1e4, max=-1.0)
    ordinary = near * torch.special.ndtr(near) + density
    tail = density * (1 + far * math.sqrt(math.pi / 2) * torch.special.erfcx(-far / math.sqrt(2)))
    return deviation * torch.where(z > -1.0, ordinary, tail.clamp(min=0.0))
