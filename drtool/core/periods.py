"""What the hours, days, weeks, months and years are called that a moment lies in, where it is told in its own zone."""

from __future__ import annotations

from datetime import datetime, timedelta


def hour(moment: datetime) -> str:
    # With the offset: when clocks are set back, an hour comes twice, and is two.
    offset = moment.utcoffset() or timedelta(0)
    sign, minutes = ("-", -offset) if offset < timedelta(0) else ("+", offset)
    hours, rest = divmod(minutes // timedelta(minutes=1), 60)
    return f"hour {_date(moment)} {moment.hour:02d}h{sign}{hours:02d}{rest:02d}"


def day(moment: datetime) -> str:
    return f"day {_date(moment)}"


def week(moment: datetime) -> str:
    year, week, _ = moment.isocalendar()
    return f"week {year}-W{week:02d}"


def month(moment: datetime) -> str:
    return f"month {moment.year:04d}-{moment.month:02d}"


def year(moment: datetime) -> str:
    return f"year {moment.year:04d}"


def _date(moment: datetime) -> str:
    return f"{moment.year:04d}-{moment.month:02d}-{moment.day:02d}"
