"""The scheduler on its own; with real workers it is in test_xdist.py."""

from collections import OrderedDict

from pytest_autotune.scheduling import TrialScheduling


class Worker:
    """What the scheduler sees of an xdist worker, dead or alive."""

    shutting_down = False

    def __init__(self, *, alive):
        self.alive = alive
        self.sent = []

    def send_runtest_some(self, indices):
        if not self.alive:
            raise OSError("cannot send (already closed?)")
        self.sent += indices


def scheduler(*workers):
    items = [f"a.yaml::trial-{number}::{item}" for number in (0, 1) for item in ("deploy", "c1")]
    made = TrialScheduling.__new__(TrialScheduling)  # its constructor wants a whole pytest config
    made.log = lambda *_: None
    made.packed = True
    made.assigned_work = {worker: {} for worker in workers}
    made.registered_collections = dict.fromkeys(workers, items)
    made.workqueue = OrderedDict(
        (f"a.yaml::trial-{number}", dict.fromkeys(items[2 * number : 2 * number + 2], False)) for number in (0, 1)
    )
    return made


def test_a_trial_stays_first_in_the_queue_when_its_worker_has_just_died():
    dead, living = Worker(alive=False), Worker(alive=True)
    trials = scheduler(dead, living)
    trials._reschedule(dead)
    assert list(trials.workqueue) == ["a.yaml::trial-0", "a.yaml::trial-1"]
    assert trials.assigned_work[dead] == {}
    trials._reschedule(living)
    assert living.sent == [0, 1]
    assert list(trials.workqueue) == ["a.yaml::trial-1"]
