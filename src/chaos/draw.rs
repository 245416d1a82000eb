//! Draws a swarm's schedule from its seed.

use std::time::Duration;

use super::{
    kernel::{Chance, Stream},
    swarm::{BOUND_PPM, Episode, NOTICED, SPARES, Trouble, Whom},
    world::{DiskFault, PointEffect, PointFaults, Weather},
};
use crate::fault_point::Point;

/// A kind of trouble that a seed has or has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Crash,
    PowerLoss,
    PowerLossOfAll,
    ShutDown,
    Pause,
    Suspend,
    Isolate,
    OneWay,
    Split,
    Shapes,
    Flap,
    Weather,
    ClockRate,
    ClockBack,
    WallClock,
    SlowDisk,
    BadDisk,
    Lie,
}

const KINDS: [Kind; 18] = [
    Kind::Crash,
    Kind::PowerLoss,
    Kind::PowerLossOfAll,
    Kind::ShutDown,
    Kind::Pause,
    Kind::Suspend,
    Kind::Isolate,
    Kind::OneWay,
    Kind::Split,
    Kind::Shapes,
    Kind::Flap,
    Kind::Weather,
    Kind::ClockRate,
    Kind::ClockBack,
    Kind::WallClock,
    Kind::SlowDisk,
    Kind::BadDisk,
    Kind::Lie,
];

/// An episode lasts between these, all orders of magnitude alike.
const LASTS_MS: (u64, u64) = (20, 20_000);

/// What comes of each kind.
pub(super) fn draw(seed: u64, agents: usize, span: Duration, beyond: bool) -> Vec<Episode> {
    let mut chance = Stream::of(seed, Chance::Swarm);
    let share = 1 + chance.below(5);
    let mut kinds: Vec<Kind> = KINDS.into_iter().filter(|_| chance.below(8) < share).collect();
    let loses = |kind: &Kind| matches!(kind, Kind::PowerLoss | Kind::PowerLossOfAll | Kind::BadDisk);
    if kinds.iter().any(loses) {
        kinds.retain(|kind| *kind != Kind::Lie);
    }
    if kinds.is_empty() {
        kinds.push(KINDS[chance.below(15) as usize]);
    }
    let gap_ms = chance.between(300, 6_000);
    let mut at = Duration::ZERO;
    let mut episodes = Vec::new();
    if beyond || kinds.contains(&Kind::ClockRate) {
        // Clocks are wrong from the beginning: that is when it matters most.
        for agent in 0..agents {
            let trouble = Trouble::ClockRate(Whom::Agent(agent), rate(&mut chance, beyond));
            episodes.push(Episode::new(Duration::ZERO, span, trouble));
        }
        kinds.retain(|kind| *kind != Kind::ClockRate);
    }
    loop {
        at += Duration::from_millis(chance.between(1, 2 * gap_ms));
        if at >= span {
            return episodes;
        }
        let lasts = Duration::from_millis(lasts_ms(&mut chance)).min(span - at);
        if beyond && chance.below(4) == 0 {
            let by = Duration::from_millis(lasts_ms(&mut chance));
            episodes.push(Episode::new(at, lasts, Trouble::ClockForth(whom(&mut chance, agents), by)));
        }
        // Where clocks alone are wrong nothing else happens.
        if let Some(kind) = kinds.get(chance.below(kinds.len() as u64) as usize) {
            episodes.push(Episode::new(at, lasts, trouble(&mut chance, *kind, agents)));
        }
    }
}

/// What goes wrong at fault points, one span after the other; `power`: whether it may go.
pub(super) fn draw_points(seed: u64, span: Duration, power: bool) -> Vec<Episode> {
    let mut chance = Stream::of(seed, Chance::PointSwarm);
    let mut episodes = Vec::new();
    if chance.below(3) != 0 {
        return episodes;
    }
    // Its agents are founded before anything goes wrong.
    let points: Vec<Point> = Point::ALL.into_iter().filter(|point| !point.is_of_founding()).collect();
    let mut at = Duration::ZERO;
    loop {
        at += Duration::from_millis(chance.between(1, 6_000));
        if at >= span {
            return episodes;
        }
        let lasts = Duration::from_millis(chance.between(1_000, 15_000)).min(span - at);
        let effect = match chance.below(5) {
            0 => PointEffect::Stall(Duration::from_millis(1 << chance.below(12))),
            1 | 2 if power => PointEffect::PowerLoss,
            _ => PointEffect::Crash,
        };
        // At one point nearly each time, which finds the rare ones, or anywhere, seldom.
        let (at_one, one_in) = match chance.below(2) {
            0 => {
                let point = chance.below(points.len() as u64) as usize;
                (points.get(point).copied(), 1 << chance.below(6))
            }
            _ => (None, 100 << chance.below(8)),
        };
        let most = 1 + chance.below(6) as u32;
        let faults = PointFaults { at: at_one, one_in, most, effect };
        episodes.push(Episode::new(at, lasts, Trouble::FaultPoints(faults)));
        at += lasts;
    }
}

fn lasts_ms(chance: &mut Stream) -> u64 {
    // So that a pause of 50 ms is as likely as one of 5 s.
    let (least, most) = LASTS_MS;
    let doublings = u64::from((most / least).ilog2());
    let from = least << chance.below(doublings + 1);
    chance.between(from, (from * 2).min(most))
}

