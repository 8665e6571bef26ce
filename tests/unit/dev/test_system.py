"""The lease of `dev up`."""

from dev.system import LEASE_S
from sidecar.settings import Settings


def test_no_run_is_closed_within_five_minutes_of_its_sidecars_end() -> None:
    renew_s = Settings.from_environment({"SIDECAR_CENTRAL_URL": "http://central"}).lease_renew_s

    # The last renewal may be that old when the sidecar ends.
    assert LEASE_S - renew_s > 5 * 60
