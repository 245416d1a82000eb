//! Random calls, on a clock that also goes back, against a naive twin.

use proptest::prelude::*;

use super::*;
use std::collections::BTreeMap;

fn drift() -> Drift {
    Drift::from_ppm(10_000).unwrap()
}

fn id(n: u128) -> LeaseId {
    LeaseId::from_bits(n)
}

/// What [`Deadlines`] means, without its economies: every deadline moved by hand.
#[derive(Default)]
struct Twin {
    /// Deadline, span, token, state: 0 renewable, 1 final, 2 being expired.
    leases: BTreeMap<LeaseId, (u64, u64, Option<Token>, u8)>,
    largest: u64,
    last_wake: u64,
    frozen_since: Option<u64>,
}

impl Twin {
    fn see(&mut self, now: u64) -> u64 {
        self.largest = self.largest.max(now);
        self.largest
    }

    fn extend(&mut self, by: u64) {
        self.leases.values_mut().for_each(|lease| lease.0 += by);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Began(u128, Option<u64>, u64),
    Ended(u128),
    Renew(u128, u64),
    Revoked(u128),
    Wake { late_ms: u64, most: usize },
    Freeze,
    Thaw,
    Failed,
    Pass(u64),
    Back(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let id = 0..6u128;
    prop_oneof![
        3 => (id.clone(), prop::option::of(1..9u64), 1..30u64).prop_map(|(n, t, ttl)| Step::Began(n, t, ttl * 100)),
        1 => id.clone().prop_map(Step::Ended),
        4 => (id.clone(), 0..300u64).prop_map(|(n, ago)| Step::Renew(n, ago)),
        1 => id.prop_map(Step::Revoked),
        6 => (prop_oneof![4 => Just(0u64), 1 => 1..49u64, 1 => 51..3_000u64], 1..4usize)
            .prop_map(|(late_ms, most)| Step::Wake { late_ms, most }),
        1 => Just(Step::Freeze),
        1 => Just(Step::Thaw),
        2 => Just(Step::Failed),
        4 => (1..1_500u64).prop_map(Step::Pass),
        1 => (1..3_000u64).prop_map(Step::Back),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 2_000 } else { 20_000 }))]

    #[test]
    fn it_does_what_its_naive_twin_does(steps in prop::collection::vec(step(), 1..80)) {
        const MS: u64 = 1_000_000;
        let mut now = 1_000_000 * MS;
        let moment = Moment::from_nanos;
        let mut real = Deadlines::new(1, drift(), moment(now), []);
        let mut twin = Twin { largest: now, last_wake: now, ..Twin::default() };
        let mut handed_out: Vec<LeaseId> = Vec::new();
        for step in steps {
            match step {
                Step::Pass(ms) => now += ms * MS,
                Step::Back(ms) => now = now.saturating_sub(ms * MS),
                Step::Began(n, t, ttl_ms) => {
                    let t = t.map(Token::new);
                    real.began(id(n), t, Duration::from_millis(ttl_ms), moment(now));
                    if twin.leases.is_empty() {
                        twin.last_wake = now;
                    }
                    if twin.leases.get(&id(n)).is_none_or(|lease| t > lease.2) {
                        let span = ttl_ms * MS / 100 * 101;
                        let from = twin.see(now);
                        twin.leases.insert(id(n), (from + span, span, t, 0));
                    }
                }
                Step::Ended(n) => {
                    real.ended(&id(n));
                    twin.leases.remove(&id(n));
                }
                Step::Renew(n, ago_ms) => {
                    let arrived = now.saturating_sub(ago_ms * MS);
                    let answer = real.renew(&id(n), moment(arrived));
                    let from = twin.see(arrived);
                    let expected = match twin.leases.get_mut(&id(n)) {
                        Some(lease) if lease.3 == 0 => {
                            lease.0 = lease.0.max(from + lease.1);
                            Renewal::Extended
                        }
                        _ => Renewal::Gone,
                    };
                    prop_assert_eq!(answer, expected);
                }
                Step::Revoked(n) => {
                    real.revoked(&id(n));
                    if let Some(lease) = twin.leases.get_mut(&id(n)).filter(|lease| lease.3 == 0) {
                        lease.3 = 1;
                    }
                }
                Step::Wake { late_ms, most } => {
                    let Some(asked) = real.next_wake() else { continue };
                    let first = twin.leases.values().filter(|lease| lease.3 != 2).map(|lease| lease.0).min();
                    let heartbeat = twin.last_wake + 250 * MS;
                    let expected = first.filter(|_| twin.frozen_since.is_none()).unwrap_or(heartbeat).min(heartbeat);
                    prop_assert_eq!(asked, moment(expected));
                    now = now.max(expected) + late_ms * MS;
                    let wake = real.woke(asked, moment(now));
                    let behind = twin.see(now) - now;
                    let until = twin.frozen_since.map_or(now, |since| since.min(now));
                    let delay = until.saturating_sub(expected.max(twin.last_wake));
                    twin.last_wake = now;
                    if delay > 50 * MS {
                        twin.extend(delay);
                        prop_assert_eq!(wake, Wake::Stalled(Duration::from_nanos(delay)));
                    } else if behind > 50 * MS {
                        prop_assert_eq!(wake, Wake::ClockBack(Duration::from_nanos(behind)));
                    } else {
                        prop_assert_eq!(wake, Wake::Punctual);
                    }
                    let due = real.due(moment(now), most);
                    let mut expected: Vec<_> =
                        twin.leases.iter().filter(|(_, l)| l.3 != 2 && l.0 <= now).map(|(id, l)| (l.0, *id, l.2)).collect();
                    expected.sort_unstable();
                    expected.truncate(if twin.frozen_since.is_some() { 0 } else { most });
                    for (_, id, _) in &expected {
                        if let Some(lease) = twin.leases.get_mut(id) {
                            lease.3 = 2;
                        }
                    }
                    let expected: Vec<_> = expected.into_iter().map(|(_, id, token)| (id, token)).collect();
                    prop_assert_eq!(&due, &expected);
                    handed_out.extend(due.into_iter().map(|(id, _)| id));
                }
                Step::Freeze => {
                    real.freeze(moment(now));
                    let since = twin.see(now);
                    twin.frozen_since.get_or_insert(since);
                }
                Step::Thaw => {
                    real.thaw(moment(now));
                    let until = twin.see(now);
                    if let Some(since) = twin.frozen_since.take() {
                        twin.extend(until - since);
                        twin.last_wake = now;
                    }
                }
                Step::Failed => {
                    let failed = std::mem::take(&mut handed_out);
                    real.proposal_failed(&failed, moment(now));
                    let from = twin.see(now);
                    for id in failed {
                        if let Some(lease) = twin.leases.get_mut(&id).filter(|lease| lease.3 == 2) {
                            *lease = (lease.0.max(from + 50 * MS), lease.1, lease.2, 1);
                        }
                    }
                }
            }
            prop_assert_eq!(real.len(), twin.leases.len());
            for (id, lease) in &twin.leases {
                prop_assert_eq!(real.deadline(id), Some(moment(lease.0)));
            }
            let queued = twin.leases.values().filter(|lease| lease.3 != 2).count();
            prop_assert_eq!(real.queue.len(), queued);
        }
    }
}
