"""Cron schedules as Kubeflow Pipelines reads them: parsing, conversion, description in English, and next ticks.

KFP reads six fields, seconds first, with robfig/cron 1.2. It treats five fields as the first five of the six: plain
cron's `30 2 * * 1`, 02:30 every Monday, would be second 30 of minute 2 of every hour in January. So every expression is
converted before it is sent. Schedules have no time zone of their own in KFP: all are read in the cluster's
(`CRON_SCHEDULE_TIMEZONE` of its scheduled-workflow controller, UTC by default).
"""

import dataclasses
import difflib
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo, available_timezones

from components.shared.errors import InputError

_MONTHS = ["January", "February", "March", "April", "May", "June"]
_MONTHS += ["July", "August", "September", "October", "November", "December"]
_WEEKDAYS = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"]
_SHORTHANDS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_RANGE = re.compile(r"(\*|\?|\w+)(?:-(\w+))?(?:/(\d+))?")
_YEARS_AHEAD = 5  # how far ahead KFP searches for a tick


@dataclasses.dataclass(frozen=True)
class _Kind:
    """The values that one field of a cron expression may take."""

    name: str
    low: int
    high: int
    names: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def every(self) -> tuple[int, ...]:
        return tuple(range(self.low, self.high + 1))


_SECOND, _MINUTE, _HOUR = _Kind("second", 0, 59), _Kind("minute", 0, 59), _Kind("hour", 0, 23)
_DAY = _Kind("day of month", 1, 31)
_MONTH = _Kind("month", 1, 12, {name[:3].lower(): number for number, name in enumerate(_MONTHS, 1)})
_WEEKDAY = _Kind("weekday", 0, 6, {name[:3].lower(): number for number, name in enumerate(_WEEKDAYS)})
_KINDS = (_SECOND, _MINUTE, _HOUR, _DAY, _MONTH, _WEEKDAY)


@dataclasses.dataclass(frozen=True)
class Field:
    """One field: its text as KFP reads it, and the values that it matches.

    If the day of month or the weekday contains a star, even as `*/2`, a day must match both fields instead of either.
    """

    text: str
    values: tuple[int, ...]

    @property
    def starred(self) -> bool:
        """Whether the field contains `*` or `?`."""
        return "*" in self.text or "?" in self.text


@dataclasses.dataclass(frozen=True)
class Cron:
    """A schedule in KFP's six fields."""

    second: Field
    minute: Field
    hour: Field
    day: Field
    month: Field
    weekday: Field

    def __str__(self) -> str:
        return " ".join(field.text for field in self._fields)

    @property
    def _fields(self) -> tuple[Field, ...]:
        return (self.second, self.minute, self.hour, self.day, self.month, self.weekday)

    def on(self, day: date) -> bool:
        """Returns whether the schedule has ticks on a day."""
        if day.month not in self.month.values:
            return False
        by_date, by_weekday = day.day in self.day.values, day.isoweekday() % 7 in self.weekday.values
        if self.day.starred or self.weekday.starred:
            return by_date and by_weekday
        return by_date or by_weekday

    def ticks(self, after: datetime, zone: tzinfo) -> Iterator[datetime]:
        """Yields the ticks after a point in time, in order and without end.

        A tick is a point in time at which the zone's wall clock shows a time of the schedule. As in KFP, a time that a
        clock change skips has no tick that day, and a time that occurs twice has two.

        Args:
            after: timezone-aware datetime.
            zone: time zone in which the schedule is read.
        """
        day = after.astimezone(zone).date()
        after = after.astimezone(UTC)  # datetimes of the same zone would be compared by wall clock
        last = day.replace(year=day.year + _YEARS_AHEAD, day=1)
        while day <= last:
            for moment in self._ticks_of(day, zone) if self.on(day) else ():
                if moment > after:
                    last = day.replace(year=day.year + _YEARS_AHEAD, day=1)
                    yield moment
            day += timedelta(days=1)

    def _ticks_of(self, day: date, zone: tzinfo) -> list[datetime]:
        moments = {
            moment.astimezone(UTC)
            for hour in self.hour.values
            for minute in self.minute.values
            for second in self.second.values
            for fold in (0, 1)
            if _exists(moment := datetime.combine(day, time(hour, minute, second, fold=fold), zone))
        }
        return [moment.astimezone(zone) for moment in sorted(moments)]

    def words(self) -> str:
        """Describes the schedule in English, such as `at 02:30 every Monday`."""
        at, days = self._times_in_words(), self._days_in_words()
        return at if days == "every day" and "every" in at else f"{at} {days}"

    def _times_in_words(self) -> str:
        seconds, minutes, hours = self.second.values, self.minute.values, self.hour.values
        if len(seconds) * len(minutes) * len(hours) <= 6:
            times = [time(h, m, s).isoformat("auto") for h in hours for m in minutes for s in seconds]
            return "at " + _enumerate([at.removesuffix(":00") if seconds == (0,) else at for at in times])
        step = 60 // len(minutes)
        if seconds == (0,) and minutes == tuple(range(0, 60, step)) and len(minutes) > 1:
            often = "every minute" if step == 1 else f"every {step} minutes"
            return often if hours == _HOUR.every else f"{often} in {_several('hour', hours)}"
        parts = [] if seconds == (0,) else [_part(_SECOND, seconds)]
        parts += [_part(_MINUTE, minutes), _part(_HOUR, hours)]
        return ("at " if not parts[0].startswith("every") else "") + " of ".join(parts)

    def _days_in_words(self) -> str:
        weekdays = f"every {_enumerate(_ranges(self.weekday.values, _WEEKDAYS))}"
        days = f"on {_several('day', self.day.values)}"
        every_day, every_weekday = self.day.values == _DAY.every, self.weekday.values == _WEEKDAY.every
        months = _enumerate(_ranges(self.month.values, ["", *_MONTHS]))
        of_months = "of every month" if self.month.values == _MONTH.every else f"of {months}"
        in_months = "" if self.month.values == _MONTH.every else f" in {months}"
        either = not (self.day.starred or self.weekday.starred)
        if (every_day and every_weekday) or (either and (every_day or every_weekday)):
            return f"every day{in_months}"
        if every_day:
            return f"{weekdays}{in_months}"
        if every_weekday:
            return f"{days} {of_months}"
        return f"{days} {of_months} {'and' if either else 'if that is'} {weekdays}".replace("is every", "is")


