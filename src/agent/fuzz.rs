//! Everything that agents and clients say to each other: the target `messages` of the fuzzer (feature `test-support`).

use super::founding::{Plan, Question, Reply};
use crate::{
    change::{ChangeKind, Changes, Filter},
    fuzz::{Choices, withstands},
    message::{Asking, Request, Response},
    raft,
    table::{Entry, Outcome},
};

/// One for each form that isn't openraft's. What stands inside of another one is looked at there.
const FORMS: &[fn(&[u8])] = &[
    withstands::<Asking>,
    withstands::<Request>,
    withstands::<Response>,
    withstands::<Question>,
    withstands::<Reply>,
    withstands::<Plan>,
    withstands::<Entry>,
    withstands::<Outcome>,
    withstands::<Filter>,
    withstands::<Changes>,
    withstands::<ChangeKind>,
];

/// Whatever stands in a message, it is read to what is written so again, or refused.
pub(crate) fn messages(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let form = choices.below(FORMS.len() + raft::fuzz::FORMS.len());
    if let Some(judge) = FORMS.iter().chain(raft::fuzz::FORMS).nth(form) {
        judge(choices.rest());
    }
}
