"""What jobs are dealt out to: accelerators one by one, and places on the CPU."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Place:
    """Where a job runs: the CUDA devices it has, or None and `width` places on the CPU."""

    devices: tuple[int, ...] | None
    width: int


@dataclass(slots=True)
class Slots:
    """Places for at most `workers` jobs at a time; no device has two jobs. A job wider than all there is has all."""

    workers: int
    num_devices: int
    _free: list[int] = field(init=False)
    _taken: list[Place] = field(init=False, default_factory=list[Place])

    def __post_init__(self) -> None:
        self._free = list(range(self.num_devices))

    @property
    def has_room(self) -> bool:
        """Whether one job more may run, if it is not too wide."""
        return len(self._taken) < self.workers

    def take(self, wants: int, on_cpu: bool) -> Place | None:
        """A place for a job of `wants` processes; None while there is none."""
        if not self.has_room:
            return None
        if on_cpu or not self.num_devices:
            width = min(wants, self.workers)
            used = sum(place.width for place in self._taken if place.devices is None)
            place = Place(None, width) if used + width <= self.workers else None
        else:
            count = min(wants, self.num_devices)
            place = Place(tuple(self._free[:count]), count) if len(self._free) >= count else None
            self._free = self._free[count:] if place else self._free
        if place is not None:
            self._taken.append(place)
        return place

    def give_back(self, place: Place) -> None:
        """Make room for the next job."""
        self._taken.remove(place)
        self._free = sorted([*self._free, *(place.devices or ())])
