"""Whole simulations: each reader gets the whole file, and the figures are those of a rule that works."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from mcfs.protocol.ids import Node
from mcfs.simulate.figures import figures
from mcfs.simulate.scenario import Scenario, Slow, Unplugged
from mcfs.simulate.simulation import Simulation, simulate

if TYPE_CHECKING:
    from mcfs.simulate.figures import Figures

MIB = 1 << 20
SMALL = Scenario(size=64 * MIB)


def shown(scenario: Scenario) -> Figures:
    return figures(simulate(scenario))


@pytest.mark.parametrize(
    "scenario",
    [
        SMALL,
        replace(SMALL, loss=0.1),
        replace(SMALL, stagger=0.2, loss=0.02),
        replace(SMALL, size=64 * MIB + 12345, block_size=65536, loss=0.01),
        replace(SMALL, slow=(Slow(1, 2e8),)),
        replace(SMALL, slow=(Slow(1, 2e8, busy=True),), unplugged=(Unplugged(1, 0.2),)),
        replace(SMALL, rate=4e9, link=5e9),
        replace(SMALL, rate=2e9),
        replace(SMALL, readers=1, size=1),
    ],
    ids=lambda scenario: f"{scenario.size}-{scenario.loss}-{scenario.stagger}-{len(scenario.slow)}-{scenario.rate}",
)
def test_each_reader_gets_the_whole_file_and_nothing_comes_from_nowhere(scenario: Scenario) -> None:
    simulation = Simulation(scenario)
    outcome = simulation.run()
    file = simulation.file
    for reader in simulation.network.readers:
        if reader.unplugged:
            continue
        assert reader.application.position == scenario.size
        assert {node.index for node in reader.cache.nodes if node.level == 0} == set(range(file.ref.geometry.counts[0]))
        counters = reader.fetcher.counters
        assert counters.symbols - counters.duplicates >= outcome.source_symbols
        assert counters.symbols <= sum(outcome.sent.values())
    assert outcome.wire_bytes > scenario.size


def test_the_same_seed_gives_the_same_and_another_one_does_not() -> None:
    scenario = replace(SMALL, loss=0.05, stagger=0.1, size=16 * MIB)
    assert simulate(scenario) == simulate(scenario)
    assert simulate(scenario).wire_bytes != simulate(replace(scenario, seed=2)).wire_bytes


def test_readers_leave_everything_in_the_end() -> None:
    simulation = Simulation(replace(SMALL, loss=0.02))
    simulation.run()
    assert simulation.server.scheduler.channels == 0
    assert all(len(reader.host.groups) == 1 for reader in simulation.network.readers), "the share's own channel"


def test_a_lone_reader_costs_what_it_reads_and_fills_the_link() -> None:
    outcome = shown(replace(SMALL, readers=1))
    assert 1.0 <= outcome.symbols <= 1.01
    assert outcome.fast is not None
    least = 64 * MIB * 8 * 1494 / 1424 / 0.95e9
    assert least <= outcome.fast.median <= 1.2 * least
    assert outcome.reports_per_mib <= 0.5


@pytest.mark.parametrize(("readers", "most"), [(4, 1.03), (50, 1.12)])
def test_many_readers_cost_what_one_costs(readers: int, most: float) -> None:
    assert 1.0 <= shown(replace(SMALL, readers=readers)).symbols <= most


@pytest.mark.parametrize(("loss", "most"), [(0.01, 1.06), (0.05, 1.15), (0.2, 1.45)])
def test_loss_costs_a_little_more_than_it_must(loss: float, most: float) -> None:
    outcome = shown(Scenario(loss=loss))
    assert 1 / (1 - loss) <= outcome.symbols <= most
    assert outcome.fast is not None
    assert outcome.fast.finished == 4


def test_readers_that_start_apart_are_served_together() -> None:
    """1.63 of 256 MiB is the least possible with 0.5 s between the starts at 1 Gbit/s; alone each would cost 1."""
    outcome = shown(Scenario(stagger=0.5))
    assert 1.5 <= outcome.symbols <= 1.9
    assert outcome.fast is not None
    assert outcome.fast.most <= 2.0 * 2.4


def test_an_unplugged_reader_does_not_stop_the_others() -> None:
    outcome = shown(Scenario(unplugged=(Unplugged(1, 0.3),)))
    assert outcome.fast is not None
    assert outcome.fast.finished == 3
    assert outcome.fast.most <= 1.4 * 2.5
    assert outcome.symbols <= 1.4


def test_a_slow_reader_in_its_class_leaves_the_others_alone() -> None:
    outcome = shown(Scenario(size=128 * MIB, slow=(Slow(1, 1e8, pace=3),)))
    assert outcome.fast is not None
    assert outcome.slow is not None
    assert outcome.fast.most <= 2.0 * 1.2
    assert outcome.slow.finished == 1
    assert outcome.symbols <= 2.8
    assert set(outcome.classes) >= {0, 3}


def test_random_reads_fetch_what_they_need_and_nothing_else() -> None:
    simulation = Simulation(Scenario(readers=1, size=100 << 30, random_reads=20))
    outcome = simulation.run()
    for reader in simulation.network.readers:
        assert reader.application.reads == 20
        assert 15 <= sum(node.level == 0 for node in reader.cache.nodes) <= 21
    shown = figures(outcome)
    assert shown.fast is not None
    assert 20 * 0.015 <= shown.fast.median <= 20 * 0.1


def test_who_is_unplugged_at_once_gets_nothing() -> None:
    simulation = Simulation(replace(SMALL, readers=2, unplugged=(Unplugged(1, 0.001),)))
    simulation.run()
    assert not [n for n in simulation.network.readers[1].cache.nodes if n == Node(simulation.file.ref, 0, 0)]


def test_a_scenario_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Scenario(readers=0)
    with pytest.raises(ValueError, match="5 readers are slow or unplugged, and there are only 4"):
        Scenario(slow=(Slow(3, 1e8),), unplugged=(Unplugged(2, 1.0),))


@pytest.mark.slow
def test_a_thousand_readers() -> None:
    outcome = shown(Scenario(readers=1000, size=16 * MIB))
    assert outcome.fast is not None
    assert outcome.fast.finished == 1000
    assert outcome.symbols <= 1.25
