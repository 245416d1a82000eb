//! Rule L2, and what rests on it: fencing.

use std::{collections::BTreeMap, time::Duration};

use super::Violation;
use crate::{
    change::ChangeKind,
    chaos::history::{Answered, History},
    token::Token,
};

/// Tokens increase in the order of the log, over all names, and in the order in which clients got them.
#[must_use]
pub fn l2(history: &History) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut last: Option<Token> = None;
    for (index, at, changed) in history.changes() {
        let ChangeKind::Granted { name, token, .. } = &changed.change.kind else { continue };
        if let Some(before) = last.filter(|before| before >= token) {
            let text = format!("entry {index} grants {name} with token {token}, an earlier one was {before}");
            found.push(Violation::new("L2", at, text));
        }
        last = last.max(Some(*token));
    }
    // Whoever asks after another was answered has the larger token.
    let granted = history.calls.iter().filter_map(|call| match call.answer {
        Answered::Granted(_, token) => Some((call.began, call.ended?, token)),
        _ => None,
    });
    let granted: Vec<(Duration, Duration, Token)> = granted.collect();
    for (began, ended, token) in &granted {
        if let Some(before) = granted.iter().filter(|other| other.1 < *began).map(|other| other.2).max()
            && before >= *token
        {
            let text = format!("a client got token {token}; when it asked another had {before} already");
            found.push(Violation::new("L2", *ended, text));
        }
    }
    found
}

/// What a protected resource let in has tokens that never go down, and it refuses nobody else.
#[must_use]
pub fn fence(history: &History) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut largest = BTreeMap::new();
    for write in &history.writes {
        let mark = largest.entry(&write.name).or_insert(write.token);
        if write.admitted != (write.token >= *mark) {
            let text = format!(
                "{} {} token {}, the largest before is {mark}",
                write.name,
                if write.admitted { "let in" } else { "refused" },
                write.token
            );
            found.push(Violation::new("fence", write.at, text));
        }
        *mark = (*mark).max(write.token);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::{
        check::example::{S, call, example, granted, id, token},
        history::{Asked, Write},
    };
    use crate::{mode::Mode, name::Name};

    #[test]
    fn a_token_that_is_not_larger_is_found() {
        let mut history = example();
        assert_eq!(l2(&history), []);
        granted(&mut history, 20, 60 * S, "b", 2);
        assert_eq!(l2(&history).len(), 1, "the same token for another name");
        let mut history = example();
        let acquire = Asked::Acquire { mode: Mode::Exclusive, waits: true };
        let got = |began, ended, bits| {
            call(acquire.clone(), began, ended, Answered::Granted(id(bits), token(bits)))
        };
        history.calls = vec![got(S, 3 * S, 8), got(2 * S, 4 * S, 7)];
        assert_eq!(l2(&history), [], "they overlap");
        history.calls[1].began = 3 * S + Duration::from_nanos(1);
        assert_eq!(l2(&history).len(), 1);
    }

    #[test]
    fn a_resource_that_lets_an_old_token_in_is_found() {
        let mut history = example();
        let write = |bits, admitted| Write {
            at: S,
            agent: 0,
            name: Name::new("a").unwrap(),
            token: token(bits),
            admitted,
        };
        history.writes = vec![write(1, true), write(2, true), write(1, false), write(2, true)];
        assert_eq!(fence(&history), []);
        history.writes.push(write(1, true));
        assert_eq!(fence(&history).len(), 1);
        history.writes.push(write(3, false));
        assert_eq!(fence(&history).len(), 2);
    }
}
