"""Cron schedules: parsing, descriptions, ticks, and what a year of ticks trains."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from components.shared.errors import InputError
from launch.kubeflow.cron import Cron, in_cluster_zone, parse_cron, time_zone

BERLIN, NEW_YORK, KOLKATA = ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York"), ZoneInfo("Asia/Kolkata")
ZONES = (UTC, BERLIN, NEW_YORK, KOLKATA)


@pytest.mark.parametrize(
    ("given", "kfp", "words"),
    [
        ("30 2 * * 1", "0 30 2 * * 1", "at 02:30 every Monday"),
        ("0 30 2 * * 1", "0 30 2 * * 1", "at 02:30 every Monday"),
        ("15 30 2 * * ?", "15 30 2 * * ?", "at 02:30:15 every day"),
        ("@daily", "0 0 0 * * *", "at 00:00 every day"),
        ("@Weekly", "0 0 0 * * 0", "at 00:00 every Sunday"),
        ("@hourly", "0 0 * * * *", "at minute 0 of every hour"),
        ("*/15 * * * *", "0 */15 * * * *", "every 15 minutes"),
        (
            "*/15 9-17 * * MON-FRI",
            "0 */15 9-17 * * 1,2,3,4,5",
            "every 15 minutes in hours 9 to 17 every Monday to Friday",
        ),
        ("0 6,18 1,15 Jan,jul *", "0 0 6,18 1,15 jan,jul *", "at 06:00 and 18:00 on days 1 and 15 of January and July"),
        ("0 2 1 * *", "0 0 2 1 * *", "at 02:00 on day 1 of every month"),
        ("0 2 1 * 1", "0 0 2 1 * 1", "at 02:00 on day 1 of every month and every Monday"),
        ("0 2 */10 * 1", "0 0 2 */10 * 1", "at 02:00 on days 1, 11, 21 and 31 of every month if that is Monday"),
        ("0 2 * 3 7", "0 0 2 * 3 0", "at 02:00 every Sunday in March"),
        ("0 2 * * fri-sun", "0 0 2 * * 0,5,6", "at 02:00 every Sunday, Friday and Saturday"),
        ("7,9 * * * *", "0 7,9 * * * *", "at minutes 7 and 9 of every hour"),
        ("* * * * *", "0 * * * * *", "every minute"),
        ("5/20 1 * * *", "0 5/20 1 * * *", "at 01:05, 01:25 and 01:45 every day"),
    ],
)
def test_what_is_read_and_said(given: str, kfp: str, words: str) -> None:
    cron = parse_cron(given)
    assert (str(cron), cron.words()) == (kfp, words)
    assert parse_cron(str(cron)) == cron


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "got 0"),
        ("1 2 3", "expected five fields"),
        ("* * * * * * *", "got 7"),
        ("@every 5m", "got 2"),
        ("60 * * * *", "'60' is not a valid minute (0 to 59)"),
        ("0 24 * * *", "'24' is not a valid hour (0 to 23)"),
        ("0 0 0 * *", "'0' is not a valid day of month (1 to 31)"),
        ("0 0 * 13 *", "'13' is not a valid month (1 to 12)"),
        ("0 0 * * 8", "'8' is not a valid weekday (0 to 7)"),
        ("0 0 L * *", "'L' is not a valid day of month"),
        ("0 0 * * 1#2", "'1#2' is not a valid weekday"),
        ("0 0 * * monday", "'monday' is not a valid weekday"),
        ("5-2 * * * *", "'5-2' is an empty range of minutes"),
        ("*/0 * * * *", "'*/0' is an empty range"),
        ("1,,2 * * * *", "'' is not a valid minute"),
        ("*-5 * * * *", "'*-5' is not a valid minute"),
        ("0 0 30 2 *", "never fires"),
    ],
)
def test_what_is_refused(given: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_cron(given)
    assert message in str(refused.value)


def test_unknown_time_zones_are_refused() -> None:
    with pytest.raises(InputError, match="--timezone 'Europe/Berln' is not a time zone; .* Europe/Berlin"):
        time_zone("Europe/Berln")


# Laws


def fields(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    parts = st.one_of(
        number.map(str),
        st.tuples(number, number).map(lambda pair: f"{min(pair)}-{max(pair)}"),
        st.integers(1, high).map(lambda step: f"*/{step}"),
    )
    return st.one_of(st.just("*"), st.lists(parts, min_size=1, max_size=3).map(",".join))


CRONS = st.tuples(fields(0, 59), fields(0, 23), fields(1, 31), fields(1, 12), fields(0, 6)).map(" ".join)
MOMENTS = st.datetimes(datetime(2026, 1, 1), datetime(2028, 12, 1), timezones=st.just(UTC)).map(
    lambda moment: moment.replace(microsecond=0)
)
CHANGES = st.sampled_from(  # to summer and winter time
    [datetime(2027, 3, 28, tzinfo=UTC), datetime(2027, 10, 30, 23, tzinfo=UTC), datetime(2027, 11, 7, 3, tzinfo=UTC)]
)


def read(text: str) -> Cron | None:
    try:
        return parse_cron(text)
    except InputError as error:
        assert "never fires" in str(error)
        return None


@settings(max_examples=60, deadline=None)
@example("30 2 * * *", datetime(2027, 3, 27, 20, tzinfo=UTC), BERLIN)
@example("30 2 * * *", datetime(2027, 10, 30, 20, tzinfo=UTC), BERLIN)
@example("0 1 7,8 * 1", datetime(2027, 11, 6, 20, tzinfo=UTC), NEW_YORK)
@given(CRONS, st.one_of(MOMENTS, CHANGES), st.sampled_from(ZONES))
def test_a_tick_is_a_moment_whose_wall_clock_matches(text: str, after: datetime, zone: ZoneInfo) -> None:
    cron = read(text)
    if cron is None:
        return
    until = after + timedelta(hours=30)
    ticks = itertools.takewhile(lambda tick: tick <= until, cron.ticks(after, zone))
    minute = after.replace(second=0)
    expected = []
    while (minute := minute + timedelta(minutes=1)) <= until:
        there = minute.astimezone(zone)
        if cron.on(there.date()) and there.hour in cron.hour.values and there.minute in cron.minute.values:
            expected.append(minute)
    assert [tick.astimezone(UTC) for tick in ticks] == expected


@settings(max_examples=150, deadline=None)
@example("30 2 * * *", datetime(2027, 3, 27, 20, tzinfo=UTC), BERLIN)
@example("30 2 * * *", datetime(2027, 10, 30, 20, tzinfo=UTC), BERLIN)
@example("0 1 7,8 * 1", datetime(2027, 11, 6, 20, tzinfo=UTC), NEW_YORK)
@given(CRONS, st.one_of(MOMENTS, CHANGES), st.sampled_from(ZONES))
def test_ticks_are_those_of_kfp(text: str, after: datetime, zone: ZoneInfo) -> None:
    cron = read(text)
    if cron is None:
        return
    moment, tick = after, after
    for each in itertools.islice(cron.ticks(after, zone), 4):
        moment, tick = robfig_next(cron, moment, zone), next(cron.ticks(tick, zone))
        assert each.astimezone(UTC) == tick.astimezone(UTC) == moment


@settings(max_examples=60, deadline=None)
@given(CRONS, MOMENTS, st.sampled_from(["Asia/Kolkata", "America/Phoenix", "Asia/Tokyo", "Pacific/Kiritimati"]))
def test_a_schedule_moved_to_the_clusters_zone_ticks_at_the_same_moments(text: str, after: datetime, name: str) -> None:
    cron, zone, cluster_zone = read(text), ZoneInfo(name), ZoneInfo("UTC")
    if cron is None:
        return
    try:
        moved = in_cluster_zone(cron, zone, cluster_zone)
    except InputError as error:
        assert "is not a single cron expression" in str(error)
        return
    here = [tick.astimezone(UTC) for tick in itertools.islice(cron.ticks(after, zone), 5)]
    assert here == list(itertools.islice(moved.ticks(after, cluster_zone), 5))
    assert parse_cron(str(moved)) == moved


def test_common_schedules_can_be_moved_and_zones_with_clock_changes_cannot() -> None:
    utc = ZoneInfo("UTC")
    assert str(in_cluster_zone(parse_cron("30 2 * * 1"), KOLKATA, utc)) == "0 0 21 * * 0"
    assert str(in_cluster_zone(parse_cron("0 2,14 * * *"), KOLKATA, utc)) == "0 30 8,20 * * *"
    assert str(in_cluster_zone(parse_cron("0 12 1 * *"), KOLKATA, utc)) == "0 30 6 1 * *"
    assert str(in_cluster_zone(parse_cron("30 2 * * 1"), BERLIN, BERLIN)) == "0 30 2 * * 1"
    assert str(in_cluster_zone(parse_cron("30 2 * * 1"), BERLIN, ZoneInfo("Europe/Paris"))) == "0 30 2 * * 1"
    with pytest.raises(InputError, match="offset from UTC changes .* --cluster-timezone Europe/Berlin"):
        in_cluster_zone(parse_cron("30 2 * * 1"), BERLIN, utc)
    with pytest.raises(InputError, match="is not a single cron expression in UTC"):
        in_cluster_zone(parse_cron("0 2 1 * *"), KOLKATA, utc)


# robfig/cron 1.2, which KFP uses, in Python: SpecSchedule.Next


def robfig_next(cron: Cron, after: datetime, zone: ZoneInfo) -> datetime:
    def local(moment: datetime) -> datetime:
        return moment.astimezone(zone)

    def go_date(*fields: int) -> datetime:
        """Go's time.Date: uses the offset at the wall time read as UTC, unless it is not in force then."""
        wall = datetime(*fields, tzinfo=UTC)  # type: ignore[arg-type,misc]
        guess = wall - (local(wall).utcoffset() or timedelta())
        return wall - (local(guess).utcoffset() or timedelta())

    def on(day: date) -> bool:
        by_date, by_weekday = day.day in cron.day.values, (day.weekday() + 1) % 7 in cron.weekday.values
        if any(part[0] in "*?" for each in (cron.day, cron.weekday) for part in each.text.split(",")):
            return by_date and by_weekday
        return by_date or by_weekday

    def add_days(moment: datetime) -> datetime:
        wall = local(moment)
        following = wall.date() + timedelta(days=1)
        return go_date(*following.timetuple()[:3], wall.hour, wall.minute, wall.second)

    t, added = after.astimezone(UTC) + timedelta(seconds=1), False
    while True:
        wrapped = False
        while local(t).month not in cron.month.values and not wrapped:
            wall = local(t)
            t = go_date(wall.year, wall.month, 1) if not added else t
            added = True
            wall = local(t)
            t = go_date(wall.year + wall.month // 12, wall.month % 12 + 1, wall.day, wall.hour, wall.minute)
            wrapped = local(t).month == 1
        while not wrapped and not on(local(t).date()):
            t = go_date(*local(t).timetuple()[:3]) if not added else t
            added = True
            t = add_days(t)
            wrapped = local(t).day == 1
        while not wrapped and local(t).hour not in cron.hour.values:
            t = go_date(*local(t).timetuple()[:4]) if not added else t
            added = True
            t += timedelta(hours=1)
            wrapped = local(t).hour == 0
        while not wrapped and local(t).minute not in cron.minute.values:
            t = t.replace(second=0) if not added else t
            added = True
            t += timedelta(minutes=1)
            wrapped = local(t).minute == 0
        while not wrapped and local(t).second not in cron.second.values:
            added = True
            t += timedelta(seconds=1)
            wrapped = local(t).second == 0
        if not wrapped:
            return t


# A year of a schedule


@dataclass
class World:
    """The inputs of the pipeline, and its cached results in KFP, by content.

    Preflight takes the tick's time as input, so it runs at every tick; it outputs a fingerprint of data and base model.
    Downstream stages take that fingerprint, and have an image whose tag follows from the code.
    """

    data: str = "d1"
    base: str = "b1"
    code: str = "c1"  # of the version that the schedule runs: a new one takes `schedule --replace`
    cache: set[tuple[str, str, str]] = field(default_factory=set)
    seen: dict[str, set[str]] = field(default_factory=lambda: {"data": set(), "base": set(), "code": set()})
    fails: int = 0

    def tick(self) -> str:
        key = (self.data, self.base, self.code)
        if key in self.cache:
            return "skips: nothing new"
        new = [what for what in ("data", "base", "code") if getattr(self, what) not in self.seen[what]]
        for what in new:
            self.seen[what].add(getattr(self, what))
        why = f"new {' and '.join(new)}" if new else "the last training failed"
        if self.fails:
            self.fails -= 1
            return f"fails: {why}"
        self.cache.add(key)
        return f"trains: {why}"


def year(cron: Cron, zone: ZoneInfo, world: World, events: dict[datetime, dict[str, object]], hours: float) -> Iterator:  # type: ignore[type-arg]
    """Yields the ticks of 2027 as KFP's controller runs them: one run at a time, and only the last missed tick."""
    begin, end = datetime(2027, 1, 1, tzinfo=zone), datetime(2028, 1, 1, tzinfo=zone)
    waiting = sorted(events)
    free = begin
    ticks = list(itertools.takewhile(lambda t: t < end, cron.ticks(begin - timedelta(seconds=1), zone)))
    for tick, following in itertools.pairwise([*ticks, end]):
        starts = max(tick.astimezone(UTC), free.astimezone(UTC))
        if starts >= following.astimezone(UTC):
            yield tick, tick, "missed: a run was still going on"
            continue
        while waiting and waiting[0].astimezone(UTC) <= starts:
            for name, value in events[waiting.pop(0)].items():
                setattr(world, name, value)
        outcome = world.tick()
        lasts = timedelta(minutes=1) if outcome.startswith("skips") else timedelta(hours=hours)
        free = starts + lasts
        yield tick, starts.astimezone(zone), outcome


def test_a_year_at_half_past_two_in_berlin() -> None:
    def at(month: int, day: int, hour: int = 12) -> datetime:
        return datetime(2027, month, day, hour, tzinfo=BERLIN)

    events: dict[datetime, dict[str, object]] = {
        at(2, 10): {"data": "d2"},
        at(3, 27): {"data": "d3"},  # before the night without 02:30
        at(5, 1): {"base": "b2"},
        at(6, 1): {"data": "d1", "base": "b1"},  # back to what was learned in January
        at(7, 1): {"code": "c2"},
        at(8, 1): {"data": "d4", "fails": 2},
        at(9, 1): {"data": "d4"},  # written again, the same
        at(10, 30): {"data": "d5"},  # before the night with two
        at(12, 1): {"data": "d6", "base": "b3"},
    }
    ticks = list(year(parse_cron("30 2 * * *"), BERLIN, World(), events, hours=5))
    assert len(ticks) == 365  # one less in March, one more in October
    by_day = {day: [t for t, _, _ in group] for day, group in itertools.groupby(ticks, lambda tick: tick[0].date())}
    assert at(3, 28).date() not in by_day
    assert [t.astimezone(UTC).hour for t in by_day[at(10, 31).date()]] == [0, 1]
    notable = [(f"{tick:%m-%d}", outcome) for tick, _, outcome in ticks if not outcome.startswith("skips")]
    assert notable == [
        ("01-01", "trains: new data and base and code"),
        ("02-11", "trains: new data"),
        ("03-29", "trains: new data"),
        ("05-02", "trains: new base"),
        # 06-02 skips: those results are still in the cache
        ("07-02", "trains: new code"),
        ("08-02", "fails: new data"),
        ("08-03", "fails: the last training failed"),
        ("08-04", "trains: the last training failed"),
        # 09-02 skips: the fingerprint is of content, not of dates
        ("10-31", "trains: new data"),
        ("12-02", "trains: new data and base"),
    ]
    # The second 02:30 of October 31 waits for the training that the first began, and then finds nothing new.
    waited = [(starts, outcome) for tick, starts, outcome in ticks if starts != tick]
    assert [outcome for _, outcome in waited] == ["skips: nothing new"]
    assert waited[0][0].astimezone(UTC) == by_day[at(10, 31).date()][0].astimezone(UTC) + timedelta(hours=5)


def test_a_year_with_trainings_longer_than_the_time_between_ticks() -> None:
    events: dict[datetime, dict[str, object]] = {datetime(2027, 4, 1, 12, tzinfo=UTC): {"data": "d2"}}
    ticks = list(year(parse_cron("0 */6 * * *"), UTC, World(), events, hours=20))  # type: ignore[arg-type]
    assert len(ticks) == 4 * 365
    outcomes = [outcome for _, _, outcome in ticks]
    assert (
        outcomes[:5]
        == ["trains: new data and base and code", *["missed: a run was still going on"] * 2]
        + ["skips: nothing new"] * 2
    )
    assert outcomes.count("trains: new data") == 1 and outcomes.count("missed: a run was still going on") == 4
    assert sum(outcome.startswith("skips") for outcome in outcomes) == 4 * 365 - 6


def test_a_year_of_weeks_in_other_zones() -> None:
    weekly = parse_cron("30 2 * * 1")
    for zone in (BERLIN, NEW_YORK, KOLKATA):
        ticks = list(year(weekly, zone, World(), {}, hours=5))
        assert len(ticks) == 52 and all(
            tick.weekday() == 0 and (tick.hour, tick.minute) == (2, 30) for tick, _, _ in ticks
        )
        assert [outcome for _, _, outcome in ticks].count("skips: nothing new") == 51
