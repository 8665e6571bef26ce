"""Ports have fixed distances from the base; a port in use is a DevProblem that names it."""

import socket

import pytest

from dev.ports import HOST, Ports
from dev.problems import DevProblem
from tests.systems import free_port_base


def test_default_base_gives_the_services_their_usual_ports() -> None:
    ports = Ports(7070)

    assert (ports.sidecar, ports.sidecar_ops) == (7070, 7071)
    assert (ports.central, ports.central_ops) == (7080, 7081)
    assert (ports.postgres, ports.delayed_central, ports.delayed_postgres) == (7090, 7091, 7092)


def test_port_in_use_is_named_with_its_purpose() -> None:
    ports = Ports(free_port_base())

    with (
        socket.create_server((HOST, ports.central)),
        pytest.raises(DevProblem, match=rf"Port {ports.central} \(central\) is used"),
    ):
        ports.check_free(postgres=True, latency=True)


def test_port_in_use_that_this_run_does_not_need_is_ignored() -> None:
    ports = Ports(free_port_base())

    with socket.create_server((HOST, ports.postgres)):
        ports.check_free(postgres=False, latency=False)
