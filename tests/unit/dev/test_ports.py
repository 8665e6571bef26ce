"""Ports: a fixed distance from the base, and a clear sentence when one is taken."""

import socket

import pytest

from dev.ports import HOST, Ports
from dev.problems import DevProblem
from tests.systems import free_port_base


def test_the_default_base_gives_the_services_their_usual_ports() -> None:
    ports = Ports(7070)

    assert (ports.sidecar, ports.sidecar_ops) == (7070, 7071)
    assert (ports.central, ports.central_ops) == (7080, 7081)
    assert (ports.postgres, ports.slow_central, ports.slow_postgres) == (7090, 7091, 7092)


def test_a_taken_port_is_named_with_its_purpose() -> None:
    ports = Ports(free_port_base())

    with (
        socket.create_server((HOST, ports.central)),
        pytest.raises(DevProblem, match=rf"Port {ports.central} \(central\) is taken"),
    ):
        ports.refuse_taken(postgres=True, latency=True)


def test_a_port_that_this_run_does_not_use_may_be_taken() -> None:
    ports = Ports(free_port_base())

    with socket.create_server((HOST, ports.postgres)):
        ports.refuse_taken(postgres=False, latency=False)
