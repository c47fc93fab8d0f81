"""Options of the campaign."""


def pytest_addoption(parser):
    group = parser.getgroup("campaign")
    group.addoption("--campaign-seed", type=int, help="run the schedule of one seed, several times")
    group.addoption("--campaign-schedules", type=int, default=1050, help="how many schedules to run")