def parse_cron(text: str) -> Cron:
    """Parses a cron expression.

    Args:
        text: five fields (minute, hour, day of month, month, weekday), KFP's six (second first), or a
            shorthand such as `@daily`.

    Raises:
        InputError: the expression is invalid or never fires.
    """
    stripped = " ".join(text.split())
    parts = _SHORTHANDS.get(stripped.lower(), stripped).split()
    if len(parts) == 5:
        parts = ["0", *parts]
    if len(parts) != 6:
        raise InputError(
            f"--cron {text!r}: expected five fields (minute hour day month weekday), such as '30 2 * * 1', or "
            f"KFP's six (second first), such as '0 30 2 * * 1'; got {len(parts)}. "
            f"Shorthands: {', '.join(_SHORTHANDS)}."
        )
    cron = Cron(*(_field(part, kind, text) for part, kind in zip(parts, _KINDS, strict=True)))
    if next(cron.ticks(datetime.now(UTC), UTC), None) is None:
        raise InputError(f"--cron {text!r} never fires: there is no such day ({cron.words()})")
    return cron


def time_zone(name: str, option: str = "--timezone") -> ZoneInfo:
    """Returns the time zone with a name such as `Europe/Berlin`.

    Raises:
        InputError: there is no time zone with this name.
    """
    known = available_timezones()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1) or ["Europe/Berlin"]
        raise InputError(f"{option} {name!r} is not a time zone; expected a name such as {close[0]}")
    return ZoneInfo(name)


