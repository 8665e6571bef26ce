"""How long `dev up` keeps a run of a sidecar that is gone."""

from dev.system import LEASE_S
from sidecar.settings import Settings


def test_nothing_is_closed_within_five_minutes() -> None:
    renew_s = Settings.from_environment({"SIDECAR_CENTRAL_URL": "http://central"}).lease_renew_s

    # Its last renewal may have been that long ago when it ended.
    assert LEASE_S - renew_s > 5 * 60
