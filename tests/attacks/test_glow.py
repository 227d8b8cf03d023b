from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mibench.attacks._glow import Actnorm, Coupling, Flow, Split, Step
from mibench.errors import RequestError
from mibench.streams import RowStreams, stream

CPU = torch.device("cpu")


def streams(identities: int, purpose: str = "weights") -> RowStreams:
    return RowStreams([stream(0, purpose, label) for label in range(identities)], CPU)


def random_flow(identities: int, dims: int, levels: int = 3, depth: int = 2) -> Flow:
    """A flow in double precision, none of whose parameters is where it started."""
    flow = Flow(streams(identities), dims, levels, depth, 7, stream(0, "shuffles")).double()
    generator = stream(0, "parameters")
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return flow


def noise_of(identities: int, count: int, dims: int) -> Tensor:
    generator = stream(0, "noise")
    return torch.randn(identities, count, dims, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("dims", "levels"), [(16, 3), (13, 3), (5, 3), (7, 2), (2, 1), (3, 1)])
def test_inverse_undoes_forward(dims: int, levels: int) -> None:
    flow, noise = random_flow(2, dims, levels), noise_of(2, 6, dims)
    latents, log_volume = flow(noise)
    back, log_back = flow.inverse(latents)
    assert latents.shape == noise.shape
    assert log_volume.shape == noise.shape[:2]
    torch.testing.assert_close(back, noise)
    torch.testing.assert_close(log_back, -log_volume)
    again, _ = flow(flow.inverse(noise)[0])
    torch.testing.assert_close(again, noise)
    assert not torch.allclose(latents, noise, atol=0.1)


@pytest.mark.parametrize(("dims", "levels"), [(8, 3), (11, 3), (5, 3), (6, 2), (3, 1)])
def test_log_volume_is_the_jacobians(dims: int, levels: int) -> None:
    flow, noise = random_flow(2, dims, levels), noise_of(2, 3, dims)
    _, log_volume = flow(noise)
    for identity in range(2):
        for draw in range(3):

            def one(row: Tensor, identity: int = identity, draw: int = draw) -> Tensor:
                whole = noise.clone()
                whole[identity, draw] = row
                return flow(whole)[0][identity, draw]

            jacobian = torch.autograd.functional.jacobian(one, noise[identity, draw])
            expected = torch.linalg.slogdet(jacobian).logabsdet
            torch.testing.assert_close(log_volume[identity, draw], expected)


@pytest.mark.parametrize("dims", [6, 7])
def test_each_part_is_inverted(dims: int) -> None:
    noise, generator = noise_of(2, 4, dims), stream(0, "parts")
    step = Step(streams(2), dims, 5, stream(0, "shuffles")).double()
    coupling = Coupling(streams(2), dims, 5).double()
    for parameter in (*step.parameters(), *coupling.parameters()):
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    torch.testing.assert_close(step.inverse(step(noise)[0])[0], noise)
    shifted = coupling(noise)
    torch.testing.assert_close(coupling.inverse(shifted), noise)
    assert torch.equal(shifted[..., : dims // 2], noise[..., : dims // 2])
    assert not torch.isclose(shifted[..., dims // 2 :], noise[..., dims // 2 :]).any()


def test_a_split_is_a_gaussian_given_what_stays() -> None:
    split = Split(1, 5, CPU).double()
    split.weight.data.normal_(generator=stream(0, "split"))
    split.bias.data.normal_(generator=stream(1, "split"))
    staying, noise = noise_of(1, 4, 3), noise_of(1, 4, 2).flip(1)
    joined, log_volume = split(staying, noise)
    moments = staying[0] @ split.weight[0] + split.bias[0]
    expected = torch.distributions.Normal(moments[:, :2], moments[:, 2:].exp())
    base = torch.distributions.Normal(0.0, 1.0)
    density = base.log_prob(noise[0]).sum(1) - log_volume[0]
    torch.testing.assert_close(density, expected.log_prob(joined[0, :, 3:]).sum(1))
    assert torch.equal(joined[..., :3], staying)


def test_actnorm_starts_at_zero_mean_and_unit_variance() -> None:
    scale = torch.tensor([[0.1, 3.0, 20.0]], dtype=torch.float64)
    values = torch.stack([noise_of(1, 50, 3)[0] * scale + 5, noise_of(1, 50, 3)[0] / scale])
    actnorm = Actnorm(2, 3, CPU).double()
    actnorm.fit(values)
    normal, _ = actnorm.inverse(values)
    torch.testing.assert_close(normal.mean(1), torch.zeros(2, 3, dtype=torch.float64))
    torch.testing.assert_close(normal.std(1), torch.ones(2, 3, dtype=torch.float64))


def test_a_fitted_flow_takes_each_identitys_draws_to_noise() -> None:
    flow = Flow(streams(2), 8, 2, 3, 6, stream(0, "shuffles")).double()
    latents = noise_of(2, 200, 8) * torch.tensor([[[0.5]], [[3.0]]]) + 2
    flow.fit(latents)
    noise, _ = flow.inverse(latents)
    torch.testing.assert_close(noise.std(1), torch.ones(2, 8, dtype=torch.float64))
    torch.testing.assert_close(noise.mean(1), torch.zeros(2, 8, dtype=torch.float64))


def test_a_new_flow_shuffles_its_noise() -> None:
    flow = Flow(streams(2), 9, 3, 2, 6, stream(0, "shuffles"))
    noise = noise_of(2, 4, 9).float()
    latents, log_volume = flow(noise)
    assert torch.equal(latents.sort(2).values, noise.sort(2).values)
    assert not torch.equal(latents, noise)
    assert torch.equal(log_volume, torch.zeros(2, 4))


def test_identities_do_not_mix() -> None:
    flow, noise = random_flow(3, 7), noise_of(3, 4, 7)
    latents, log_volume = flow(noise)
    (latents[1].square().sum() + log_volume[1].sum()).backward()
    for name, parameter in flow.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad[1].abs().max() > 0, name
        assert parameter.grad[[0, 2]].abs().max() == 0, name


def test_initial_weights_differ_by_identity_and_not_by_company() -> None:
    coupling = Coupling(streams(3), 6, 5)
    assert not torch.isclose(coupling.weight_in[0], coupling.weight_in[1]).any()
    alone = Coupling(RowStreams([stream(0, "weights", 1)], CPU), 6, 5)
    assert torch.equal(coupling.weight_in[1:2], alone.weight_in)
    assert torch.equal(coupling.weight_hidden[1:2], alone.weight_hidden)


def test_too_many_levels_are_refused() -> None:
    Flow(streams(1), 5, 3, 1, 2, stream(0))
    with pytest.raises(RequestError, match="5 dimensions to fewer than 2; ask for at most 3"):
        Flow(streams(1), 5, 4, 1, 2, stream(0))