def in_cluster_zone(cron: Cron, zone: ZoneInfo, cluster_zone: ZoneInfo) -> Cron:
    """Returns the schedule that ticks in the cluster's zone at the same times as `cron` in `zone`.

    Raises:
        InputError: no single cron expression can express this.
    """
    remedy = (
        f"Kubeflow reads all schedules in the cluster's time zone, {cluster_zone}. Specify --cron in that zone, or "
        f"set cronScheduleTimezone of Kubeflow Pipelines to {zone} (the variable CRON_SCHEDULE_TIMEZONE of its "
        f"deployment ml-pipeline-scheduledworkflow) and pass --cluster-timezone {zone}"
    )
    if zone.key == cluster_zone.key:
        return cron
    shifts = {_offset(cluster_zone, day) - _offset(zone, day) for day in _days_ahead()}
    if len(shifts) > 1:
        raise InputError(f"--timezone {zone}: its offset from {cluster_zone} changes during the year. {remedy}")
    shift = shifts.pop()
    if shift == timedelta(0):
        return cron
    shifted = _shifted(cron, int(shift.total_seconds()) // 60)
    if shifted is None:
        raise InputError(f"--cron '{cron}' in {zone} is not a single cron expression in {cluster_zone}. {remedy}")
    return shifted


def _shifted(cron: Cron, minutes: int) -> Cron | None:
    """Returns the schedule shifted by some minutes, or None if no cron expression can express it."""
    moved = {divmod(60 * h + m + minutes, 24 * 60) for h in cron.hour.values for m in cron.minute.values}
    hours, past = sorted({at // 60 for _, at in moved}), sorted({at % 60 for _, at in moved})
    days = {day for day, _ in moved}
    any_day = cron.day.values == _DAY.every and cron.month.values == _MONTH.every
    on_every_day = any_day and cron.weekday.values == _WEEKDAY.every
    if len({at for _, at in moved}) != len(hours) * len(past) or not (on_every_day or len(days) == 1):
        return None
    later = days.pop() if len(days) == 1 else 0
    if later and not any_day:
        return None
    weekdays = sorted((weekday + later) % 7 for weekday in cron.weekday.values)
    return dataclasses.replace(
        cron,
        hour=_field_of(hours, _HOUR),
        minute=_field_of(past, _MINUTE),
        weekday=_field_of(weekdays, _WEEKDAY) if later and not on_every_day else cron.weekday,
    )


def _field(text: str, kind: _Kind, expression: str) -> Field:
    values: set[int] = set()
    for part in text.split(","):
        match = _RANGE.fullmatch(part)
        if match is None or (match[1] in ("*", "?") and match[2]):
            raise InputError(
                f"--cron {expression!r}: {part!r} is not a valid {kind.name}; expected a number, a range such as "
                f"{kind.low}-{kind.high}, a step such as */5, a comma-separated list of these, or *"
            )
        low, high, step = kind.low, kind.high, int(match[3] or 1)
        if match[1] not in ("*", "?"):
            low = _number(match[1], kind, expression)
            high = _number(match[2], kind, expression) if match[2] else kind.high if match[3] else low
            if kind is _WEEKDAY and match[2] and high == 0 and low > 0:
                high = 7  # fri-sun
        if low > high or step == 0:
            raise InputError(f"--cron {expression!r}: {part!r} is an empty range of {kind.name}s")
        values.update(value % 7 if kind is _WEEKDAY else value for value in range(low, high + 1, step))
    ordered = tuple(sorted(values))
    # KFP accepts Sunday only as 0; plain cron also as 7.
    text = _field_of(ordered, kind).text if kind is _WEEKDAY and not ("*" in text or "?" in text) else text.lower()
    return Field(text, ordered)


def _number(text: str, kind: _Kind, expression: str) -> int:
    number = kind.names.get(text.lower(), int(text) if text.isascii() and text.isdigit() else -1)
    high = 7 if kind is _WEEKDAY else kind.high
    if not kind.low <= number <= high:
        raise InputError(f"--cron {expression!r}: {text!r} is not a valid {kind.name} ({kind.low} to {high})")
    return number


def _field_of(values: list[int] | tuple[int, ...], kind: _Kind) -> Field:
    every = tuple(values) == kind.every
    return Field("*" if every else ",".join(map(str, values)), tuple(values))


def _exists(moment: datetime) -> bool:
    """Whether a wall time occurs in its zone: a clock change may skip it."""
    actual = moment.astimezone(UTC).astimezone(moment.tzinfo)
    return actual.replace(tzinfo=None, fold=0) == moment.replace(tzinfo=None, fold=0)


def _days_ahead() -> Iterator[datetime]:
    today = datetime.now(UTC)
    return (today + timedelta(days=day) for day in range(365 * _YEARS_AHEAD))


def _offset(zone: tzinfo, moment: datetime) -> timedelta:
    return moment.astimezone(zone).utcoffset() or timedelta(0)


def _enumerate(items: list[str]) -> str:
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else items[0]


def _ranges(values: tuple[int, ...], names: list[str]) -> list[str]:
    """Returns the names of values, with three or more consecutive ones as `Monday to Friday`."""
    ranges: list[list[int]] = []
    for value in values:
        if ranges and value == ranges[-1][-1] + 1:
            ranges[-1].append(value)
        else:
            ranges.append([value])
    result: list[str] = []
    for each in ranges:
        result += [f"{names[each[0]]} to {names[each[-1]]}"] if len(each) > 2 else [names[value] for value in each]
    return result


def _several(name: str, values: tuple[int, ...]) -> str:
    numbers = _ranges(values, [str(number) for number in range(60)])
    return f"{name}{'s' if len(values) > 1 else ''} {_enumerate(numbers)}"


def _part(kind: _Kind, values: tuple[int, ...]) -> str:
    return f"every {kind.name}" if values == kind.every else _several(kind.name, values)
