//! Shrinking: of the episodes of a schedule with which a seed fails, those that it takes.
//!
//! Delta debugging: larger and smaller parts of the schedule are left out, and what is left out for good is what the seed
//! fails without. Everything else of the run follows from the seed as before, so that each attempt is a run that can be
//! replayed by itself; until the first episode that is left out begins, it is the same run to the bit. So what comes after the
//! failure is never needed. What is left is minimal in this sense: without any one of its episodes the seed fails no more, or in
//! another way.

use super::trial::Failure;

/// The smallest set of episodes that was found, by their numbers, with which the seed still fails by the same rule;
/// `again` runs it with the episodes that it is given alone ([`Faults::only`](super::Faults::only)).
pub fn shrink(failure: &Failure, mut again: impl FnMut(&[usize]) -> Result<(), Box<Failure>>) -> Vec<usize> {
    let rule = failure.violations.first().map(|violation| violation.rule);
    let mut fails = |episodes: &[usize]| match again(episodes) {
        Ok(()) => false,
        Err(failure) => failure.violations.iter().any(|violation| Some(violation.rule) == rule),
    };
    let mut kept: Vec<usize> = failure.schedule.iter().map(|(number, _)| *number).collect();
    if fails(&[]) {
        return Vec::new();
    }
    let mut size = kept.len().div_ceil(2);
    while size > 0 && !kept.is_empty() {
        let mut at = 0;
        let before = kept.len();
        while at < kept.len() {
            let end = (at + size).min(kept.len());
            let rest: Vec<usize> = kept
                .iter()
                .enumerate()
                .filter(|(place, _)| !(at..end).contains(place))
                .map(|(_, number)| *number)
                .collect();
            if fails(&rest) {
                kept = rest;
            } else {
                at = end;
            }
        }
        if size > 1 {
            size = size.div_ceil(2).min(size - 1);
        } else if kept.len() == before {
            break;
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::chaos::{Episode, Trace, Trouble, Violation};

    fn failure(episodes: usize, rule: &'static str) -> Box<Failure> {
        let episode = Episode::new(Duration::ZERO, Duration::ZERO, Trouble::Ring);
        Box::new(Failure {
            seed: 1,
            violations: vec![Violation::new(rule, Duration::ZERO, "")],
            history: Box::default(),
            trace: Trace::default(),
            schedule: (0..episodes).map(|number| (number, episode.clone())).collect(),
        })
    }

    #[test]
    fn what_is_not_needed_is_left_out() {
        let mut runs = 0;
        let found = shrink(&failure(64, "L1"), |episodes| {
            runs += 1;
            let needed = [3, 17, 40].iter().all(|needed| episodes.contains(needed));
            if needed { Err(failure(0, "L1")) } else { Ok(()) }
        });
        assert_eq!(found, [3, 17, 40]);
        assert!(runs < 100, "{runs}");
    }

    #[test]
    fn another_failure_is_not_taken_for_the_same() {
        let found = shrink(&failure(4, "L1"), |episodes| {
            Err(failure(0, if episodes.len() > 3 { "L1" } else { "L2" }))
        });
        assert_eq!(found, [0, 1, 2, 3]);
        let found = shrink(&failure(4, "L1"), |_| Err(failure(0, "L1")));
        assert!(found.is_empty(), "it takes no fault at all");
    }
}