fn whom(chance: &mut Stream, agents: usize) -> Whom {
    match chance.below(8) {
        0..3 => Whom::Leader,
        3..5 => Whom::Holder,
        _ => Whom::Agent(chance.below(agents as u64) as usize),
    }
}

fn rate(chance: &mut Stream, beyond: bool) -> i64 {
    let most = if beyond { 30 * BOUND_PPM } else { BOUND_PPM };
    match chance.below(3) {
        // The worst that may be.
        0 => -most,
        1 => most,
        _ => chance.between(0, 2 * most.unsigned_abs()) as i64 - most,
    }
}

fn weather(chance: &mut Stream) -> Weather {
    let ms = |least, most| (Duration::from_millis(least), Duration::from_millis(most));
    let share = |chance: &mut Stream, most: u64| chance.below(most + 1) as f64 / 1_000.0;
    let slow = [5, 30, 120, 400][chance.below(4) as usize];
    Weather {
        delay: (Duration::from_micros(50), Duration::from_millis(chance.between(1, 1 + slow / 4))),
        slow: share(chance, 100),
        slow_delay: ms(1, slow * 5),
        loss: share(chance, 150),
        duplication: share(chance, 150),
        overtaking: share(chance, 200),
    }
}

fn trouble(chance: &mut Stream, kind: Kind, agents: usize) -> Trouble {
    let whom = whom(chance, agents);
    match kind {
        Kind::Crash => Trouble::Crash(whom),
        Kind::PowerLoss => Trouble::PowerLoss(whom),
        Kind::PowerLossOfAll => Trouble::PowerLossOfAll,
        Kind::ShutDown => Trouble::ShutDown(whom),
        Kind::Pause => Trouble::Pause(whom),
        Kind::Suspend => Trouble::Suspend(whom),
        Kind::Isolate => Trouble::Isolate(whom),
        Kind::OneWay if chance.below(2) == 0 => Trouble::Deafen(whom),
        Kind::OneWay => Trouble::Mute(whom),
        Kind::Split => {
            let side = 1 + chance.below((agents as u64).saturating_sub(1).max(1)) as usize;
            let first = chance.below(agents as u64) as usize;
            Trouble::Split((0..side).map(|at| (first + at) % agents).collect())
        }
        Kind::Shapes if chance.below(2) == 0 => Trouble::Ring,
        Kind::Shapes => Trouble::Bridge(chance.below(agents as u64) as usize),
        Kind::Flap => Trouble::Flap(whom, Duration::from_millis(chance.between(50, 1_500))),
        Kind::Weather if chance.below(2) == 0 => Trouble::Weather(weather(chance)),
        Kind::Weather => Trouble::WeatherAround(whom, weather(chance)),
        Kind::ClockRate => Trouble::ClockRate(whom, rate(chance, false)),
        Kind::ClockBack if chance.below(2) == 0 => {
            Trouble::ClockBack(whom, NOTICED + Duration::from_millis(lasts_ms(chance)))
        }
        Kind::ClockBack => Trouble::ClockBack(whom, Duration::from_millis(lasts_ms(chance))),
        Kind::WallClock => Trouble::WallClock(whom, chance.between(0, 20_000_000) as i64 - 10_000_000),
        Kind::SlowDisk if chance.below(2) == 0 => {
            Trouble::Disk(whom, DiskFault::Stall(Duration::from_millis(lasts_ms(chance))))
        }
        Kind::SlowDisk => Trouble::Disk(whom, DiskFault::Slow(chance.between(5, 200) as u32)),
        Kind::BadDisk => {
            let fault = match chance.below(3) {
                0 => DiskFault::Full(true),
                1 => DiskFault::Fail(0.001 * chance.between(1, 200) as f64),
                _ => DiskFault::Flip(0.001 * chance.between(1, 500) as f64),
            };
            Trouble::Disk(whom, fault)
        }
        Kind::Lie => Trouble::Disk(whom, DiskFault::Lie(true)),
    }
}

/// Which members come and go, for a cluster of so many founders.
pub(super) fn draw_members(seed: u64, founders: usize, span: Duration) -> Vec<Episode> {
    let mut chance = Stream::of(seed, Chance::MemberSwarm);
    let mut episodes = Vec::new();
    if chance.below(4) == 0 {
        return episodes;
    }
    let agents = founders + SPARES;
    let span_ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    for spare in founders..agents {
        let at = Duration::from_millis(chance.below(span_ms / 2));
        let observer = chance.below(4) == 0;
        if chance.below(5) > 0 {
            episodes.push(Episode::new(at, Duration::ZERO, Trouble::Join(spare, observer)));
        }
    }
    let gap_ms = chance.between(2_000, 12_000);
    let leaves = chance.below(5);
    let mut at = Duration::ZERO;
    loop {
        at += Duration::from_millis(chance.between(1, 2 * gap_ms));
        if at >= span {
            break;
        }
        let lasts = Duration::from_millis(lasts_ms(&mut chance)).min(span - at);
        let whom = match chance.below(8) {
            0..2 => Whom::Leader,
            2..4 => Whom::Holder,
            _ => Whom::Agent(chance.below(agents as u64) as usize),
        };
        let joins = chance.below(2) == 0;
        let trouble =
            if chance.below(4) < leaves { Trouble::Leave(whom) } else { Trouble::LoseDisk(whom, joins) };
        episodes.push(Episode::new(at, lasts, trouble));
    }
    episodes.sort_by_key(|episode| episode.from);
    episodes
}
